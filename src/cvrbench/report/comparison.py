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

from cvrbench.config.ncs import BASE, SEARCH, readers, short_forms
from cvrbench.config.validate import leaves
from cvrbench.data.label_subsampling import scarce_task
from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.metrics.evaluation import describe_metric, owner_of, ranking_metric
from cvrbench.runs.record import NUMBER_FREE, SCARCITY, RunRecord
from cvrbench.runs.store import Unfinished
from cvrbench.runs.study import StudySummary
from cvrbench.stats.difference import Estimate, auc_standard_error, t_interval
from cvrbench.stats.influence import Floats

IGNORED = ("seed", "dataset", *NUMBER_FREE, *SCARCITY)
"""Config keys that do not make two runs of one strategy different variants; runs are grouped by
`SCARCITY` before."""
ORDER = ("single_task", "shared_embedding", "shared_bottom", "omoe", "mmoe", "cgc", "ple", "ncs")
"""Strategies as they share more and more; others stand below them."""
OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
"""Commas between values, not those within a list such as [128,64]."""
USUAL = " Usual ones are dataset, model, seed, and keys as `cvrbench config` prints them."
LONG = 6
"""Characters of a number from which a name has it shorter."""
FEWEST_RANKED = 3
"""Strategies: two are compared by a test of their difference."""
MEAN = "mean AUC of the tasks"


class Missing(NamedTuple):
    """An expected run that does not exist."""

    seed: int
    reason: str
    """`failed: the loss is not finite ...`, `unfinished` or `not run`."""


def examples_of(run: RunRecord) -> int:
    """Rows that a run computed gradients on, searches included."""
    return run.examples.get("search", 0) + run.examples.get("train", 0)


def seeds_at_once(run: RunRecord) -> str:
    """Return how many seeds were trained as one program with a run's: "1" where it was alone."""
    return str(run.environment.get("together", 1))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Runs that differ in nothing but the seed."""

    label: str
    """The model's option, and what else sets it apart: `ncs density=0.3`."""
    runs: tuple[RunRecord, ...]
    missing: tuple[Missing, ...] = ()

    @property
    def settings(self) -> str:
        """A hash of all but the seed, which stays where the label changes with its neighbours."""
        run = self.runs[0]
        text = json.dumps([run.model, _settings(run.config) | _code(run)], sort_keys=True)
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
        """Mean time of `search` or `train`; 0 for a record without it."""
        return fmean(run.seconds.get(stage, 0.0) for run in self.runs)

    @property
    def examples(self) -> float:
        """Mean number of rows that gradients were computed on, searches included."""
        return fmean(map(examples_of, self.runs))

    @property
    def seeds_at_once(self) -> str:
        """Return how many seeds were trained as one program: "1", or "1 or 3" if runs differ."""
        return " or ".join(sorted({seeds_at_once(run) for run in self.runs}))

    @property
    def rate(self) -> float:
        """Mean number of training examples per second."""
        return fmean(run.examples_per_second for run in self.runs)


