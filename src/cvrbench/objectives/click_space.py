"""Every task in its own space: CTR on all exposures, CVR on the clicked ones.

    L_ctr = mean over exposures of BCE(y, s(a)),    L_cvr = mean over clicked rows of BCE(z, s(b))

with labels y (click) and z (conversion), logits a and b, the logistic function s and binary
cross-entropy BCE, or what `objective.losses` says. A hidden label leaves its row out of the mean.
Of a ratio z the best s(b) is E[z | y = 1], by BCE with its soft label as by a squared error.
"""

from torch import Tensor

from cvrbench.data.batches import Batch
from cvrbench.nn import Output
from cvrbench.objectives.base import Objective, weighted_mean


class ClickSpace(Objective):
    """Each task learns on the rows where all its ancestors' labels are 1."""

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return each task's mean loss in its own space, `[..., tasks]`."""
        observed = self.observed(batch.labels)
        loss = self.of_rows(output.logits, batch.labels)
        return weighted_mean(loss, observed if batch.weights is None else observed * batch.weights)
