"""Multi-gate mixture of experts (Ma et al., KDD 2018, eqs. 6 and 7), and OMoE with one gate.

    logit_t = h_t( sum_e g_t(x)_e f_e(x) ),    g_t(x) = softmax(W_t x)

The gates are linear maps of the experts' input, without bias and without batch norm.
"""

from collections.abc import Sequence

from torch import Tensor

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Gates, ParallelMLP, Towers, mix
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.gates import GateFacts, gate_facts


class MMoE(SharingStrategy):
    """Shared experts, mixed per task; with `n_gates=1` by one common gate (OMoE)."""

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int,
        n_experts: int,
        n_gates: int,
        hidden: Sequence[int],
        tower: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        names = [task.name for task in schema.tasks]
        self.mixed_for = names if n_gates == len(names) else ["common"]
        self.encoder = FeatureEncoder(schema, embedding_dim)
        self.experts = ParallelMLP(n_experts, self.encoder.width, hidden, dropout=dropout)
        self.gates = Gates(n_gates, self.encoder.width, n_experts)
        self.towers = Towers(len(schema.tasks), self.experts.n_out, tower, dropout=dropout)

    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        mixed = mix(self.gates(encoded), self.experts(encoded))  # [gates, batch, out]
        logits: Tensor = self.towers(mixed)
        return logits

    def gate_facts(self, features: Features) -> list[GateFacts]:
        """Say what each task's gate does on a batch, or the common one."""
        mixtures = self.gates(self.encoder(features))  # [gates, batch, experts]
        names = [f"expert_{e}" for e in range(self.experts.n)]
        return gate_facts(mixtures, self.mixed_for, [names] * len(mixtures))
