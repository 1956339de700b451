"""What proposes configurations, and what ends a trial early: Optuna's samplers and pruners.

Every trial is sampled by a sampler of its own, seeded by the study's seed and the trial's number,
so that a resumed study proposes what an uninterrupted one would have proposed.
"""

import math
import warnings
from importlib.util import find_spec
from itertools import product
from typing import Any, assert_never

import numpy as np
import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cvrbench.config.runtime import SweepConfig
from cvrbench.config.space import Choice, Dimension, Space
from cvrbench.config.study import Study
from cvrbench.config.types import Value
from cvrbench.errors import ConfigError
from cvrbench.system.rng import derive

LARGEST_GRID = 100_000


class CmaEs(samplers.RandomSampler):
    """CMA-ES (Hansen, 2016), which knows nothing but the complete trials before its own.

    Optuna's own keeps a pickled optimiser in the study, and to unpickle what somebody else wrote is
    to run their code. But the optimiser follows from the trials that it is told of: here it is made
    anew for each trial and told of all, a generation after the other.

    Differs from Optuna's: a trial that ends late counts in the next generation, not in none. Equal
    to it: the first trials, and choices, are drawn at random; the search begins in the middle of
    the space with a sixth of its width.
    """

    def __init__(self, seed: int, startup: int) -> None:
        super().__init__(seed)
        self.own, self.startup = seed, startup

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the numbers that every complete trial has."""
        space = intersection_search_space(self._told(study, trial))
        numbers = (FloatDistribution, IntDistribution)
        return {n: d for n, d in space.items() if isinstance(d, numbers) and not d.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what the optimiser proposes once it is told of all that is complete."""
        told = self._told(study, trial)
        if not search_space or len(told) < self.startup:
            return {}
        axes = [_UnitAxis(d) for d in search_space.values()]
        point = self.optimizer(study, told[self.startup :], search_space).ask()
        return {
            name: axis.from_unit(float(x))
            for name, axis, x in zip(search_space, axes, point, strict=True)
        }

    def optimizer(
        self, study: optuna.Study, told: list[FrozenTrial], space: dict[str, BaseDistribution]
    ) -> Any:
        """Return a `cmaes.CMA` that is told of trials, as many whole generations as they are."""
        from cmaes import CMA

        axes = [_UnitAxis(d) for d in space.values()]
        n = len(axes)
        bounds = np.tile([0.0, 1.0], (n, 1))
        optimizer = CMA(np.full(n, 0.5), 1 / 6, bounds, n_max_resampling=10 * n, seed=self.own)
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        size = optimizer.population_size
        for first in range(0, len(told) - size + 1, size):
            solutions = []
            for t in told[first : first + size]:
                values = [t.params[name] for name in space]
                point = [axis.to_unit(v) for axis, v in zip(axes, values, strict=True)]
                solutions.append((np.array(point), sign * t.values[0]))
            optimizer.tell(solutions)
        return optimizer

    def _told(self, study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [t for t in complete if t.number < trial.number]


class _UnitAxis:
    """A number's range as [0, 1]; a stepped one's with half a step more on both sides."""

    def __init__(self, distribution: BaseDistribution) -> None:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        self.of = distribution
        self.step = distribution.step or 0.0
        self.scale = math.log if distribution.log else float
        low, high = distribution.low - self.step / 2, distribution.high + self.step / 2
        self.low, self.width = self.scale(low), self.scale(high) - self.scale(low)

    def to_unit(self, value: float) -> float:
        """Return a value's place."""
        return (self.scale(value) - self.low) / self.width

    def from_unit(self, place: float) -> float:
        """Return the value at a place, or the nearest there is."""
        found = self.low + place * self.width
        value = math.exp(found) if self.of.log else found
        if self.step:
            value = self.of.low + round((value - self.of.low) / self.step) * self.step
        value = min(max(value, self.of.low), self.of.high)
        return int(value) if isinstance(self.of, IntDistribution) else value


def check_sampler(settings: SweepConfig) -> None:
    """Make sure that the sampler can be used.

    Raises:
        ConfigError: Its package is not installed.
    """
    if settings.sampler == "cmaes" and find_spec("cmaes") is None:
        raise ConfigError("sampler=cmaes needs the package cmaes: pip install 'cvrbench[cmaes]'")


def build_sampler(settings: SweepConfig, seed: int, number: int) -> samplers.BaseSampler:
    """Return the sampler of trial `number` of a study with a seed."""
    own = derive(seed, "sampler", number) % 2**32
    startup = settings.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match settings.sampler:
            case "tpe":
                return samplers.TPESampler(
                    seed=own,
                    n_startup_trials=startup,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
            case "gp":
                return samplers.GPSampler(seed=own, n_startup_trials=startup)
            case "cmaes":
                return CmaEs(own, startup)
            case "nsga2":
                return samplers.NSGAIISampler(seed=own, population_size=startup)
            case "qmc":
                # One sequence runs through all trials: its scrambling must not change.
                common = derive(seed, "sampler") % 2**32
                return samplers.QMCSampler(
                    seed=common, scramble=True, warn_asynchronous_seeding=False
                )
            case "grid" | "random":
                return samplers.RandomSampler(seed=own)
            case _:
                assert_never(settings.sampler)


def build_pruner(settings: SweepConfig, n_steps: int) -> pruners.BasePruner:
    """Return what ends trials early.

    Args:
        settings: Settings of the sweep.
        n_steps: Evaluations that a whole trial takes, all its seeds together.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match settings.pruner:
            case "none":
                return pruners.NopPruner()
            case "hyperband":
                lowest = max(1, n_steps // 9)
                return pruners.HyperbandPruner(lowest, max_resource=max(1, n_steps))
            case "median":
                return pruners.MedianPruner(settings.startup_trials, max(1, n_steps // 8))
            case "wilcoxon":
                return pruners.WilcoxonPruner(p_threshold=0.1)
            case _:
                assert_never(settings.pruner)


def quiet() -> None:
    """Keep Optuna's own log lines off the terminal; what they say stands in our tables."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggest(trial: Trial, space: Space) -> list[str]:
    """Return overrides with a value of every dimension that this trial's configuration has."""
    words: list[str] = []

    def take(dimension: Dimension) -> Any:
        value = _ask(trial, dimension)
        words.append(dimension.word(value))
        return dimension.plain_of(value)

    space.walk(take)
    return words


def _ask(trial: Trial, dimension: Dimension) -> Value:
    key = dimension.key
    if isinstance(dimension, Choice):
        value: Value = trial.suggest_categorical(key, dimension.values)
        return value
    low, high, log, step = dimension.low, dimension.high, dimension.log, dimension.step
    if dimension.integer:
        whole = 1 if log else int(step or 1)
        return trial.suggest_int(key, int(low), int(high), step=whole, log=log)
    return trial.suggest_float(key, low, high, step=step, log=log)


def words_of(params: dict[str, Value], space: Space) -> list[str]:
    """Return the overrides of what was suggested before."""
    by_key = {dimension.key: dimension for dimension in space.dimensions()}
    return [by_key[key].word(value) for key, value in params.items()]


def fixed_trials(study: Study) -> list[dict[str, Value]]:
    """Return the configurations that a study begins with: the preset, then those of a grid.

    Raises:
        ConfigError: The grid cannot be counted, or is too large.
    """
    preset = [study.preset()] if study.settings.preset else []
    cells = grid(study.space) if study.settings.sampler == "grid" else []
    return preset + [cell for cell in cells if cell not in preset]


def grid(space: Space) -> list[dict[str, Value]]:
    """Return every configuration of a space of which each dimension has an end.

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
