"""DSelect-k: a gate of MMoE that selects experts, by gradients (Hazimeh et al., NeurIPS 2021).

Expert e has a number in m = ceil(log2 E) bits. Each of k selectors of a task puts out m numbers,
which a smooth step turns into the share of one expert; softmax weights join the selectors:

    S(v) = 0 below -gamma / 2,  1 above gamma / 2,  -2 (v / gamma)^3 + 3/2 (v / gamma) + 1/2 between
    r_je = product over the bits b of e's number of  S(v_jb) where it is 1, 1 - S(v_jb) where 0
    g_t(x)_e = sum over selectors j of softmax_j(W_t x + c_t) r_je(x),    v = V_t x + d_t
    logit_t = h_t( sum_e g_t(x)_e f_e(x) )

At most k experts keep a weight once all S are 0 or 1. The loss gains `entropy` times the
selectors' entropy and, where E is no power of 2, 1 / sum_e r_je, so that no selector names an
expert that is not there; both are means over rows (the authors' code sums them over the batch, and
has no number where that sum is 0). LibMTL's port learns from the last task's penalty alone.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvrbench.config.model import DSelectKConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import (
    FeatureEncoder,
    Output,
    ParallelMLP,
    Towers,
    mix,
    parallel_linear,
    select_networks,
)
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.gates import GateFacts, gate_facts

TINY = 1e-6
"""Added to a share before its logarithm, as in the authors' code; the least sum of shares."""


class DSelectGates(nn.Module):
    """n gates of k selectors. Shape: `[batch, in]` -> `[n, batch, experts]`, and the penalty."""

    codes: Tensor

    def __init__(self, n: int, n_in: int, config: DSelectKConfig) -> None:
        super().__init__()
        self.k, self.gamma, self.entropy = config.k, config.gamma, config.entropy
        self.n_bits = math.ceil(math.log2(config.n_experts))
        bits = torch.arange(self.n_bits).flip(0)  # the highest first
        codes = (torch.arange(config.n_experts)[:, None] >> bits) & 1
        self.register_buffer("codes", codes.bool(), persistent=False)
        spans = torch.tensor([config.gamma / 100] * self.k * self.n_bits + [0.05] * self.k)
        self.weight = nn.Parameter((torch.rand(n, n_in, len(spans)) * 2 - 1) * spans)
        self.bias = nn.Parameter((torch.rand(n, 1, len(spans)) * 2 - 1) * spans)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixtures and what they add to the loss."""
        numbers = parallel_linear(x, self.weight, self.bias)  # [n, batch, k * (bits + 1)]
        deciding, weights = numbers.split([self.k * self.n_bits, self.k], dim=2)
        v = deciding.unflatten(2, (self.k, 1, self.n_bits)) / self.gamma
        v = v.clamp(-0.5, 0.5)
        step = -2 * v**3 + 1.5 * v + 0.5
        shares = torch.where(self.codes, step, 1 - step).prod(dim=4)  # [n, batch, k, experts]
        penalty = -self.entropy * (shares * (shares + TINY).log()).sum(dim=(0, 2, 3)).mean()
        if len(self.codes) < 2**self.n_bits:
            penalty = penalty + (1 / shares.sum(dim=3).clamp_min(TINY)).sum(dim=(0, 2)).mean()
        return (weights.softmax(dim=2)[..., None] * shares).sum(dim=2), penalty


class DSelectK(SharingStrategy):
    """Shared experts, a few of which are selected per task and row."""

    stackable = True

    def __init__(
        self,
        config: DSelectKConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        self.tasks = [task.name for task in schema.tasks]
        n_tasks = len(self.tasks)
        self.encoder = encoder
        self.experts = ParallelMLP(
            config.n_experts, encoder.width, config.hidden, dropout=config.dropout
        )
        self.gates = DSelectGates(n_tasks, encoder.width, config)
        self.towers = Towers(
            n_tasks, self.experts.n_out, config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`, in training with the gates' penalty."""
        encoded = self.encoder(features)  # [batch, width]
        experts = self.experts(encoded)  # [experts, batch, out]
        read_by_gates = encoded.view_as(encoded)  # a node of its own in the graph
        mixtures, penalty = self.gates(read_by_gates)
        output: Output = self.towers(mix(mixtures, experts))
        penalty = penalty if self.training else None
        return output._replace(shared=(experts, read_by_gates), penalty=penalty)

    def only(self, task: int) -> "DSelectK":
        """Return a copy without the other tasks' gates and towers; every expert stays."""
        own = copy.deepcopy(self)
        own.tasks = [self.tasks[task]]
        select_networks(own.gates, [task])
        select_networks(own.towers, [task])
        return own

    def gate_facts(self, features: Features) -> list[GateFacts]:
        """Return what each task's gate does on a batch."""
        mixtures, _ = self.gates(self.encoder(features))
        names = [f"expert_{e}" for e in range(self.experts.n)]
        return gate_facts(mixtures, self.tasks, [names] * len(mixtures))
