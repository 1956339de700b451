"""What proposes configurations, and what ends a trial early: Optuna's samplers and pruners.

Every trial is sampled by a sampler of its own, seeded by the study's seed and the trial's number,
so that a resumed study proposes what an uninterrupted one would have proposed.
"""

import warnings
from importlib.util import find_spec
from typing import assert_never

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    WilcoxonPruner,
)
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from cvrbench.config.sweep import SweepConfig
from cvrbench.errors import ConfigError
from cvrbench.rng import derive


def check_sampler(settings: SweepConfig) -> None:
    """Make sure that the sampler can be used.

    Raises:
        ConfigError: Its package is not installed.
    """
    if settings.sampler == "cmaes" and find_spec("cmaes") is None:
        raise ConfigError("sampler=cmaes needs the package cmaes: pip install 'cvrbench[cmaes]'")


def build_sampler(settings: SweepConfig, seed: int, number: int) -> BaseSampler:
    """Give the sampler of one trial.

    Args:
        settings: Of the sweep.
        seed: Of the study.
        number: Of the trial.
    """
    own = derive(seed, "sampler", number) % 2**32
    common = derive(seed, "sampler") % 2**32
    startup = settings.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match settings.sampler:
            case "tpe":
                return TPESampler(
                    seed=own,
                    n_startup_trials=startup,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
            case "gp":
                return GPSampler(seed=own, n_startup_trials=startup)
            case "cmaes":
                return CmaEsSampler(seed=own, n_startup_trials=startup)
            case "nsga2":
                return NSGAIISampler(seed=own, population_size=startup)
            case "qmc":
                # One sequence runs through all trials: its scrambling must not change.
                return QMCSampler(
                    seed=common,
                    scramble=True,
                    warn_asynchronous_seeding=False,
                )
            case "grid" | "random":
                return RandomSampler(seed=own)
            case _:
                assert_never(settings.sampler)


def build_pruner(settings: SweepConfig, n_steps: int) -> BasePruner:
    """Give what ends trials early.

    Args:
        settings: Of the sweep.
        n_steps: Looks at validation that a whole trial takes, all its seeds together.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match settings.pruner:
            case "none":
                return NopPruner()
            case "hyperband":
                lowest = max(1, n_steps // 9)
                return HyperbandPruner(min_resource=lowest, max_resource=max(1, n_steps))
            case "median":
                return MedianPruner(
                    n_startup_trials=settings.startup_trials, n_warmup_steps=max(1, n_steps // 8)
                )
            case "wilcoxon":
                return WilcoxonPruner(p_threshold=0.1)
            case _:
                assert_never(settings.pruner)


def quiet() -> None:
    """Keep Optuna's own log lines off the terminal; what they say stands in our tables."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
