"""AITM: adaptive information transfer along the chain of tasks (Xi et al., KDD 2021).

    x_t = f_t(e(x))                                    a network of its own per task
    u_t = ReLU(W_t z_p + c_t)                          what the parent task p hands on
    a_v = softmax over v in {x_t, u_t} of  <v A_t, v B_t> / sqrt(k)
    z_t = sum_v a_v  v C_t;    z_t = x_t for a task without a parent
    logit_t = h_t(z_t)

and the behavioral expectation calibrator, an auxiliary loss for every task with a parent:

    calibrator * mean over rows of max(p_t - p_p, 0)

with p the joint probabilities, which along a chain can only fall. It acts where the logits are of
joint probabilities, as published (`objective=exposure_space`); with conditional logits the joint
ones are products and the calibrator is 0 by itself.

Differs from the authors' code: dropout is active in training; `tower` may put a network between
z_t and the logit (theirs is empty).
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.config.model import AITMConfig
from cvrbench.data.batches import Batch, Features
from cvrbench.data.schema import Schema
from cvrbench.nn import (
    FeatureEncoder,
    Output,
    ParallelMLP,
    Towers,
    parallel_linear,
    select_networks,
)
from cvrbench.nn.layers import glorot
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy


class AITM(SharingStrategy):
    """Common embeddings, own networks, and a transfer from each task's parent."""

    stackable = True

    def __init__(
        self,
        config: AITMConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n_tasks = len(schema.tasks)
        self.parents = schema.parents
        self.calibrator = config.calibrator
        self.encoder = encoder
        self.networks = ParallelMLP(n_tasks, encoder.width, config.hidden, dropout=config.dropout)
        k = self.networks.n_out
        transfers = [None if p is None else Transfer(k, config.dropout) for p in self.parents]
        self.transfers = nn.ModuleDict(
            {str(task): transfer for task, transfer in enumerate(transfers) if transfer}
        )
        self.towers = Towers(n_tasks, k, config.tower, dropout=config.dropout, heads=heads)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        own = self.networks(encoded)  # [tasks, batch, k]
        z: list[Tensor] = []
        for task, parent in enumerate(self.parents):
            x = own[task]  # a parent stands before its children
            z.append(x if parent is None else self.transfers[str(task)](x, z[parent]))
        # Towers are those of the last tasks, of one alone in a copy for a single task.
        output: Output = self.towers(torch.stack(z[-self.towers.network.n :]))
        return output._replace(shared=(encoded,))

    def only(self, task: int) -> "AITM":
        """Return a copy without the tasks that are no ancestors, and without their towers."""
        chain, ancestor = [task], self.parents[task]
        while ancestor is not None:
            chain, ancestor = [ancestor, *chain], self.parents[ancestor]
        own = copy.deepcopy(self)
        own.parents = [None, *range(len(chain) - 1)]
        handed = {str(k): own.transfers[str(t)] for k, t in enumerate(chain) if k}
        own.transfers = nn.ModuleDict(handed)
        select_networks(own.networks, chain)
        select_networks(own.towers, [task])
        return own

    def auxiliary(self, output: Output, batch: Batch, objective: Objective) -> Tensor | None:
        """Return the calibrator, `[...]`."""
        del batch
        joint = objective.predictions(output).joint  # [..., batch, tasks]
        excess = [
            (joint[..., task] - joint[..., parent]).clamp_min(0).mean(-1)
            for task, parent in enumerate(self.parents)
            if parent is not None
        ]
        if not excess:
            return None
        return (self.calibrator * torch.stack(excess).sum(0)).to(output.logits)


class Transfer(nn.Module):
    """What one task takes of its parent. Shape: `[batch, k]` twice -> `[batch, k]`."""

    def __init__(self, k: int, dropout: float) -> None:
        super().__init__()
        self.information = ParallelMLP(1, k, (k,), dropout=dropout)
        self.query, self.key, self.value = (glorot(1, k, k) for _ in range(3))

    def forward(self, own: Tensor, parent: Tensor) -> Tensor:
        """Attend to the task's own vector and its parent's information."""
        both = torch.stack([own, self.information(parent)[0]], dim=1)  # [batch, 2, k]
        none = both.new_zeros(1, 1, 1)
        flat = both.flatten(0, 1)
        query, key, value = (
            parallel_linear(flat, weight, none)[0].view_as(both)
            for weight in (self.query, self.key, self.value)
        )
        scores = (query * key).sum(dim=2) / math.sqrt(both.shape[2])  # [batch, 2]
        return (F.softmax(scores, dim=1)[:, :, None] * value).sum(dim=1)
