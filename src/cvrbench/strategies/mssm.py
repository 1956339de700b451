"""MSSM: which fields and which cells a task uses (Ding et al., SIGIR 2021).

    x_t^0 = [z_t1 e_1; ...; z_tF e_F]                              a gate per task and field
    x_t^l = sum_c  z^l_tc ReLU(W_c^l x_t^{l-1} + b_c^l)            one per task and cell of a layer
    logit_t = h_t(x_t)

The cells are common to all tasks, the routes through them are not. All z are hard concrete
variables (`strategies.snr`), drawn at every step of training; the loss gains `l0` times the
expected number of open ones. Each numeric feature, and each number that an interaction adds, is a
field. All gates begin open in 99 of 100 draws. With open gates and one cell per layer it is
shared_bottom.

Written from the published description; a public port has SNR's gates between cells, learns
their noise, and has none at the fields. Several seeds are trained one by one, since each draws.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cvrbench.config.model import MSSMConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.snr import draw_gates, share_open

OPEN = 3.0
"""Logit with which a gate begins."""


class MSSM(SharingStrategy):
    """Common embeddings and cells, of which every task's gates choose fields and routes."""

    fields: Tensor

    def __init__(
        self,
        config: MSSMConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        self.tasks = [task.name for task in schema.tasks]
        n_tasks, n_embedded = len(self.tasks), len(schema.id_fields)
        self.l0, self.encoder = config.l0, encoder
        fields = torch.arange(n_embedded).repeat_interleave(config.embedding_dim)
        others = torch.arange(n_embedded, n_embedded + encoder.width - len(fields))
        self.register_buffer("fields", torch.cat([fields, others]), persistent=False)
        self.layers = nn.ModuleList(
            ParallelMLP(config.n_cells, n_in, (n_out,), dropout=config.dropout)
            for n_in, n_out in pairwise([encoder.width, *config.hidden])
        )
        n_cells = len(config.hidden) * config.n_cells
        self.field_logits = nn.Parameter(torch.full((n_tasks, n_embedded + len(others)), OPEN))
        self.cell_logits = nn.Parameter(torch.empty(n_tasks, n_cells).normal_(OPEN, 0.01))
        self.towers = Towers(
            n_tasks, config.hidden[-1], config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`, in training with the penalty on open gates."""
        encoded = self.encoder(features)  # [batch, width]
        of_fields = draw_gates(self.field_logits, training=self.training)
        of_cells = draw_gates(self.cell_logits, training=self.training)
        x = encoded * of_fields[:, self.fields].unsqueeze(1)  # [tasks, batch, width]
        routes = of_cells.chunk(len(self.layers), dim=1)
        for layer, route in zip(self.layers, routes, strict=True):
            cells = layer(x.flatten(0, 1)).unflatten(1, (len(x), -1))  # [cells, tasks, batch, out]
            x = torch.einsum("tc,ctbo->tbo", route, cells)
        output: Output = self.towers(x)
        n_open = sum((share_open(z).sum() for z in self._logits()), encoded.new_zeros(()))
        return output._replace(
            shared=(encoded,), penalty=self.l0 * n_open if self.training else None
        )

    def only(self, task: int) -> "MSSM":
        """Return a copy without the other tasks' gates and towers; every cell stays."""
        own = copy.deepcopy(self)
        own.tasks = [self.tasks[task]]
        own.field_logits, own.cell_logits = (
            nn.Parameter(logits.detach()[task : task + 1]) for logits in self._logits()
        )
        select_networks(own.towers, [task])
        return own

    def _logits(self) -> tuple[Tensor, Tensor]:
        return self.field_logits, self.cell_logits

    def diagnostics(self) -> dict[str, object]:
        """Return the probability that each task's gates of fields and of cells are open."""
        named = zip(("open_fields", "open_cells"), self._logits(), strict=True)
        return {
            name: dict(zip(self.tasks, share_open(logits).tolist(), strict=True))
            for name, logits in named
        }
