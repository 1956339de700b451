"""From a trial of Optuna's to overrides of a run."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from cvrbench.config.space import Choice, Dimension, Numbers, Space
from cvrbench.config.study import Study
from cvrbench.config.sweep import Value
from cvrbench.errors import ConfigError
from cvrbench.studies import Axis

LARGEST_GRID = 100_000


def suggest(trial: Trial, space: Space) -> list[str]:
    """Ask for every dimension that this trial's configuration has; give overrides."""
    words: list[str] = []

    def take(dimension: Dimension) -> Any:
        value = _ask(trial, dimension)
        words.append(dimension.word(value))
        return dimension.plain_of(value)

    space.walk(take)
    return words


def words_of(params: dict[str, Value], space: Space) -> list[str]:
    """Give the overrides of what was suggested before."""
    by_key = {dimension.key: dimension for dimension in space.dimensions()}
    return [by_key[key].word(value) for key, value in params.items()]


def fixed_trials(study: Study) -> list[dict[str, Value]]:
    """Give the configurations that a study begins with: the preset, then those of a grid.

    Raises:
        ConfigError: The grid cannot be counted, or is too large.
    """
    preset = [study.preset()] if study.settings.preset else []
    cells = grid(study.space) if study.settings.sampler == "grid" else []
    return preset + [cell for cell in cells if cell not in preset]


def grid(space: Space) -> list[dict[str, Value]]:
    """Give every configuration of a space of which each dimension has an end.

    Raises:
        ConfigError: A dimension is continuous, or hangs on a condition.
    """
    if space.when:
        raise ConfigError(
            f"sampler=grid takes no conditions, and {space.when[0].word} is one; use random or tpe"
        )
    values = []
    for dimension in space.always:
        try:
            values.append(dimension.grid())
        except ValueError:
            raise ConfigError(
                f"sampler=grid needs values it can count; {dimension.key}={dimension.text} is "
                "continuous; write range(a,b,step) or choice(a,b)"
            ) from None
    if (n := math.prod(map(len, values))) > LARGEST_GRID:
        raise ConfigError(
            f"sampler=grid would try {n:,} configurations; make the steps larger, or use random"
        )
    keys = [dimension.key for dimension in space.always]
    return [dict(zip(keys, cell, strict=True)) for cell in product(*values)]


def axes(space: Space) -> dict[str, Axis]:
    """Describe the dimensions for figures."""
    return {dimension.key: _axis(dimension) for dimension in space.dimensions()}


def _ask(trial: Trial, dimension: Dimension) -> Value:
    match distribution(dimension):
        case FloatDistribution() as d:
            return trial.suggest_float(dimension.key, d.low, d.high, step=d.step, log=d.log)
        case IntDistribution() as d:
            return trial.suggest_int(dimension.key, d.low, d.high, step=d.step, log=d.log)
        case CategoricalDistribution() as d:
            value: Value = trial.suggest_categorical(dimension.key, d.choices)
            return value
        case other:
            raise AssertionError(other)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Give Optuna's name for a dimension."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        step = 1 if dimension.log else int(dimension.step or 1)
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=step
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _axis(dimension: Dimension) -> Axis:
    if isinstance(dimension, Numbers):
        return Axis(
            kind="int" if dimension.integer else "float",
            low=dimension.low,
            high=dimension.high,
            log=dimension.log,
        )
    values: Sequence[Value] = dimension.values
    return Axis(kind="choice", choices=tuple(values))
