"""STEM: shared and task-specific embeddings (Su et al., AAAI 2024, arXiv 2308.13537), one level.

Every task has a table of embeddings of its own, x_t, beside a shared one, x_s. Its experts read
x_t, shared experts x_s, and each task's gate mixes all of them:

    g_t = softmax(W_t MLP_t(x_t + x_s))
    z_t = sum over own and shared experts of g_te f_e  +  sum over others' of g_te stop(f_e)
    logit_t = h_t(z_t)

`stop` lets a task read what another has learnt without teaching it, so that a table of one task
is moved by that task alone. Tables cost T + 1 times the parameters of shared_bottom's: compare with
`single_task` and `shared_embedding` at the embedding_dim that makes these equal.

Differs from the authors' code: gates end without a bias.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from cvrbench.config.model import STEMConfig
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


class STEM(SharingStrategy):
    """A table per task and a shared one; all experts forward, others' not backward."""

    stackable = True
    reads: Tensor
    is_foreign: Tensor

    def __init__(
        self,
        config: STEMConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        self.tasks = [task.name for task in schema.tasks]
        n_tasks = len(self.tasks)
        self.served = [*range(n_tasks)]
        """The tasks whose logits are returned."""
        own = [config.n_specific_experts] * n_tasks + [config.n_shared_experts]
        names = zip([*self.tasks, "shared"], own, strict=True)
        self.expert_names = [f"{name}_{e}" for name, n in names for e in range(n)]
        self.encoder = encoder  # a copy of the table per task, and the shared one last
        self.experts = ParallelMLP(sum(own), encoder.width, config.hidden, dropout=config.dropout)
        self.gate_networks = ParallelMLP(
            n_tasks, encoder.width, config.gate_hidden, dropout=config.dropout
        )
        self.gates = Gates(n_tasks, self.gate_networks.n_out, sum(own))
        reads = torch.tensor([table for table, n in enumerate(own) for _ in range(n)])
        self.register_buffer("reads", reads, persistent=False)
        task = torch.arange(n_tasks)[:, None]
        is_foreign = (reads != task) & (reads != n_tasks)  # [tasks, experts]
        self.register_buffer("is_foreign", is_foreign.float()[:, None], persistent=False)
        self.towers = Towers(
            n_tasks, self.experts.n_out, config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        tables = self.encoder(features)  # [tasks + 1, batch, width]
        own, shared = tables[:-1], tables[-1]
        experts = self.experts(torch.cat([own, shared[None]])[self.reads])
        gates = self._mixtures(own[self.served], shared)  # [tasks, batch, experts]
        foreign = gates * self.is_foreign
        mixed = mix(gates - foreign, experts) + mix(foreign, experts.detach())
        output: Output = self.towers(mixed)
        return output._replace(shared=(shared,))

    def only(self, task: int) -> "STEM":
        """Return a copy without the others' gates and towers; every table and expert is read."""
        own = copy.deepcopy(self)
        own.served, own.is_foreign = [task], own.is_foreign[task : task + 1]
        for part in (own.gate_networks, own.gates, own.towers):
            select_networks(part, [task])
        return own

    def _mixtures(self, own: Tensor, shared: Tensor) -> Tensor:
        mixtures: Tensor = self.gates(self.gate_networks(own + shared))
        return mixtures

    def gate_facts(self, features: Features) -> list[GateFacts]:
        """Return what each task's gate does on a batch."""
        tables = self.encoder(features)
        mixtures = self._mixtures(tables[:-1], tables[-1])
        return gate_facts(mixtures, self.tasks, [self.expert_names] * len(mixtures))
