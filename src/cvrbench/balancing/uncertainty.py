"""Homoscedastic uncertainty (Kendall, Gal and Cipolla, CVPR 2018, eq. 10, for classification).

    L = sum_t exp(-s_t) L_t + s_t / 2,    s_t = log sigma_t^2 learned, 0 at the start

At the optimum exp(-s_t) = 1 / (2 L_t): each task is weighed by the inverse of its loss. The s_t are
free, also below 0: a clamp at 0 would leave every loss below 1/2, such as that of any rare label,
at one fixed weight.
"""

import torch
from torch import Tensor, nn

from cvrbench.balancing.base import Balancing


class Uncertainty(Balancing):
    """One learned log-variance per task."""

    def __init__(self, active: Tensor) -> None:
        super().__init__(active)
        self.log_variance = nn.Parameter(torch.zeros(active.shape))

    def weigh(self, losses: Tensor) -> Tensor:
        """Return exp(-s_t) L_t + s_t / 2, `[..., tasks]`."""
        s = self.log_variance
        return (torch.exp(-s) * losses + s / 2) * self.active
