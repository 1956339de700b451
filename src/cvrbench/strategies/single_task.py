"""Single task: nothing is shared.

    logit_t = h_t( f_t( e_t(x) ) )

The baseline every claim about sharing is measured against. All tasks are trained in one pass,
as parallel networks without a common weight, so the result equals separate trainings.
"""

import copy
from collections.abc import Sequence

from cvrbench.config.model import SingleTaskConfig
from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, ParallelMLP, Towers, select_networks
from cvrbench.strategies.base import SharingStrategy


class SingleTask(SharingStrategy):
    """Own embeddings, trunk and tower per task."""

    stackable = True

    def __init__(
        self,
        config: SingleTaskConfig,
        schema: Schema,
        encoder: FeatureEncoder,
        heads: Sequence[str],
    ) -> None:
        super().__init__()
        n_tasks = len(schema.tasks)
        self.encoder = encoder  # a table per task
        self.trunks = ParallelMLP(n_tasks, encoder.width, config.hidden, dropout=config.dropout)
        self.towers = Towers(
            n_tasks, self.trunks.n_out, config.tower, dropout=config.dropout, heads=heads
        )

    def forward(self, features: Features) -> Output:
        """Return the logits `[batch, tasks]`."""
        encoded = self.encoder(features)  # [tasks, batch, width]
        output: Output = self.towers(self.trunks(encoded))
        return output

    def only(self, task: int) -> "SingleTask":
        """Return a copy without the other tasks' parameters."""
        own = copy.deepcopy(self)
        own.encoder.select_copy(task)
        select_networks(own.trunks, [task])
        select_networks(own.towers, [task])
        return own
