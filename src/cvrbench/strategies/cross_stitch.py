"""Cross-stitch networks (Misra et al., CVPR 2016): a learned mix of the tasks after every layer.

    f_t^l = ReLU(W_t^l x_t^{l-1} + c_t^l),    x_t^l = sum_s A^l_ts f_s^l,    x_t^0 = e(x)
    logit_t = h_t(x_t)

A^l is a matrix `[tasks, tasks]`, or one per unit. It begins with `own` on its diagonal and the rest
of 1 spread over the other tasks, as in the paper (0.9 and 0.1); with `own=1` and no training of A
it is shared_embedding.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cvrbench.config.model import CrossStitchConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy


class CrossStitch(SharingStrategy):
    """Common embeddings, a network per task, and mixtures of their activations."""

    stackable = True

    def __init__(
        self,
        config: CrossStitchConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n = len(schema.tasks)
        self.encoder = encoder
        self.layers = nn.ModuleList(
            ParallelMLP(n, n_in, (n_out,), dropout=config.dropout)
            for n_in, n_out in pairwise([encoder.width, *config.hidden])
        )
        own = torch.full((n, n), (1 - config.own) / max(1, n - 1)).fill_diagonal_(config.own)
        start = own if n > 1 else torch.ones(1, 1)  # one task has nobody to mix with
        units = [width if config.mix == "unit" else 1 for width in config.hidden]
        self.stitches = nn.ParameterList(
            nn.Parameter(start[:, :, None].repeat(1, 1, k)) for k in units
        )
        self.towers = Towers(
            n, config.hidden[-1], config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        x = encoded = self.encoder(features)  # [batch, width]
        for layer, stitch in zip(self.layers, self.stitches, strict=True):
            apart = layer(x)  # [tasks, batch, out]
            x = (stitch[:, :, None] * apart).sum(dim=1)
        output: Output = self.towers(x)
        return output._replace(shared=(encoded,))

    def only(self, task: int) -> "CrossStitch":
        """Return a copy without the other tasks' towers and last mixtures; every layer is read."""
        own = copy.deepcopy(self)
        own.stitches[-1] = nn.Parameter(self.stitches[-1].detach()[task : task + 1])
        select_networks(own.towers, [task])
        return own

    def diagnostics(self) -> dict[str, object]:
        """Return the mean share of its own activation that each layer gives a task."""
        own = [stitch.detach().diagonal().mean().item() for stitch in self.stitches]
        return {"cross_stitch_own": own}
