"""Fixed weights: the sum of the tasks' losses, plain or weighted.

L = sum_t w_t L_t
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cvrbench.balancing.base import Balancing
from cvrbench.errors import ConfigError


class Fixed(Balancing):
    """A weighted sum, of which `equal` is the case of ones."""

    weights: Tensor

    def __init__(self, active: Tensor, weights: Tensor) -> None:
        super().__init__(active)
        self.register_buffer("weights", active * weights, persistent=False)

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the weighted losses, `[..., tasks]`."""
        return losses * self.weights


def weights_of(named: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    """Return the weight of each task's loss, `[tasks]`: 1 for tasks not named.

    Raises:
        ConfigError: A weight names a task that the dataset does not have.
    """
    if unknown := sorted(set(named) - set(tasks)):
        raise ConfigError(
            f"balancing.weights names {', '.join(unknown)}, which is no task of this dataset; its "
            f"tasks are {', '.join(tasks)}"
        )
    return torch.tensor([named.get(task, 1.0) for task in tasks])
