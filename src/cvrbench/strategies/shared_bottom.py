"""Shared bottom (Caruana, Machine Learning 1997): one trunk, a tower per task.

logit_t = h_t( f( e(x) ) )
"""

from collections.abc import Sequence

from torch import Tensor

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, ParallelMLP, Towers
from cvrbench.strategies.base import SharingStrategy


class SharedBottom(SharingStrategy):
    """Common embeddings and trunk, own tower per task."""

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
        self.encoder = FeatureEncoder(schema, embedding_dim)
        self.trunk = ParallelMLP(1, self.encoder.width, hidden, dropout=dropout)
        self.towers = Towers(len(schema.tasks), self.trunk.n_out, tower, dropout=dropout)

    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`."""
        shared = self.trunk(self.encoder(features))  # [1, batch, out]
        logits: Tensor = self.towers(shared)
        return logits
