"""ESCM2-IPW (Wang et al., SIGIR 2022): clicks weighted by their inverse propensity, beside CTCVR.

    L_ctr  = mean over exposures of BCE(y, s(a))
    L_cvr  = lambda_c  mean over exposures of  y BCE(z, s(b)) / sg(max(s(a), floor))
           + lambda_g  mean over exposures of  BCE(y z, s(a) s(b))

sg stops the gradient: the propensity of a click is the CTR head's, which learns from L_ctr and from
the second term alone. The first term is unbiased for the mean of BCE(z, s(b)) over all exposures if
clicks follow from the features; `self_normalised` divides it by the sum of the weights y / p, not
by the rows: a little bias for a lower variance (Swaminathan and Joachims, NeurIPS 2015).

Where `click_space` divides by the clicked rows, the first term divides by all: since 1 / p is about
their ratio, a difference between the two is not one of the loss's weight alone; the floor caps a
row's weight at its inverse. A task deeper in a chain takes P(all ancestors' labels are 1).
"""

import torch
from torch import Tensor

from cvrbench.config.schema import ESCM2IPWConfig
from cvrbench.data.batches import Batch
from cvrbench.data.schema import Schema
from cvrbench.nn import Output
from cvrbench.objectives.base import (
    Objective,
    binary_cross_entropy,
    mean_over_rows,
)
from cvrbench.objectives.click_space import ClickSpace


class ESCM2IPW(Objective):
    """Inverse-propensity-weighted CVR loss in click space, with the entire-space loss beside it."""

    def __init__(self, config: ESCM2IPWConfig, schema: Schema) -> None:
        super().__init__(schema)
        self.config, self.schema = config, schema
        self.parents = [chain[-2] if len(chain) > 1 else None for chain in self.chains]

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Return each task's mean loss, `[..., tasks]`."""
        config, logits, labels = self.config, output.logits, batch.labels
        own = binary_cross_entropy(logits, labels)
        inverse = self.inverse_propensities(logits, self.observed(labels))
        weighted = mean_over_rows(inverse * own, batch.weights)
        if config.self_normalised:
            sums = mean_over_rows(inverse, batch.weights)
            weighted = weighted / sums.clamp_min(torch.finfo(sums.dtype).tiny)
        entire = mean_over_rows(self.joint_cross_entropy(logits, labels), batch.weights)
        combined = config.lambda_c * weighted + config.lambda_g * entire
        is_root = torch.tensor([parent is None for parent in self.parents], device=logits.device)
        return torch.where(is_root, mean_over_rows(own, batch.weights), combined)

    def inverse_propensities(self, logits: Tensor, observed: Tensor) -> Tensor:
        """Return 1 / P(observed) where observed, else 0, `[..., batch, tasks]`; no gradient."""
        joint = self.log_joint(logits.detach()).exp().clamp_min(self.config.floor)
        columns = [
            observed[..., task] if parent is None else observed[..., task] / joint[..., parent]
            for task, parent in enumerate(self.parents)
        ]
        return torch.stack(columns, dim=-1)

    def per_task(self) -> Objective:
        """Return `click_space`: the propensity is another task's prediction."""
        return ClickSpace(self.schema)
