"""Multi-gate mixture of experts (Ma et al., KDD 2018, eqs. 6 and 7), and OMoE with one gate.

    logit_t = h_t( sum_e g_t(x)_e f_e(x) ),    g_t(x) = softmax(W_t x)

The gates are linear maps of the experts' input, without bias and without batch norm.
"""

import copy
from collections.abc import Sequence

from cvrbench.config.model import MMoEConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import (
    FeatureEncoder,
    Gates,
    Output,
    ParallelMLP,
    Towers,
    mix,
    select_networks,
)
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.gates import GateFacts, gate_facts


class MMoE(SharingStrategy):
    """Shared experts, mixed per task; with `gate="common"` by one common gate (OMoE)."""

    stackable = True

    def __init__(
        self,
        config: MMoEConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        names = [task.name for task in schema.tasks]
        self.mixed_for = ["common"] if config.gate == "common" else names
        self.encoder = encoder
        self.experts = ParallelMLP(
            config.n_experts, encoder.width, config.hidden, dropout=config.dropout
        )
        self.gates = Gates(len(self.mixed_for), encoder.width, config.n_experts)
        self.towers = Towers(
            len(names), self.experts.n_out, config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        experts = self.experts(encoded)  # [experts, batch, out]
        read_by_gates = encoded.view_as(encoded)  # a node of its own in the graph
        output: Output = self.towers(mix(self.gates(read_by_gates), experts))
        return output._replace(shared=(experts, read_by_gates))

    def only(self, task: int) -> "MMoE":
        """Return a copy without the other tasks' gates and towers; every expert stays."""
        own = copy.deepcopy(self)
        if len(self.mixed_for) > 1:
            select_networks(own.gates, [task])
        select_networks(own.towers, [task])
        return own

    def gate_facts(self, features: Features) -> list[GateFacts]:
        """Return what each task's gate does on a batch, or the common one."""
        mixtures = self.gates(self.encoder(features))  # [gates, batch, experts]
        names = [f"expert_{e}" for e in range(self.experts.n)]
        return gate_facts(mixtures, self.mixed_for, [names] * len(mixtures))
