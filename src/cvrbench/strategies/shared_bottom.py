"""Shared bottom (Caruana, Machine Learning 1997): one trunk, a tower per task.

logit_t = h_t( f( e(x) ) )
"""

import copy
from collections.abc import Sequence

from cvrbench.config.model import SharedBottomConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy


class SharedBottom(SharingStrategy):
    """Common embeddings and trunk, own tower per task."""

    stackable = True

    def __init__(
        self,
        config: SharedBottomConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.trunk = ParallelMLP(1, encoder.width, config.hidden, dropout=config.dropout)
        self.towers = Towers(
            len(schema.tasks), self.trunk.n_out, config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        trunk = self.trunk(encoded)  # [1, batch, out]
        output: Output = self.towers(trunk)
        return output._replace(shared=(trunk,))

    def only(self, task: int) -> "SharedBottom":
        """Return a copy without the other tasks' parameters."""
        own = copy.deepcopy(self)
        select_networks(own.towers, [task])
        return own
