"""Balancing (group `balancing=`): how the tasks' losses or gradients become one step.

A class and a dataclass (`config.schema`) each, but for those without settings, which share a
dataclass; one `case` here.
"""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

import torch
from torch import Tensor

from cvrbench.balancing.base import Balancing
from cvrbench.balancing.gradients import (
    FromGramian,
    GradCraft,
    GradNorm,
    GradVac,
    MetaBalance,
    cagrad,
    fair,
    from_gramian,
)
from cvrbench.balancing.losses import DWA, FAMO, STCH, Fixed, NISERatio, by_loss, weights_of
from cvrbench.config import schema
from cvrbench.config.schema import BalancingConfig, EqualConfig, WeightedConfig
from cvrbench.errors import ConfigError

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
        ConfigError: A key names a task that the dataset does not have, or a package is missing.
    """
    active = torch.tensor([float(task in trained) for task in tasks])
    match config:
        case EqualConfig():
            return Fixed(active, torch.ones(len(tasks)))
        case WeightedConfig(weights=weights):
            return Fixed(active, weights_of(weights, tasks))
        case schema.ByLossConfig(kind=kind):
            return by_loss(kind)(active)
        case schema.DWAConfig():
            return DWA(active, config)
        case schema.FAMOConfig():
            return FAMO(active, config)
        case schema.NISERatioConfig():
            return NISERatio(active, config)
        case schema.STCHConfig():
            return STCH(active, config)
        case _:
            return _by_gradient(config, active, tasks)


def _by_gradient(
    config: schema.ByGradientConfig
    | schema.CAGradConfig
    | schema.FairGradConfig
    | schema.GradVacConfig
    | schema.GradNormConfig
    | schema.MetaBalanceConfig
    | schema.GradCraftConfig,
    active: Tensor,
    tasks: Sequence[str],
) -> Balancing:
    match config:
        case schema.ByGradientConfig(kind=kind):
            return FromGramian(active, from_gramian(kind))
        case schema.CAGradConfig(c=c):
            return FromGramian(active, partial(cagrad, c=c))
        case schema.FairGradConfig(alpha=alpha):
            return FromGramian(active, partial(fair, alpha=alpha))
        case schema.GradVacConfig():
            return GradVac(active, config)
        case schema.GradNormConfig():
            return GradNorm(active, config)
        case schema.MetaBalanceConfig(target=target):
            last = int(active.nonzero().max())
            return MetaBalance(active, config, last if target is None else [*tasks].index(target))
        case schema.GradCraftConfig():
            return GradCraft(active, config)
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
        ConfigError: A key names a task that the dataset does not have, or all weights are 0.
    """
    if isinstance(config, schema.MetaBalanceConfig) and config.target not in (None, *tasks):
        raise ConfigError(
            f"balancing.target={config.target} is no task of this dataset; its tasks are "
            f"{', '.join(tasks)}"
        )
    if not isinstance(config, WeightedConfig):
        return tuple(tasks)
    weights = weights_of(config.weights, tasks).tolist()
    trained = tuple(task for task, weight in zip(tasks, weights, strict=True) if weight > 0)
    if not trained:
        raise ConfigError("balancing.weights is 0 for every task, so none would be trained")
    return trained
