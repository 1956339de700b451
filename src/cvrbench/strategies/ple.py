"""Progressive layered extraction (Tang et al., RecSys 2020); one level of it is CGC.

Experts are shared or owned by a task. At every level, path t (a task) mixes its own and the
shared experts, and the shared path mixes all experts:

    x_t'  = sum over [own_t; shared]         of  softmax(W_t x_t)  * expert output
    x_s'  = sum over [own_1; ...; shared]    of  softmax(W_s x_s)  * expert output

A path's experts and gate read that path's output of the level below. The last level has no
shared gate, since nothing would read it.
"""

import copy
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from cvrbench.config.model import PLEConfig
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


class Extraction(nn.Module):
    """One level: experts of every path and the gates that mix them."""

    def __init__(
        self,
        n_tasks: int,
        n_in: int,
        hidden: Sequence[int],
        *,
        n_shared: int,
        n_specific: int,
        shared_gate: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.n_tasks, self.n_shared, self.n_specific = n_tasks, n_shared, n_specific
        n_experts = n_tasks * n_specific + n_shared
        self.experts = ParallelMLP(n_experts, n_in, hidden, dropout=dropout)
        self.task_gates = Gates(n_tasks, n_in, n_specific + n_shared)
        self.shared_gate = Gates(1, n_in, n_experts) if shared_gate else None
        self.path: int | None = None
        """The only task whose path goes on; None: all tasks' do."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix the experts.

        Args:
            x: `[batch, in]` on the first level, where all paths read the same, otherwise
                `[tasks + 1, batch, in]` with the shared path last.

        Returns:
            `[tasks, batch, out]`, or `[tasks + 1, batch, out]` with a shared gate.
        """
        outputs = self.experts(x if x.dim() == 2 else x[self._reads(x.device)])
        # split, not slices: its gradient is one concatenation
        own, shared = outputs.split([self.n_tasks * self.n_specific, self.n_shared])
        own = own.unflatten(0, (self.n_tasks, self.n_specific))  # [tasks, specific, batch, out]
        own = own if self.path is None else own[self.path : self.path + 1]
        gates, shared_gate = self.mixtures(x)
        own_gates, shared_gates = gates.split([self.n_specific, self.n_shared], dim=2)
        mixed = [mix(own_gates, own)] if self.n_specific else []
        mixed += [mix(shared_gates, shared)] if self.n_shared else []
        paths = mixed[0] if len(mixed) == 1 else mixed[0] + mixed[1]
        return paths if shared_gate is None else torch.cat([paths, mix(shared_gate, outputs)])

    def mixtures(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gates' mixtures.

        Args:
            x: As `forward` reads it.

        Returns:
            `[tasks, batch, specific + shared]`, a task's own experts first; and of the shared
            gate, if there is one, `[1, batch, tasks * specific + shared]`.
        """
        first, after = (0, self.n_tasks) if self.path is None else (self.path, self.path + 1)
        gates = self.task_gates(x if x.dim() == 2 else x[first:after])
        if self.shared_gate is None:
            return gates, None
        return gates, self.shared_gate(x if x.dim() == 2 else x[-1])

    def only(self, task: int) -> None:
        """Leave out the other tasks' gates, and their experts if no shared gate reads them."""
        select_networks(self.task_gates, [task])
        if self.shared_gate is not None:
            self.path = task
            return
        first, n_own = task * self.n_specific, self.n_tasks * self.n_specific
        specific = range(first, first + self.n_specific)
        select_networks(self.experts, [*specific, *range(n_own, n_own + self.n_shared)])
        self.n_tasks = 1

    def _reads(self, device: torch.device) -> Tensor:
        """Which path each expert reads: its task's, or the shared one."""
        tasks = torch.arange(self.n_tasks, device=device).repeat_interleave(self.n_specific)
        return torch.cat([tasks, tasks.new_full((self.n_shared,), self.n_tasks)])


class PLE(SharingStrategy):
    """Shared and task-specific experts in levels."""

    stackable = True

    def __init__(
        self,
        config: PLEConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        self.tasks = [task.name for task in schema.tasks]
        n_tasks = len(self.tasks)
        self.own = [[f"{t}_{e}" for e in range(config.n_specific_experts)] for t in self.tasks]
        self.common = [f"shared_{e}" for e in range(config.n_shared_experts)]
        self.encoder = encoder
        width = config.hidden[-1] if config.hidden else encoder.width
        self.levels = nn.ModuleList(
            Extraction(
                n_tasks,
                encoder.width if level == 0 else width,
                config.hidden,
                n_shared=config.n_shared_experts,
                n_specific=config.n_specific_experts,
                shared_gate=level < config.levels - 1,
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

    def only(self, task: int) -> "PLE":
        """Return a copy without what the task does not read.

        The last level has the task's own and the shared experts. The level below mixes every
        expert for the shared path, but none for other tasks; levels further down stay whole.
        """
        own = copy.deepcopy(self)
        for level in own.levels[-2:]:
            assert isinstance(level, Extraction)
            level.only(task)
        select_networks(own.towers, [task])
        return own

    def gate_facts(self, features: Features) -> list[GateFacts]:
        """Return what the tasks' gates do on a batch at every level, and the shared path's."""
        task_experts = [[*own, *self.common] for own in self.own]
        all_experts = [*chain.from_iterable(self.own), *self.common]
        x = self.encoder(features)
        facts: list[GateFacts] = []
        for number, level in enumerate(self.levels):
            assert isinstance(level, Extraction)
            of_tasks, of_shared = level.mixtures(x)
            facts += gate_facts(of_tasks, self.tasks, task_experts, level=number)
            if of_shared is not None:  # else the last level, whose outputs nobody asked for
                facts += gate_facts(of_shared, ["shared"], [all_experts], level=number)
                x = level(x)
        return facts
