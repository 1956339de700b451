"""ESMM (Ma et al., SIGIR 2018, eq. 5): CTR and CTCVR on all exposures, CVR through their product.

    L_ctr = mean of BCE(y, s(a)),    L_ctcvr = mean of BCE(y z, s(a) s(b)),    both on all exposures

A chain of more tasks multiplies all its probabilities. Where a conversion label is hidden, its row
leaves the mean; rows that were not clicked stay, whose label 0 needs no look at z.
"""

import torch
from torch import Tensor

from cvrbench.data.batches import Batch
from cvrbench.data.schema import Schema
from cvrbench.nn.output import Output
from cvrbench.objectives.base import Objective, mean_over_rows
from cvrbench.objectives.click_space import ClickSpace


class EntireSpace(Objective):
    """Each task learns the product along its chain on all exposures."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.schema = schema

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return each task's mean loss of its joint probability, `[..., tasks]`."""
        log_p = self.log_joint(output.logits)
        target = self.joint_labels(batch.labels)
        loss = -(target * log_p + (1 - target) * _log_one_minus_exp(log_p))
        return mean_over_rows(loss, batch.weights)

    def per_task(self) -> Objective:
        """Return `click_space`: a product needs both factors trained."""
        return ClickSpace(self.schema)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 without loss of digits at either end (Maechler 2012)."""
    x = x.clamp(max=-1e-7)
    near_zero = torch.log(-torch.expm1(x.clamp(min=-0.6931472)))
    far = torch.log1p(-torch.exp(x.clamp(max=-0.6931472)))
    return torch.where(x > -0.6931472, near_zero, far)
