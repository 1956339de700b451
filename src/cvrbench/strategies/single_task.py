"""Single task: nothing is shared.

    logit_t = h_t( f_t( e_t(x) ) )

The baseline every claim about sharing is measured against. All tasks are trained in one pass,
as parallel networks without a common weight, so the result equals separate trainings.
"""

from collections.abc import Sequence

from torch import Tensor

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, ParallelMLP, Towers
from cvrbench.strategies.base import SharingStrategy


class SingleTask(SharingStrategy):
    """Own embeddings, trunk and tower per task."""

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
        self.encoder = FeatureEncoder(schema, embedding_dim, copies=n_tasks)
        self.trunks = ParallelMLP(n_tasks, self.encoder.width, hidden, dropout=dropout)
        self.towers = Towers(n_tasks, self.trunks.n_out, tower, dropout=dropout)

    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [tasks, batch, width]
        logits: Tensor = self.towers(self.trunks(encoded))
        return logits