class Absent(NamedTuple):
    """A row without a finished run."""

    label: str
    missing: tuple[Missing, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All variants that were tested on the same rows and learnt from as many labels."""

    dataset: str
    fingerprint: str
    tasks: tuple[Task, ...]
    counts: dict[str, dict[str, int]]
    """Test split: task or joint -> rows and positives."""
    variants: tuple[Variant, ...]
    absent: tuple[Absent, ...] = ()
    label_share: float = 1.0
    """Share of one task's labels that was learnt from (`protocol.label_share`)."""
    scarce_task: str | None = None
    """Task of these labels; None where all were learnt from."""

    @property
    def name(self) -> str:
        """The dataset, and the share of labels that was learnt from where not all were."""
        if self.scarce_task is None:
            return self.dataset
        return f"{self.dataset} with {100 * self.label_share:g} % of {self.scarce_task} labels"

    @property
    def slug(self) -> str:
        """The same as part of a file name: `kuairand-0a04eb` or `kuairand-0a04eb-cvr-0.03`."""
        scarce = "" if self.scarce_task is None else f"-{self.scarce_task}-{self.label_share!r}"
        return file_name(f"{self.dataset}-{self.fingerprint[:6]}{scarce}")

    @property
    def auc_metrics(self) -> list[str]:
        """AUC of every space, of a ratio's XAUC, in the order of the tasks."""
        return [ranking_metric(name, self.tasks) for name in self.counts]

    def row_error(self, metric: str) -> float | None:
        """Half-width of the 95 % interval that the test rows alone leave to an AUC."""
        if not metric.endswith("_auc"):
            return None
        count = self.counts[metric.removesuffix("_auc")]
        means = [e.mean for variant in self.variants if (e := variant.estimate(metric)) is not None]
        negatives = count["rows"] - count["positives"]
        if not means or not count["positives"] or not negatives:
            return None
        return 1.96 * auc_standard_error(max(means), count["positives"], negatives)

    def best_reachable(self, metric: str) -> float | None:
        """AUC or XAUC of the truth, known for planted data."""
        owner = owner_of(metric)
        found = self.variants[0].estimate(f"{owner}_best{metric.removeprefix(owner)}")
        return found.mean if found is not None else None

    def header(self, metric: str) -> str:
        """The metric's name with its space."""
        return describe_metric(metric, self.tasks).header


def file_name(name: str) -> str:
    """Return a name without characters that lead out of a folder."""
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
    """Return what a run learnt from and was tested on; whole data sort before scarce labels."""
    share, task = _scarcity(record.config, record.tasks)
    return record.dataset, record.fingerprint, -share, task


def _scarcity(config: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """Return the share of labels that was learnt from, and their task; "" where it was all."""
    protocol = config.get("protocol", {})
    share = float(protocol.get("label_share", 1.0))
    if share == 1:
        return share, ""
    known = [Task(**task) for task in tasks]
    return share, protocol.get("label_share_task") or known[scarce_task(known, None)].name


def _belongs(begun: Unfinished, run: RunRecord) -> bool:
    """Whether an unfinished run would stand in the same table as a finished one."""
    names = (begun.choices.get("model"), begun.choices.get("dataset"))
    if not isinstance(begun.config.get("seed"), int) or not all(isinstance(n, str) for n in names):
        return False
    return (
        bool(begun.config.get("protocol", {}).get("score_test", True))
        and begun.choices.get("dataset") == run.dataset
        and begun.config.get("dataset") == run.config.get("dataset")
        and _scarcity(begun.config, run.tasks) == _scarcity(run.config, run.tasks)
    )


class _Cell(NamedTuple):
    """Row and seed of a run, finished or not."""

    model: str
    seed: int
    settings: dict[str, str]
    run: RunRecord | None = None
    reason: str = ""

    @property
    def row(self) -> str:
        return repr((self.model, sorted(self.settings.items())))


def _variants(
    runs: Sequence[RunRecord], begun: Sequence[Unfinished]
) -> tuple[tuple[Variant, ...], tuple[Absent, ...]]:
    """Group runs of equal config and code, in the order in which strategies share more and more.

    A seed counts once in a row, however often it was run on the same rows: the last time stands.
    """
    found = [_Cell(run.model, run.seed, _settings(run.config) | _code(run), run) for run in runs]
    last = {(cell.row, cell.seed): cell for cell in sorted(found, key=_finished)}
    cells = [cell for cell in found if last[cell.row, cell.seed] is cell]
    finished_cells = {*last}
    code = {(run.model, repr(_settings(run.config))): _code(run) for run in runs}
    newest = max(map(_code, runs), key=lambda one: int(one.get("numbers", 0)), default={})
    for one in begun:
        reason = "unfinished" if one.failure is None else f"failed: {one.failure}"
        model, own = one.choices["model"], _settings(one.config)
        own |= code.get((model, repr(own)), newest)  # no record says which code will finish it
        cell = _Cell(model, one.config["seed"], own, None, reason)
        if (cell.row, cell.seed) not in finished_cells:  # else it is only being made anew
            cells.append(cell)
    groups: dict[str, list[_Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        groups.setdefault(cell.row, []).append(cell)
    by_model: dict[str, list[list[_Cell]]] = {}
    for group in groups.values():
        by_model.setdefault(group[0].model, []).append(group)
    # Seeds that more than half of the rows have, so that the others lack them.
    times = Counter(seed for group in groups.values() for seed in {cell.seed for cell in group})
    usual_seeds = [seed for seed, n in times.items() if 2 * n > len(groups)]
    variants, absent = [], []
    for model in sorted(by_model, key=lambda name: _rank(name)):
        settings = [group[0].settings for group in by_model[model]]
        labels = [_label(group[0], settings, _shortened) for group in by_model[model]]
        if len(set(labels)) < len(labels):  # values that differ in a later digit alone
            labels = [_label(group[0], settings, str) for group in by_model[model]]
        rows = list(zip(labels, by_model[model], strict=True))
        for label, group in sorted(rows, key=lambda row: row[0]):
            missing = [Missing(cell.seed, cell.reason) for cell in group if cell.run is None]
            seeds = {cell.seed for cell in group}
            missing += [Missing(seed, "not run") for seed in usual_seeds if seed not in seeds]
            whole, lacking = [cell.run for cell in group if cell.run], tuple(sorted(missing))
            if whole:
                variants.append(Variant(label=label, runs=tuple(whole), missing=lacking))
            else:
                absent.append(Absent(label, lacking))
    return tuple(variants), tuple(absent)


def _finished(cell: _Cell) -> str:
    return "" if cell.run is None else str(cell.run.environment.get("finished", ""))


def _rank(model: str) -> tuple[int, str]:
    return (ORDER.index(model) if model in ORDER else len(ORDER), model)


def _shortened(value: str) -> str:
    """Return a number with three digits that count, anything else as it is.

    >>> _shortened("0.05178947"), _shortened("[128, 64]"), _shortened("100000")
    ('0.0518', '[128, 64]', '100000')
    """
    try:
        return f"{float(value):.3g}" if "." in value and len(value) > LONG else value
    except ValueError:
        return value


def _label(cell: _Cell, rows: Sequence[Mapping[str, str]], written: Callable[[str], str]) -> str:
    """Name a row by its model and by what sets it apart from the model's other rows.

    A key of a mask search, or of one balancing method or objective, sets it apart from rows of the
    same search or method, which have the key as well.
    """
    own, usual = cell.settings, _usual(rows)
    if len({row.get(SEARCH) for row in rows}) > 1:  # a row without its search reads as the default
        usual[SEARCH] = None
    same = [row for row in rows if all(row.get(k) == own.get(k) for k in (SEARCH, BASE))]
    usual_in_search = _usual(same)
    words = [cell.model]
    for key, value in own.items():
        kind = f"{key.partition('.')[0]}.kind"
        common = usual
        if _is_of_search(key):
            common = usual_in_search
        elif key != kind and kind in own:
            common = _usual([row for row in rows if row.get(kind) == own[kind]])
        if value != common.get(key):
            words.append(f"{key.removeprefix('model.').removesuffix('.kind')}={written(value)}")
    return " ".join(words)


def _is_of_search(key: str) -> bool:
    """Whether a key is one of some mask searches alone; all but `dense` have density and scope."""
    common = (SEARCH, BASE, "model.density", "model.scope")
    return key not in common and bool(readers(key))


def _usual(settings: Sequence[Mapping[str, str]]) -> dict[str, str | None]:
    """Return per key the value that most of a model's rows have, which no label repeats, if any."""
    found: dict[str, str | None] = {}
    for key in dict.fromkeys(key for one in settings for key in one):
        value, times = Counter(one.get(key, "") for one in settings).most_common(1)[0]
        found[key] = value if 2 * times > len(settings) else None
    return found


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten what can make two runs differ: `{"model.density": "0.2", ...}`."""
    return {
        key: str(value)
        for key, value in _values(config)
        if not any(key == name or key.startswith(f"{name}.") for name in IGNORED)
    }


def _code(run: RunRecord) -> dict[str, str]:
    """Return the version of the numbers that a run's code computed; nothing of an earlier run."""
    numbers = run.environment.get("numbers")
    return {} if numbers is None else {"numbers": str(numbers)}


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their values, without empty groups, which no override can name."""
    model = config.get("model")
    short = short_forms(model) if isinstance(model, Mapping) else {}
    found = leaves(config) | short
    for key, value in found.items():
        named = short and key.startswith(f"{SEARCH}.") and key not in short
        if not named and not isinstance(value, Mapping):
            yield key, value


def flat_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Flatten a configuration in the grammar of overrides: `("model.density", "0.2")`."""
    return ((key, _override(value)) for key, value in _values(config))


def _override(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def mixed(comparison: Comparison) -> Iterator[str]:
    """Yield what rows differ in that is no way of sharing, and so may be what differs."""
    of: dict[str, Callable[[RunRecord], Any]] = {
        "learn by different objectives": lambda run: run.choices.get("objective"),
        "choose their epoch by different metrics": lambda run: run.config.get("protocol", {}).get(
            "selection"
        ),
    }
    for words, value in of.items():
        rows: dict[str, list[str]] = {}
        for variant in comparison.variants:
            if (found := value(variant.runs[0])) is not None:
                rows.setdefault(str(found), []).append(variant.label)
        if len(rows) > 1:
            told = "; ".join(f"{name}: {len(labels)}" for name, labels in rows.items())
            yield f"Rows {words} ({told}): a part of their differences may be that."


@dataclass(frozen=True)
class Filters:
    """Which runs a report is about: `dataset=kuairand model=ncs,mmoe model.density=0.2`."""

    wanted: Mapping[str, tuple[str, ...]]
    """Key -> the values that a run may have there."""

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Filters":
        """Parse `KEY=VALUE[,VALUE...]`.

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
        return cls(wanted)

    def records(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Return the runs that have all that is wanted.

        Raises:
            ConfigError: No run has a key or a value, so that it is a slip.
        """
        facts = [
            {
                **_facts(record.choices, record.config),
                "dataset": record.dataset,
                "fingerprint": record.fingerprint,
                "model": record.model,
                "seed": str(record.seed),
            }
            for record in records
        ]
        if facts:
            self._refuse_unmet(facts)
        return [record for record, of in zip(records, facts, strict=True) if self._fit(of.get)]

    def begun(self, begun: Iterable[Unfinished]) -> list[Unfinished]:
        """Return the unfinished runs that have all that is wanted."""
        return [one for one in begun if self._fit(_facts(one.choices, one.config).get)]

    def sweeps(self, summaries: Iterable[StudySummary]) -> list[StudySummary]:
        """Return the sweeps on the wanted data with the wanted models; other keys are runs'."""
        return [
            one
            for one in summaries
            if all(
                getattr(one, key) in self.wanted.get(key, (getattr(one, key),))
                for key in ("dataset", "fingerprint", "model")
            )
        ]

    def _fit(self, fact: Callable[[str], str | None]) -> bool:
        return all(fact(key) in values for key, values in self.wanted.items())

    def _refuse_unmet(self, facts: Sequence[Mapping[str, str]]) -> None:
        for key, values in self.wanted.items():
            met = {one[key] for one in facts if key in one}
            if not met:
                near = did_you_mean(key, sorted({name for one in facts for name in one}))
                raise ConfigError(f"{key}: no run has such a key.{near or USUAL}")
            for value in values:
                if value not in met:
                    raise ConfigError(f"{key}={value}: no run has it; there are {_some(met)}")


def _facts(choices: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    return {**dict(flat_settings(config)), **choices}


def _some(values: Iterable[str], most: int = 8) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return f"{', '.join(ordered[:most])}{more}"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One metric of the same strategies on several datasets, on which they can be ranked."""

    metric: str
    """A metric's name, or `MEAN`."""
    datasets: tuple[str, ...]
    labels: tuple[str, ...]
    values: Floats
    """`[datasets, labels]`: means over seeds."""


def shared_metrics(comparisons: Sequence[Comparison]) -> list[Shared]:
    """Return the AUCs of `FEWEST_RANKED` strategies or more on two datasets or more, `MEAN` first.

    A strategy's rank needs its value on every dataset, so only strategies that were run on all of
    them are ranked. Runs that learnt from a part of the labels are left out, and of several
    preparations of one dataset all but the one with the most strategies: these are not independent
    of each other.
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
    """Return a comparison per dataset, and the strategies that all of them have."""
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
    of_tasks = [ranking_metric(task.name, comparison.tasks) for task in comparison.tasks]
    metrics = of_tasks if name == MEAN else [name]
    means = [e.mean for metric in metrics if (e := variant.estimate(metric)) is not None]
    return sum(means) / len(means) if means and len(means) == len(metrics) else None
