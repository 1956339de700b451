"""Click and conversion on all exposures: the setting of the MMoE and AITM papers.

    L_ctr = mean of BCE(y, s(a)),    L_ctcvr = mean of BCE(y z, s(b)),    both on all exposures

The second logit is then that of CTCVR, and CVR follows as the quotient. A conversion without a
click, which the papers' data do not have, is none of CTCVR (`unclicked_conversions=keep`).
"""

from typing import ClassVar

import torch
from torch import Tensor

from cvrbench.data.batches import Batch
from cvrbench.nn import Output
from cvrbench.objectives.base import (
    Objective,
    Predictions,
    mean_over_rows,
)


class ExposureSpace(Objective):
    """Each task learns the product of the labels along its chain on all exposures."""

    joint_logits: ClassVar[bool] = True

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return each task's mean loss over all exposures, `[..., tasks]`."""
        loss = self.of_rows(output.logits, self.joint_labels(batch.labels))
        return mean_over_rows(loss, batch.weights)

    def predictions(self, output: Output) -> Predictions:
        """Return joint probabilities as predicted, conditional ones as quotients of at most 1."""
        joint = output.logits.double().sigmoid()
        conditional = [
            joint[..., t] if parent is None else (joint[..., t] / joint[..., parent]).clamp(max=1)
            for t, parent in enumerate(self.parents)
        ]
        return Predictions(torch.stack(conditional, -1), joint)
