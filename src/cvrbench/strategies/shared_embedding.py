"""Shared embedding: common embeddings, everything above them apart.

    logit_t = h_t( f_t( e(x) ) )

The control that any finer sharing of the trunk must beat.
"""

from collections.abc import Sequence

from torch import Tensor

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, ParallelMLP, Towers
from cvrbench.strategies.base import SharingStrategy


class SharedEmbedding(SharingStrategy):
    """Common embeddings, own trunk and tower per task."""

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int,
        hidden: Sequence[int],
        tower: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        n_tasks = len(schema.tasks)
        self.encoder = FeatureEncoder(schema, embedding_dim)
        self.trunks = ParallelMLP(n_tasks, self.encoder.width, hidden, dropout=dropout)
        self.towers = Towers(n_tasks, self.trunks.n_out, tower, dropout=dropout)

    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [batch, width]
        logits: Tensor = self.towers(self.trunks(encoded))
        return logits
