"""Balancing (group `balancing=`): how the tasks' losses or gradients become one step.

A class and a dataclass (`config.schema`) each, but for those without settings, which share a
dataclass; one `case` here.
"""

from collections.abc import Sequence
from typing import assert_never

import torch

from cvrbench.balancing.base import Balancing
from cvrbench.balancing.fixed import Fixed, weights_of
from cvrbench.balancing.losses import DWA, FAMO, STCH, NISERatio, by_loss
from cvrbench.balancing.pcgrad import PCGrad
from cvrbench.config.schema import (
    BalancingConfig,
    ByLossConfig,
    DWAConfig,
    EqualConfig,
    FAMOConfig,
    NISERatioConfig,
    PCGradConfig,
    STCHConfig,
    WeightedConfig,
)

__all__ = ["Balancing", "build_balancing", "trained_tasks", "untied"]


def build_balancing(
    config: BalancingConfig, tasks: Sequence[str], trained: Sequence[str]
) -> Balancing:
    """Build a balancing method, its state as at the start of a training.

    Args:
        config: Of the run.
        tasks: All of the dataset.
        trained: Those that a training trains; the others' losses do not count.

    Raises:
        ConfigError: A weight names a task that the dataset does not have, or a package is missing.
    """
    active = torch.tensor([float(task in trained) for task in tasks])
    match config:
        case EqualConfig():
            return Fixed(active, torch.ones(len(tasks)))
        case WeightedConfig(weights=weights):
            return Fixed(active, weights_of(weights, tasks))
        case ByLossConfig(kind=kind):
            return by_loss(kind)(active)
        case DWAConfig():
            return DWA(active, config)
        case FAMOConfig():
            return FAMO(active, config)
        case NISERatioConfig():
            return NISERatio(active, config)
        case STCHConfig():
            return STCH(active, config)
        case PCGradConfig():
            return PCGrad(active)
        case _:
            assert_never(config)


def untied(config: BalancingConfig) -> BalancingConfig:
    """Return the balancing of a training in which tasks share nothing to balance.

    Fixed weights stay; what is learned or compared between tasks has nothing to act on.
    """
    return config if isinstance(config, WeightedConfig) else EqualConfig(kind="equal")


def trained_tasks(config: BalancingConfig, tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that a run trains: all but those of weight 0.

    Raises:
        ConfigError: A weight names a task that the dataset does not have.
    """
    if not isinstance(config, WeightedConfig):
        return tuple(tasks)
    weights = weights_of(config.weights, tasks).tolist()
    return tuple(task for task, weight in zip(tasks, weights, strict=True) if weight > 0)
