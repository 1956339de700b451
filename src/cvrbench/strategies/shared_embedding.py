"""Shared embedding: common embeddings, everything above them apart.

    logit_t = h_t( f_t( e(x) ) )

The control that any finer sharing of the trunk must beat.
"""

import copy
from collections.abc import Sequence

from cvrbench.config.model import SharedEmbeddingConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy


class SharedEmbedding(SharingStrategy):
    """Common embeddings, own trunk and tower per task."""

    stackable = True

    def __init__(
        self,
        config: SharedEmbeddingConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n_tasks = len(schema.tasks)
        self.encoder = encoder
        self.trunks = ParallelMLP(n_tasks, encoder.width, config.hidden, dropout=config.dropout)
        self.towers = Towers(
            n_tasks, self.trunks.n_out, config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        output: Output = self.towers(self.trunks(encoded))
        return output._replace(shared=(encoded,))

    def only(self, task: int) -> "SharedEmbedding":
        """Return a copy without the other tasks' parameters."""
        own = copy.deepcopy(self)
        select_networks(own.trunks, [task])
        select_networks(own.towers, [task])
        return own
