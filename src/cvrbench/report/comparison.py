"""Run records, grouped into what may be compared: same test rows, same labels to learn from."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from cvrbench.config.validate import leaves
from cvrbench.data.label_subsampling import scarce_task
from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.evaluation import describe_metric
from cvrbench.record import NUMBER_FREE, SCARCITY, RunRecord
from cvrbench.stats.influence import Floats
from cvrbench.stats.intervals import Estimate, auc_standard_error, t_interval
from cvrbench.store import Unfinished
from cvrbench.studies import StudySummary


def flat_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Flatten a configuration in the grammar of overrides: `("model.density", "0.2")`."""
    for key, value in leaves(config).items():
        if not isinstance(value, Mapping):  # an empty group, which no override can say
            yield key, _override(value)


def _override(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
"""Commas between values, not those within a list such as [128,64]."""
USUAL = " Usual ones are dataset, model, seed, and keys as `cvrbench config` prints them."


@dataclass(frozen=True)
class Filters:
    """Keys, each with the values that a run may have there."""

    wanted: Mapping[str, tuple[str, ...]]

    def records(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Keep the runs that have all that is wanted.

        Raises:
            ConfigError: A key or a value is met in no run at all, so that it is a slip.
        """
        told = [_told_by_record(record) for record in records]
        if told:
            self._refuse_unmet(told)
        return [r for r, of in zip(records, told, strict=True) if self._fit(of.get)]

    def begun(self, begun: Iterable[Unfinished]) -> list[Unfinished]:
        """Keep the unfinished runs that have all that is wanted; what they lack is no reason."""
        return [one for one in begun if self._fit(_told_by_config(one.choices, one.config).get)]

    def sweeps(self, summaries: Iterable[StudySummary]) -> list[StudySummary]:
        """Keep the sweeps on the wanted data with the wanted models; other keys are runs'."""
        return [
            one
            for one in summaries
            if one.dataset in self.wanted.get("dataset", (one.dataset,))
            and one.fingerprint in self.wanted.get("fingerprint", (one.fingerprint,))
            and one.model in self.wanted.get("model", (one.model,))
        ]

    def _fit(self, told: Callable[[str], str | None]) -> bool:
        return all(told(key) in values for key, values in self.wanted.items())

    def _refuse_unmet(self, told: Sequence[Mapping[str, str]]) -> None:
        for key, values in self.wanted.items():
            met = {one[key] for one in told if key in one}
            if not met:
                near = did_you_mean(key, sorted({name for one in told for name in one}))
                raise ConfigError(f"{key}: no run has such a key.{near or USUAL}")
            for value in values:
                if value not in met:
                    raise ConfigError(f"{key}={value}: no run has it; there are {_some(met)}")


def read_filters(words: Iterable[str]) -> Filters:
    """Read `KEY=VALUE[,VALUE...]`.

    Raises:
        ConfigError: A word is not of this form, or a key comes twice.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not (key and equals and values):
            raise ConfigError(f"{word!r} is no filter: KEY=VALUE, or KEY=VALUE,VALUE")
        if key in wanted:
            raise ConfigError(f"{key} is filtered twice; give both values at once: {key}=A,B")
        wanted[key] = tuple(OUTSIDE_BRACKETS.split(values))
    return Filters(wanted)


def _told_by_record(record: RunRecord) -> dict[str, str]:
    named = {
        "dataset": record.dataset,
        "fingerprint": record.fingerprint,
        "model": record.model,
        "seed": str(record.seed),
    }
    return {**_told_by_config(record.choices, record.config), **named}


def _told_by_config(choices: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    return {**dict(flat_settings(config)), **choices}


def _some(values: Iterable[str], most: int = 8) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return f"{', '.join(ordered[:most])}{more}"


IGNORED = ("seed", "dataset", *NUMBER_FREE, *SCARCITY)
"""Config keys that do not make two runs of one strategy different variants; by the last runs are
grouped before."""


class Missing(NamedTuple):
    """A run that there should be, and is not."""

    seed: int
    reason: str
    """`failed: the loss is not finite ...`, `unfinished` or `not run`."""


def examples_of(run: RunRecord) -> int:
    """Rows that a run computed gradients on, searches included."""
    return run.examples.get("search", 0) + run.examples.get("train", 0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Runs that differ in nothing but the seed."""

    label: str
    """The model's option, and what else sets it apart: `ncs density=0.3`."""
    runs: tuple[RunRecord, ...]
    missing: tuple[Missing, ...] = ()

    @property
    def settings(self) -> str:
        """A hash of all but the seed: it stays where the label changes with its neighbours."""
        run = self.runs[0]
        text = json.dumps([run.model, _decisive(run.config)], sort_keys=True)
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
        return self.seconds_of("search") + self.seconds_of("train")

    def seconds_of(self, stage: str) -> float:
        """Mean time of `search` or `train`; of a record that does not tell, none."""
        return fmean(run.seconds.get(stage, 0.0) for run in self.runs)

    @property
    def examples(self) -> float:
        """Mean number of rows that gradients were computed on, searches included."""
        return fmean(map(examples_of, self.runs))

    @property
    def rate(self) -> float:
        """Mean number of training examples per second."""
        return fmean(run.examples_per_second for run in self.runs)


class Absent(NamedTuple):
    """A row of which no run was finished."""

    label: str
    missing: tuple[Missing, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All variants that were tested on the same rows and learnt from as many labels."""

    dataset: str
    fingerprint: str
    tasks: tuple[Task, ...]
    counts: dict[str, dict[str, int]]
    """Of the test split: task or joint -> rows and positives."""
    variants: tuple[Variant, ...]
    absent: tuple[Absent, ...] = ()
    label_share: float = 1.0
    """Share of one task's labels that was learnt from (`protocol.label_share`)."""
    scarce_task: str | None = None
    """Whose labels these were; None where all were learnt from."""

    @property
    def name(self) -> str:
        """The dataset, and how many of its labels were learnt from where not all were."""
        if self.scarce_task is None:
            return self.dataset
        return f"{self.dataset} with {100 * self.label_share:g} % of {self.scarce_task} labels"

    @property
    def slug(self) -> str:
        """The same for the name of a file: `kuairand-0a04eb` or `kuairand-0a04eb-cvr-0.03`."""
        scarce = "" if self.scarce_task is None else f"-{self.scarce_task}-{self.label_share!r}"
        return file_name(f"{self.dataset}-{self.fingerprint[:6]}{scarce}")

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


def file_name(name: str) -> str:
    """Give a file's name, in the folder where it is put, whatever a record calls its data."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_"


def compare(records: Sequence[RunRecord], begun: Sequence[Unfinished] = ()) -> list[Comparison]:
    """Group tested runs by data and labels, then by everything but the seed.

    Args:
        records: Finished runs; those that were never tested are left out.
        begun: Runs without a record, which show as missing where they belong.
    """
    tested = sorted((r for r in records if "test" in r.metrics), key=_data)
    found = []
    for (dataset, fingerprint, minus_share, task), group in groupby(tested, key=_data):
        runs = list(group)
        variants, absent = _variants(runs, [one for one in begun if _belongs(one, runs[0])])
        found.append(
            Comparison(
                dataset=dataset,
                fingerprint=fingerprint,
                tasks=tuple(Task(**task) for task in runs[0].tasks),
                counts=runs[0].counts["test"],
                variants=variants,
                absent=absent,
                label_share=-minus_share,
                scarce_task=task or None,
            )
        )
    return found


def _data(record: RunRecord) -> tuple[str, str, float, str]:
    """Name what a run learnt from and was tested on; whole data come before scarce labels."""
    share, task = _scarcity(record.config.get("protocol", {}), record.tasks)
    return record.dataset, record.fingerprint, -share, task


def _scarcity(protocol: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """Give the share of labels that was learnt from, and whose; no name where it was all."""
    share = float(protocol.get("label_share", 1.0))
    if share == 1:
        return share, ""
    known = [Task(**task) for task in tasks]
    named = protocol.get("label_share_task")
    return share, named or known[scarce_task(known, None)].name


def _belongs(begun: Unfinished, run: RunRecord) -> bool:
    """Whether an unfinished run would stand in the same table as a finished one."""
    protocol = begun.config.get("protocol", {})
    names = (begun.choices.get("model"), begun.choices.get("dataset"))
    if not isinstance(begun.config.get("seed"), int) or not all(isinstance(n, str) for n in names):
        return False
    return (
        bool(protocol.get("score_test", True))
        and begun.choices.get("dataset") == run.dataset
        and begun.config.get("dataset") == run.config.get("dataset")
        and _scarcity(protocol, run.tasks) == _scarcity(run.config.get("protocol", {}), run.tasks)
    )


class _Cell(NamedTuple):
    """A run, finished or not, as far as its row and seed are concerned."""

    model: str
    seed: int
    settings: dict[str, str]
    run: RunRecord | None
    reason: str

    @property
    def row(self) -> str:
        return repr((self.model, sorted(self.settings.items())))


def _variants(
    runs: Sequence[RunRecord], begun: Sequence[Unfinished]
) -> tuple[tuple[Variant, ...], tuple[Absent, ...]]:
    """Runs of equal config, in the order in which strategies share more and more."""
    cells = [_Cell(run.model, run.seed, _decisive(run.config), run, "") for run in runs]
    finished_cells = {(cell.row, cell.seed) for cell in cells}
    for one in begun:
        reason = "unfinished" if one.failure is None else f"failed: {one.failure}"
        cell = _Cell(one.choices["model"], one.config["seed"], _decisive(one.config), None, reason)
        if (cell.row, cell.seed) not in finished_cells:  # else it is only being made anew
            cells.append(cell)
    rows: dict[str, list[_Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        rows.setdefault(cell.row, []).append(cell)
    groups = list(rows.values())
    usual_seeds = _usual_seeds(groups)
    usual = {
        model: _usual([group[0].settings for group in groups if group[0].model == model])
        for model in {group[0].model for group in groups}
    }
    variants, absent = [], []
    for group in groups:
        label = _label(group[0], usual[group[0].model])
        finished = tuple(cell.run for cell in group if cell.run is not None)
        missing = [Missing(cell.seed, cell.reason) for cell in group if cell.run is None]
        seeds = {cell.seed for cell in group}
        missing += [Missing(seed, "not run") for seed in usual_seeds if seed not in seeds]
        if finished:
            variants.append(Variant(label=label, runs=finished, missing=tuple(sorted(missing))))
        else:
            absent.append((group[0].model, Absent(label, tuple(sorted(missing)))))
    variants.sort(key=lambda variant: (_rank(variant.runs[0].model), variant.label))
    absent.sort(key=lambda one: (_rank(one[0]), one[1].label))
    return tuple(variants), tuple(one for _, one in absent)


def _label(cell: _Cell, usual: Mapping[str, str | None]) -> str:
    """Name a row by its model and by what sets it apart from the model's other rows."""
    varying = [key for key, value in cell.settings.items() if value != usual.get(key)]
    words = (f"{key.removeprefix('model.')}={cell.settings[key]}" for key in varying)
    return " ".join([cell.model, *words])


def _usual_seeds(groups: Sequence[Sequence[_Cell]]) -> list[int]:
    """Seeds that more than half of the rows have, so that the others lack them."""
    times = Counter(seed for group in groups for seed in {cell.seed for cell in group})
    return sorted(seed for seed, n in times.items() if 2 * n > len(groups))


def _usual(settings: Sequence[Mapping[str, str]]) -> dict[str, str | None]:
    """Give per key the value that most of a model's rows have, and need not be told, if any."""
    keys = dict.fromkeys(key for one in settings for key in one)
    found: dict[str, str | None] = {}
    for key in keys:
        value, times = Counter(one.get(key, "") for one in settings).most_common(1)[0]
        found[key] = value if 2 * times > len(settings) else None
    return found


ORDER = ("single_task", "shared_embedding", "shared_bottom", "omoe", "mmoe", "cgc", "ple", "ncs")


def _rank(model: str) -> tuple[int, str]:
    return (ORDER.index(model) if model in ORDER else len(ORDER), model)


def _decisive(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten what can make two runs differ: `{"model.density": "0.2", ...}`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in IGNORED:
            continue
        flat |= _decisive(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return flat


FEWEST_RANKED = 3
"""Strategies: two are compared by a test of their difference."""
MEAN = "mean AUC of the tasks"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One metric of the same strategies on several datasets."""

    metric: str
    """A metric's name, or `MEAN`."""
    datasets: tuple[str, ...]
    labels: tuple[str, ...]
    values: Floats
    """`[datasets, labels]`: means over seeds."""


def shared_metrics(comparisons: Sequence[Comparison]) -> list[Shared]:
    """Give the AUCs of `FEWEST_RANKED` strategies or more on two datasets or more, `MEAN` first.

    Runs that learnt from a part of the labels are left out, and of several preparations of one
    dataset all but the one with the most strategies: these are not independent of each other.
    """
    chosen, labels = _choose(comparisons)
    if len(chosen) < 2:
        return []
    names = [MEAN, *(m for m in chosen[0].auc_metrics if all(m in c.auc_metrics for c in chosen))]
    found = []
    for name in names:
        by_label = [{v.label: _value(c, v, name) for v in c.variants} for c in chosen]
        whole = [label for label in labels if all(of[label] is not None for of in by_label)]
        if len(whole) >= FEWEST_RANKED:
            found.append(
                Shared(
                    metric=name,
                    datasets=tuple(one.dataset for one in chosen),
                    labels=tuple(whole),
                    values=np.array([[of[label] for label in whole] for of in by_label], float),
                )
            )
    return found


def _choose(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Give a comparison per dataset, and the strategies that all of them have."""
    chosen: dict[str, Comparison] = {}
    labels: list[str] = []
    # The largest first: what has too little in common with it is left out, not it.
    for one in sorted(comparisons, key=lambda one: -len(one.variants)):
        own = [variant.label for variant in one.variants]
        common = [label for label in labels if label in own] if chosen else own
        if one.scarce_task is None and one.dataset not in chosen and len(common) >= FEWEST_RANKED:
            chosen[one.dataset] = one
            labels = common
    return list(chosen.values()), labels


def _value(comparison: Comparison, variant: Variant, name: str) -> float | None:
    if name != MEAN:
        estimate = variant.estimate(name)
        return None if estimate is None else estimate.mean
    found = [variant.estimate(f"{task.name}_auc") for task in comparison.tasks]
    means = [estimate.mean for estimate in found if estimate is not None]
    return sum(means) / len(means) if means and len(means) == len(found) else None
