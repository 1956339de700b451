"""How the tasks' losses become one: the axis `balancing=`."""

from typing import assert_never

import torch
from torch import Tensor

from cvrbench.config.schema import BalancingConfig, EqualConfig, WeightedConfig
from cvrbench.errors import ConfigError


def loss_weights(config: BalancingConfig, tasks: tuple[str, ...]) -> Tensor:
    """Give the weight of each task's loss, `[tasks]`.

    Raises:
        ConfigError: A weight names a task that the dataset does not have.
    """
    match config:
        case EqualConfig():
            return torch.ones(len(tasks))
        case WeightedConfig(weights=weights):
            if unknown := sorted(set(weights) - set(tasks)):
                raise ConfigError(
                    f"balancing.weights names {', '.join(unknown)}, which is no task of this "
                    f"dataset; its tasks are {', '.join(tasks)}"
                )
            return torch.tensor([weights.get(task, 1.0) for task in tasks])
        case _:
            assert_never(config)
