"""ESMM (Ma et al., SIGIR 2018, eq. 5): CTR and CTCVR on all exposures, CVR through their product.

    L_ctr = mean of BCE(y, s(a)),    L_ctcvr = mean of BCE(y z, s(a) s(b)),    both on all exposures

A chain of more tasks multiplies all its probabilities. Where a conversion label is hidden, its row
leaves the mean; rows that were not clicked stay, whose label 0 needs no look at z. A ratio z is a
soft label: E[y z] = P(y) E[z | y]. Tasks without a parent may have another loss.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from cvrbench.config.schema import LossConfig
from cvrbench.data.batches import Batch
from cvrbench.data.schema import Schema
from cvrbench.nn import Output
from cvrbench.objectives.base import Objective, mean_over_rows
from cvrbench.objectives.click_space import ClickSpace


class EntireSpace(Objective):
    """Each task learns the product along its chain on all exposures."""

    only_products: ClassVar[bool] = True

    def __init__(self, schema: Schema, losses: Mapping[str, LossConfig] | None = None) -> None:
        super().__init__(schema, losses)
        self.schema, self.given = schema, losses

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return each task's mean loss of its joint probability, `[..., tasks]`."""
        loss = self.joint_cross_entropy(output.logits, batch.labels)
        if self.row_losses:
            loss = self.where_root(self.of_rows(output.logits, batch.labels), loss)
        return mean_over_rows(loss, batch.weights)

    def per_task(self) -> Objective:
        """Return `click_space`: a product needs both factors trained."""
        return ClickSpace(self.schema, self.given)
