"""What a sweep makes better: metrics of the validation rows, and sizes of the network."""

from collections.abc import Mapping, Sequence
from typing import Any

from cvrbench.config.runtime import SIZES
from cvrbench.config.schema import Config, WeightedConfig
from cvrbench.config.study import Study
from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, RunError, did_you_mean
from cvrbench.metrics.evaluation import describe_metric, selectable
from cvrbench.runs.record import RunRecord
from cvrbench.runs.study import Direction

WATCHED = ("auc", "logloss")
"""Kinds of metric that every evaluation on validation rows holds."""


def directions(study: Study, tasks: Sequence[Task]) -> tuple[Direction, ...]:
    """Return of each objective whether more or less of it is better.

    Raises:
        ConfigError: It is no metric of the dataset, or nothing a pruner can watch.
    """
    known = ["mean_auc", *selectable(tasks), *SIZES]
    found: list[Direction] = []
    for name in study.settings.objectives:
        if name not in known:
            raise ConfigError(
                f"objectives: {name!r} is no metric of {study.base.choices['dataset']}."
                f"{did_you_mean(name, known)} Choices: {', '.join(known)}"
            )
        if name == "density" and study.base.config.model.kind != "ncs":
            raise ConfigError("objectives: density is a matter of model=ncs; take multiply_adds")
        if name in SIZES or name == "mean_auc":
            found.append("minimize" if name in SIZES else "maximize")
            continue
        direction = describe_metric(name, tasks).direction
        if direction == "one":
            other = f"{name.rsplit('_', 1)[0]}_logloss"
            raise ConfigError(
                f"objectives: {name} is best at 1, neither high nor low; take {other}"
            )
        found.append("maximize" if direction == "higher" else "minimize")
    first = study.settings.objectives[0]
    by_looks = study.settings.pruner in ("hyperband", "median")
    if by_looks and first.rsplit("_", 1)[-1] not in WATCHED:
        raise ConfigError(
            f"pruner={study.settings.pruner} watches every look at validation, which has AUC and "
            f"log loss but no {first}; set pruner=none or another first objective"
        )
    return tuple(found)


def measure(
    name: str, metrics: Mapping[str, float | None], tasks: Sequence[str], why: Mapping[str, str]
) -> float:
    """Read an objective off validation metrics.

    Args:
        name: Name of the objective; no size.
        metrics: Metrics by name.
        tasks: Tasks whose AUC `mean_auc` is the mean of.
        why: Reasons for metrics that are None.

    Raises:
        RunError: It is undefined on these rows.
    """
    names = [f"{task}_auc" for task in tasks] if name == "mean_auc" else [name]
    total = 0.0
    for one in names:
        value = metrics.get(one)
        if value is None:
            raise RunError(f"{one} is undefined on validation: {why.get(one, 'no reason given')}")
        total += value
    return total / len(names)


def of_record(study: Study, record: RunRecord) -> tuple[float, ...]:
    """Every objective of one finished run.

    Raises:
        RunError: One is undefined.
    """
    tasks = trained(study.base.config, [task["name"] for task in record.tasks])
    valid, why = record.metrics["valid"], record.undefined["valid"]
    return tuple(
        _size(record, name) if name in SIZES else measure(name, valid, tasks, why)
        for name in study.settings.objectives
    )


def trained(config: Config, tasks: Sequence[str]) -> list[str]:
    """Return the tasks that a run trains, those whose loss weighs something."""
    if not isinstance(config.balancing, WeightedConfig):
        return list(tasks)
    return [name for name in tasks if config.balancing.weights.get(name, 1) > 0]


def _size(record: RunRecord, name: str) -> float:
    if name == "density":
        densities: dict[str, Any] = record.diagnostics.get("density", {"all": 1.0})
        return float(sum(densities.values()) / len(densities))
    return float(getattr(record, name))
