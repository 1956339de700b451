"""ResFlow: residual transfer along the chain of tasks (KDD 2024).

    o_t^l = ReLU(W_t^l o_t^{l-1} + c_t^l) + o_p^l        p: the parent task; without one no sum
    logit_t = w_t o_t + b_t + logit_p

Every layer, the logit included, adds what the parent task has at the same depth, so that a task
learns what is left after its parent. Published for the joint probability of all exposures
(`objective=exposure_space`), of which the second logit is then that of CTCVR.

Differs from the authors' code: ReLU for PReLU, no batch norm, and no weight of 100 or 500 on
positives (`balancing=weighted` weighs tasks, nothing weighs classes: that ruins calibration).
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cvrbench.config.model import ResFlowConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy


class ResFlow(SharingStrategy):
    """Common embeddings, a network per task, each layer on top of the parent task's."""

    stackable = True

    def __init__(
        self,
        config: ResFlowConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n_tasks = len(schema.tasks)
        self.chains = [schema.chain(t) for t in range(n_tasks)]
        self.parents = schema.parents
        self.first = 0
        """The first task whose logit is returned; those before it are ancestors alone."""
        self.encoder = encoder
        widths = [*config.hidden, *config.tower]
        self.layers = nn.ModuleList(
            ParallelMLP(n_tasks, n_in, (n_out,), dropout=config.dropout)
            for n_in, n_out in pairwise([encoder.width, *widths])
        )
        self.heads = Towers(n_tasks, widths[-1], (), dropout=0.0, heads=heads)

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        x = encoded = self.encoder(features)  # [batch, width]
        for layer in self.layers:
            x = self._onto_parents(layer(x), dim=0)  # [tasks, batch, out]
        output: Output = self.heads(x)
        logits = self._onto_parents(output.logits, dim=1)
        return output._replace(logits=logits[:, self.first :], shared=(encoded,))

    def only(self, task: int) -> "ResFlow":
        """Return a copy without the tasks that are no ancestors."""
        own, chain = copy.deepcopy(self), self.chains[task]
        own.parents, own.first = [None, *range(len(chain) - 1)], len(chain) - 1
        select_networks(own.layers, chain)
        select_networks(own.heads, chain)
        return own

    def _onto_parents(self, own: Tensor, dim: int) -> Tensor:
        """Add each task's parent, itself already added to its own parent, along `dim`."""
        found: list[Tensor] = []
        for x, parent in zip(own.unbind(dim), self.parents, strict=True):
            found.append(x if parent is None else x + found[parent])  # a parent comes first
        return torch.stack(found, dim)
