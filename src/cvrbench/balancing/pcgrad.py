"""PCGrad (Yu et al., NeurIPS 2020, algorithm 1): project conflicting gradients off each other.

    for every task i:  g_i' = g_i;  for the other tasks j in random order:
        if <g_i', g_j> < 0:  g_i' -= <g_i', g_j> / |g_j|^2  g_j
    g = sum_i g_i'

The projections are linear in the g_i, so that g = sum_t w_t g_t with weights that depend on the
Gramian alone; torchjd computes them. The weights sum to the number of tasks or more; without a
conflict all are 1, which is `equal`.

Differs from the paper: gradients are compared at the representation that all tasks read (after
look-up and interaction), not over all shared weights, and the weights scale the tasks' losses as a
whole, so that a task's own tower is scaled like the rest; in the paper towers are left as they are.
"""

from torch import Tensor

from cvrbench.balancing.base import Balancing
from cvrbench.errors import ConfigError


class PCGrad(Balancing):
    """Weights from the Gramian of the tasks' gradients."""

    compares_gradients = True
    stackable = False  # the order of projections is drawn from torch's global generator

    def __init__(self, active: Tensor) -> None:
        super().__init__(active)
        try:
            from torchjd.aggregation import PCGradWeighting
        except ImportError:
            raise ConfigError(
                "balancing=pcgrad needs torchjd; install it with pip install 'cvrbench[balancing]'"
            ) from None
        self.weighting = PCGradWeighting()

    def combine(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the weight of each active task's gradient, `[tasks]`."""
        del losses
        weights: Tensor = self.weighting(gramian)
        return weights
