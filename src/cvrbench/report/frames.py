"""Run records, grouped into what may be compared: same data, same test rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cvrbench.data.schema import Task
from cvrbench.evaluation import describe_metric
from cvrbench.record import NUMBER_FREE, RunRecord
from cvrbench.stats import Estimate, auc_standard_error, t_interval

IGNORED = ("seed", "dataset", *NUMBER_FREE)
"""Config keys that do not make two runs of one strategy different variants."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Runs that differ in nothing but the seed."""

    label: str
    """The model's option, and what else sets it apart: `ncs density=0.3`."""
    runs: tuple[RunRecord, ...]

    @property
    def settings(self) -> str:
        """A hash of all but the seed: it stays where the label changes with its neighbours."""
        run = self.runs[0]
        text = json.dumps([run.model, _settings(run.config)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def estimate(self, metric: str, split: str = "test") -> Estimate | None:
        """Mean over seeds and its 95 % interval; None where no run has the metric."""
        values = [
            value for run in self.runs if (value := run.metrics[split].get(metric)) is not None
        ]
        return t_interval(values) if values else None

    @property
    def seconds(self) -> float:
        """Mean time in optimiser steps, searches included."""
        return sum(run.seconds["search"] + run.seconds["train"] for run in self.runs) / len(
            self.runs
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All variants that were tested on the same rows."""

    dataset: str
    fingerprint: str
    tasks: tuple[Task, ...]
    counts: dict[str, dict[str, int]]
    """Of the test split: task or joint -> rows and positives."""
    variants: tuple[Variant, ...]

    @property
    def auc_metrics(self) -> list[str]:
        """AUC of every space, in the order of the tasks."""
        return [f"{name}_auc" for name in self.counts]

    def row_error(self, metric: str) -> float | None:
        """Half-width of the 95 % interval that the test rows alone leave to an AUC."""
        count = self.counts[metric.removesuffix("_auc")]
        means = [e.mean for variant in self.variants if (e := variant.estimate(metric)) is not None]
        negatives = count["rows"] - count["positives"]
        if not means or not count["positives"] or not negatives:
            return None
        return 1.96 * auc_standard_error(max(means), count["positives"], negatives)

    def best_reachable(self, metric: str) -> float | None:
        """AUC of the true probabilities, known for planted data."""
        name = metric.removesuffix("_auc") + "_best_auc"
        found = self.variants[0].estimate(name)
        return found.mean if found is not None else None

    def header(self, metric: str) -> str:
        """The metric's name with its space."""
        return describe_metric(metric, self.tasks).header


def compare(records: Sequence[RunRecord]) -> list[Comparison]:
    """Group tested runs by dataset and fingerprint, then by everything but the seed."""
    tested = sorted((r for r in records if "test" in r.metrics), key=_data)
    found = []
    for (dataset, fingerprint), group in groupby(tested, key=_data):
        runs = list(group)
        found.append(
            Comparison(
                dataset=dataset,
                fingerprint=fingerprint,
                tasks=tuple(Task(**task) for task in runs[0].tasks),
                counts=runs[0].counts["test"],
                variants=tuple(_variants(runs)),
            )
        )
    return found


def _data(record: RunRecord) -> tuple[str, str]:
    return record.dataset, record.fingerprint


def _variants(runs: Sequence[RunRecord]) -> list[Variant]:
    """Runs of equal config, in the order in which strategies share more and more."""
    settings = {run.run_id: _settings(run.config) for run in runs}
    by_settings: dict[str, list[RunRecord]] = {}
    for run in runs:
        key = repr((run.model, sorted(settings[run.run_id].items())))
        by_settings.setdefault(key, []).append(run)
    groups = list(by_settings.values())
    found = []
    for group in groups:
        others = [settings[g[0].run_id] for g in groups if g[0].model == group[0].model]
        own = settings[group[0].run_id]
        varying = [key for key, value in own.items() if value != _usual(key, others)]
        words = [f"{key.removeprefix('model.')}={own[key]}" for key in varying]
        runs_by_seed = tuple(sorted(group, key=lambda run: run.seed))
        found.append(Variant(label=" ".join([group[0].model, *words]), runs=runs_by_seed))
    return sorted(found, key=lambda variant: (_rank(variant.runs[0].model), variant.label))


def _usual(key: str, settings: Sequence[Mapping[str, str]]) -> str | None:
    """The value that most of a model's variants have, which need not be told; None without one."""
    counts = Counter(one.get(key, "") for one in settings)
    value, times = counts.most_common(1)[0]
    return value if 2 * times > len(settings) else None


ORDER = ("single_task", "shared_embedding", "shared_bottom", "omoe", "mmoe", "cgc", "ple", "ncs")


def _rank(model: str) -> tuple[int, str]:
    return (ORDER.index(model) if model in ORDER else len(ORDER), model)


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten what can make two runs differ: `{"model.density": "0.2", ...}`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in IGNORED:
            continue
        flat |= _settings(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return flat
