"""AdaTT: adaptive task-to-task fusion (Li et al., KDD 2023, arXiv 2304.04959).

Every task, and with shared experts one module more, owns experts that read its own path:

    x_m' = sum over all experts e of  softmax(W_m x_m)_e f_e  +  sum over e in own_m of  v_m,e f_e

The second term, from a task's own experts past the gate, is what sets it apart from PLE. v is
learned and begins uniform in +-sqrt(1 / own experts); where every module owns one expert it is 1.
The last level has no shared path, since nothing would read it. Without shared experts it is the
paper's AdaTT-sp, otherwise its general form.

Differs from the authors' code: gates have no bias.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvrbench.config.model import AdaTTConfig
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


class Fusion(nn.Module):
    """One level. Shape: `[batch, in]` or `[modules, batch, in]` -> `[paths, batch, out]`."""

    reads: Tensor
    is_own: Tensor

    def __init__(
        self, own: Sequence[int], n_in: int, hidden: Sequence[int], *, paths: int, dropout: float
    ) -> None:
        super().__init__()
        self.paths = [*range(paths)]
        """The modules that something above reads, each on a path of its own."""
        self.experts = ParallelMLP(sum(own), n_in, hidden, dropout=dropout)
        self.gates = Gates(paths, n_in, sum(own))
        reads = torch.tensor([module for module, n in enumerate(own) for _ in range(n)])
        self.register_buffer("reads", reads, persistent=False)
        is_own = reads == torch.arange(paths)[:, None]  # [paths, experts]
        self.register_buffer("is_own", is_own.float(), persistent=False)
        bound = torch.tensor([1 / n for n in own])[reads].sqrt()
        learned = any(n != 1 for n in own)
        self.native = nn.Parameter((torch.rand(sum(own)) * 2 - 1) * bound) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Fuse the experts for every path."""
        outputs = self.experts(x if x.dim() == 2 else x[self.reads])
        past_the_gate = self.is_own if self.native is None else self.is_own * self.native
        return mix(self.mixtures(x) + past_the_gate[:, None], outputs)

    def mixtures(self, x: Tensor) -> Tensor:
        """Return the gates' mixtures, `[paths, batch, experts]`."""
        mixtures: Tensor = self.gates(x if x.dim() == 2 else x[self.paths])
        return mixtures


class AdaTT(SharingStrategy):
    """Experts of every task, all of them fused for each, and its own once more."""

    stackable = True

    def __init__(
        self,
        config: AdaTTConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        names = [task.name for task in schema.tasks]
        own = [config.n_specific_experts] * len(names)
        if config.n_shared_experts:
            names, own = [*names, "shared"], [*own, config.n_shared_experts]
        self.modules_of = names
        self.experts = [f"{m}_{e}" for m, n in zip(names, own, strict=True) for e in range(n)]
        n_tasks, width = len(schema.tasks), config.hidden[-1]
        self.encoder = encoder
        self.levels = nn.ModuleList(
            Fusion(
                own,
                encoder.width if level == 0 else width,
                config.hidden,
                paths=len(own) if level < config.levels - 1 else n_tasks,
                dropout=config.dropout,
            )
            for level in range(config.levels)
        )
        self.towers = Towers(n_tasks, width, config.tower, dropout=config.dropout, heads=heads)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        x = encoded = self.encoder(features)  # [batch, width]
        for level in self.levels:
            x = level(x)
        output: Output = self.towers(x)  # x: [tasks, batch, out]
        return output._replace(shared=(encoded,))

    def only(self, task: int) -> "AdaTT":
        """Return a copy without the others' towers and last gates; every expert is read."""
        own = copy.deepcopy(self)
        last = own.levels[-1]
        assert isinstance(last, Fusion)
        last.paths, last.is_own = [task], last.is_own[task : task + 1]
        select_networks(last.gates, [task])
        select_networks(own.towers, [task])
        return own

    def gate_facts(self, features: Features) -> list[GateFacts]:
        """Return what every path's gate does on a batch, at every level."""
        x = self.encoder(features)
        facts: list[GateFacts] = []
        for number, level in enumerate(self.levels):
            assert isinstance(level, Fusion)
            names = [self.modules_of[path] for path in level.paths]
            facts += gate_facts(level.mixtures(x), names, [self.experts] * len(names), level=number)
            x = level(x)
        return facts
