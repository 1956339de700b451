"""Which differences to the baseline are shown: paired over seeds, and over the same test rows.

The tests are made from the predictions that every run keeps of its test rows. Gains over the tasks
trained each by itself (`single_task`) are such differences too; a gain below 0 is negative
transfer. Over the tasks they come together in

    delta_m = 1/T sum over tasks t of  (AUC_t - AUC_t alone) / AUC_t alone

(Maninis et al., CVPR 2019, eq. 4; the measure of LibMTL, Lin and Zhang, JMLR 2023), each task in
its own space, with equal weight.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, StoreError
from cvrbench.metrics.evaluation import ranking_metric
from cvrbench.metrics.spaces import Space, spaces
from cvrbench.report import MARGIN
from cvrbench.report.comparison import Comparison, Variant
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.stats.difference import (
    Difference,
    Estimate,
    difference,
    equivalence,
    holm,
    t_interval,
)
from cvrbench.stats.influence import (
    Floats,
    Labels,
    Resampling,
    auc_draws,
    auc_influence,
    common_draw_variance,
    common_row_variance,
    effective_groups,
    gauc_influence,
    gxauc_influence,
    log_loss_draws,
    log_loss_influence,
    mae_draws,
    mae_influence,
    per_group,
    rmse_draws,
    rmse_influence,
    row_variance,
    xauc_draws,
    xauc_influence,
)

RANKING = ("auc", "xauc")
"""Kinds of metric by which rows are compared first."""
KINDS = (*RANKING, "logloss", "gauc", "rmse", "mae", "gxauc")
"""Metrics whose differences are tested; what calibration loses, log loss shows."""
ON_MARGIN = ("auc", "gauc", "xauc", "gxauc")
"""Kinds of metric that a margin of AUC is a margin of."""
ROWS_AT_ONCE = 20_000_000
"""Test rows that may be in memory together, some 100 bytes each; larger runs are read in turn."""
FEW_USERS = 100
"""Effective number of users below which a table says how few they are."""
USUAL_BASELINES = ("shared_bottom", "shared_embedding", "single_task")
"""Baselines where the user names none, the first that is there."""
REFERENCE = "single_task"
"""The row that gains are taken over."""


def predicted_spaces(run_id: str, tasks: Sequence[Task], frame: pl.DataFrame) -> list[Space]:
    """Return every space of a run's predictions, checked.

    Args:
        run_id: Named in errors.
        tasks: Tasks of the run.
        frame: Predictions as `ResultStore.predictions` reads them.

    Raises:
        StoreError: A column is missing or holds no labels or no probabilities, or there are no
            rows.
    """
    labels = [f"label_{task.name}" for task in tasks]
    conditional = [f"p_{task.name}" for task in tasks]
    joint = [f"p_{task.joint or task.name}" for task in tasks]
    for name in dict.fromkeys([*labels, *conditional, *joint]):
        if name not in frame.columns:
            raise StoreError(f"{run_id}: its predictions lack the column {name}; run it again")
        column = frame[name]
        if not column.dtype.is_numeric() or not column.is_finite().all() or column.has_nulls():
            raise StoreError(
                f"{run_id}: its predictions hold no numbers in {name}; run the cell again with "
                "--force"
            )
    if frame.is_empty():
        raise StoreError(f"{run_id}: its predictions have no rows; run the cell again with --force")
    arrays = [frame.select(names).to_numpy() for names in (labels, conditional, joint)]
    if not any(task.is_ratio for task in tasks):
        arrays[0] = arrays[0].astype(np.uint8, copy=False)
    return list(spaces(tasks, *arrays))


class Rows(NamedTuple):
    """The test rows of one space."""

    digest: bytes
    """Hash of labels and users of all spaces, which two runs must have in common."""
    labels: Labels
    users: npt.NDArray[Any] | None
    """`[rows]`, numbered from 0; None where the data have no users."""
    redrawn: Resampling | None
    """How the rows are redrawn; None where the variance is a formula's."""
    effective_users: float
    """Users of equal size that would weigh as these do; infinite without users."""

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a variance over redrawn rows."""
        return max(1.0, self.effective_users - 1)


class Influence(NamedTuple):
    """One run's metric, and how far each test row moves it."""

    run_id: str
    kind: str
    """One of `KINDS`."""
    value: float
    rows: Rows
    influence: Floats
    """`[rows]`, or `[users]` where rows are drawn user by user."""
    draws: Floats
    """`[draws]`: the metric on redrawn rows; empty where the variance is a formula's."""

    @property
    def strata(self) -> Labels | None:
        """Labels, where rows of either class are redrawn in their given number (DeLong)."""
        return self.rows.labels if self.kind == "auc" and self.rows.users is None else None

    def gain_variance(self, other: "Influence") -> float:
        """Variance, over redrawn rows or users, of this metric less another run's."""
        return row_variance(self.influence - other.influence, self.strata)


@dataclass
class InfluenceReader:
    """Reads runs; those that were tested on the same rows share these, whatever the order."""

    tasks: Sequence[Task]
    draws: int = 0
    """Bootstrap draws of the test rows; 0: the variance is a formula's."""
    on_spaces: Callable[[str, Sequence[Space]], None] = lambda *_: None
    """Called with the id and the spaces of every run, for who needs the same predictions."""
    known: dict[bytes, dict[str, Rows]] = field(default_factory=dict)
    """Digest of labels and users -> space -> its rows."""
    runs: dict[bytes, list[str]] = field(default_factory=dict)
    """The same digest -> ids of the runs that were tested on these rows."""
    lock: Lock = field(default_factory=Lock)
    """Held while rows are numbered, which one thread does for all."""

    def read(self, run: RunRecord, frame: pl.DataFrame) -> dict[str, Influence]:
        """Return metric -> `Influence` for every tested metric that is defined.

        Args:
            run: A record.
            frame: The run's predictions on the test rows.

        Raises:
            StoreError: The predictions are not of the rows of the record.
        """
        found = {}
        with self.lock:
            own = list(predicted_spaces(run.run_id, self.tasks, frame))
            digest, rows = self._rows(frame, own)
        for space in own:
            labels = rows[space.name].labels
            ranked = run.metrics["test"].get(ranking_metric(space.name, self.tasks))
            if ranked is not None and not labels.min() < labels.max():
                raise StoreError(f"{run.run_id}: its predictions are not of the same test rows")
            predicted = space.take(space.predicted).astype(np.float64)
            for kind in KINDS:
                metric = f"{space.name}_{kind}"
                value = run.metrics["test"].get(metric)
                if value is not None:
                    moved = _influence(kind, rows[space.name], predicted)
                    found[metric] = Influence(run.run_id, kind, value, rows[space.name], *moved)
        self.runs.setdefault(digest, []).append(run.run_id)
        self.on_spaces(run.run_id, own)
        return found

    def _rows(self, frame: pl.DataFrame, own: Sequence[Space]) -> tuple[bytes, dict[str, Rows]]:
        """Return the digest and the rows of every space; of an earlier run where they are equal."""
        groups = frame["group"].to_numpy() if "group" in frame.columns else None
        hashed = hashlib.blake2b(b"" if groups is None else np.ascontiguousarray(groups).tobytes())
        for space in own:
            hashed.update(np.ascontiguousarray(space.take(space.label)).tobytes())
        digest = hashed.digest()
        if digest not in self.known:
            self.known[digest] = {s.name: self._rows_of(s, groups, digest) for s in own}
        return digest, self.known[digest]

    def _rows_of(self, space: Space, groups: Labels | None, digest: bytes) -> Rows:
        labels = space.take(space.label)
        users = None if groups is None else _numbered(space.take(groups))
        redrawn = None
        if self.draws:
            redrawn = Resampling(rows=len(labels), groups=users, draws=self.draws)
        effective = math.inf if users is None else effective_groups(users)
        return Rows(digest, labels, users, redrawn, effective)

    def usual(self) -> bytes | None:
        """Return the digest that more than half of the runs have; None where there is none."""
        most = max(self.runs, key=lambda digest: len(self.runs[digest]), default=None)
        total = sum(map(len, self.runs.values()))
        return most if most is not None and 2 * len(self.runs[most]) > total else None

    def others(self) -> Iterator[str]:
        """Yield a sentence about each run that was tested on other rows than most."""
        usual = self.usual()
        for digest, runs in self.runs.items():
            for run_id in runs if digest != usual else ():
                yield f"{run_id}: its predictions are not of the same test rows" + (
                    " as those of most runs" if usual else ", and no rows are those of most runs"
                )


def _numbered(users: Labels) -> npt.NDArray[Any]:
    """Number users from 0, in 16 bits where they fit: these sort by counting."""
    found, codes = np.unique(users, return_inverse=True)
    return codes.astype(np.uint16 if len(found) <= 2**16 else np.int64)


def _influence(kind: str, rows: Rows, predicted: Floats) -> tuple[Floats, Floats]:
    """Return the influence of each row, or user, on one kind of metric, and its draws if wanted."""
    labels, users = rows.labels, rows.users
    of_rows, draw = OF_ROWS.get(kind), DRAWS[kind]
    if of_rows is not None:
        influence = of_rows(labels, predicted)
        if users is not None:
            influence = per_group(influence, users, labels if kind == "auc" else None)
    else:
        if users is None:
            raise StoreError(f"a record tells a {kind.upper()}, and its predictions have no users")
        influence = (gauc_influence if kind == "gauc" else gxauc_influence)(
            labels, predicted, users
        )
        draw = partial(draw, groups=users)
    drawn = np.empty(0) if rows.redrawn is None else draw(labels, predicted, rows.redrawn)
    return influence, drawn


OF_ROWS: dict[str, Callable[[Labels, Floats], Floats]] = {
    "auc": auc_influence,
    "xauc": xauc_influence,
    "logloss": log_loss_influence,
    "rmse": rmse_influence,
    "mae": mae_influence,
}
"""Kind -> influence of each row; GAUC's and GXAUC's is of users."""
DRAWS: dict[str, Callable[..., Floats]] = {
    "auc": auc_draws,
    "gauc": auc_draws,
    "xauc": xauc_draws,
    "gxauc": xauc_draws,
    "logloss": log_loss_draws,
    "rmse": rmse_draws,
    "mae": mae_draws,
}
"""Kind -> the metric on redrawn rows."""


def seeds_row_variance(pairs: Sequence[tuple[Influence, Influence]]) -> float:
    """Variance over redrawn test rows of what the seeds' differences have in common.

    What rows do to one seed alone is in the seeds' spread already.
    """
    first = pairs[0][0]
    if len(first.draws):
        drawn = np.array([one.draws - other.draws for one, other in pairs])
        if (~np.isnan(drawn).any(axis=0)).sum() < 2:
            raise StoreError(f"{first.run_id}: hardly any redrawn test rows have both classes")
        return common_draw_variance(drawn)
    gains = np.array([one.influence - other.influence for one, other in pairs])
    return common_row_variance(gains, first.strata)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How differences are tested."""

    margin: float = MARGIN
    """Difference of AUC or GAUC that matters."""
    draws: int = 0
    """Bootstrap draws of the test rows; 0: their variance is DeLong's and Obuchowski's."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A variant's metric less the baseline's."""

    difference: Difference
    adjusted_p: float
    """p after Holm, over all variants of one metric."""
    equivalence_p: float | None
    """p of a difference as large as the margin, after Holm; None of a metric without a margin."""

    @property
    def is_shown(self) -> bool:
        """Whether a difference is shown at 5 per cent, after the adjustment."""
        return self.adjusted_p < 0.05

    @property
    def is_equivalent(self) -> bool:
        """Whether it is shown, at 5 per cent, to be smaller than the margin."""
        return self.equivalence_p is not None and self.equivalence_p < 0.05


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All verdicts of a comparison; a variant without two seeds in common has none."""

    baseline: str
    verdicts: dict[str, dict[str, Verdict]]
    """Metric -> variant -> verdict; AUC, log loss and GAUC of every space."""
    clustered: bool
    """Whether test rows were taken user by user."""
    few_users: Mapping[str, float] = field(default_factory=dict)
    """Space -> effective number of its users, where that is below `FEW_USERS`."""
    how: Method

    @property
    def margin(self) -> float:
        """Difference of AUC or GAUC that matters."""
        return self.how.margin

    def of(self, metric: str, label: str) -> Verdict | None:
        """Return a variant's verdict in one metric, if it has one."""
        return self.verdicts.get(metric, {}).get(label)


def few_users_of(known: Mapping[str, Rows]) -> dict[str, float]:
    """Return the spaces with few users, and how many these are in effect."""
    effective = {name: rows.effective_users for name, rows in known.items()}
    return {name: n for name, n in effective.items() if n < FEW_USERS}


def few_users_words(found: Mapping[str, float]) -> str:
    """Return a sentence on the small-sample correction, led by a space; nothing for many users."""
    if not found:
        return ""
    told = ", ".join(f"{name.upper()} {n:.1f}" for name, n in found.items())
    return (
        f" Few users, or a few heavy ones (in effect {told}): ± and p are corrected for that (CR2 "
        "and Student's law)."
    )


def choose_baselines(comparisons: Sequence[Comparison], wanted: str | None) -> list[str | None]:
    """Return each comparison's baseline: the wanted row, or the first usual one that any has.

    It is one row for all comparisons, and None where a comparison lacks it: a table whose baseline
    changed by itself would be read for another.

    Raises:
        ConfigError: The wanted row is in no comparison.
    """
    rows = [[variant.label for variant in comparison.variants] for comparison in comparisons]
    if wanted is None:
        usual = next((u for u in USUAL_BASELINES if any(u in labels for labels in rows)), None)
        return [usual if usual in labels else None for labels in rows]
    if not any(wanted in labels for labels in rows):
        there = list(dict.fromkeys(label for labels in rows for label in labels))
        raise ConfigError(f"--baseline {wanted}: no such row; there are {', '.join(there)}")
    return [wanted if wanted in labels else None for labels in rows]


def against(
    comparison: Comparison,
    baselines: Sequence[str],
    store: ResultStore,
    how: Method | None = None,
    on_read: Callable[[], None] = lambda: None,
    on_problem: Callable[[str], None] = lambda _: None,
    on_spaces: Callable[[str, Sequence[Space]], None] = lambda *_: None,
    on_influence: Callable[[RunRecord, dict[str, Influence]], None] | None = None,
) -> dict[str, Differences]:
    """Compare every variant with each baseline, from the predictions kept on the test rows.

    Every run's predictions are read once, those of a variant side by side; a run that has no
    partner is not read, unless somebody wants all influences.

    Args:
        comparison: The variants.
        baselines: Labels of some of them.
        store: Where the predictions are.
        how: Margin and bootstrap draws; None for the usual.
        on_read: Called for every run whose predictions are read.
        on_problem: Called for every run whose predictions are missing, damaged, or of other rows;
            it has no part in any difference.
        on_spaces: Called with the id and the spaces of every run that could be read.
        on_influence: Called with the influences of every run that could be read; None: not wanted.
    """
    how = how or Method()
    reader = InfluenceReader(comparison.tasks, how.draws, on_spaces)
    seen: set[str] = set()

    def read(run: RunRecord) -> _Influences | None:
        on_read()
        seen.add(run.run_id)
        try:
            found = reader.read(run, store.predictions(run.run_id))
        except StoreError as problem:
            on_problem(str(problem))
            return None
        if on_influence is not None:
            on_influence(run, found)
        return found

    tested: dict[tuple[bytes, str], _Verdicts] = {}
    n_rows = max(count["rows"] for count in comparison.counts.values())
    workers = max(1, min(os.cpu_count() or 1, ROWS_AT_ONCE // max(n_rows, 1)))
    for label, baseline, runs in _read_pairs(_pairs(comparison, baselines), read, workers):
        for digest, same in _by_rows(runs).items():
            for metric, verdict in _test(same, how.margin).items():
                tested.setdefault((digest, baseline), {}).setdefault(metric, {})[label] = verdict
    if on_influence is not None:
        for run in (run for variant in comparison.variants for run in variant.runs):
            if run.run_id not in seen:
                read(run)
    for sentence in reader.others():
        on_problem(sentence)
    usual = reader.usual() or b""
    known = reader.known.get(usual, {})
    return {
        label: Differences(
            baseline=label,
            verdicts=_adjusted(comparison, tested.get((usual, label), {})),
            clustered=any(rows.users is not None for rows in known.values()),
            few_users=few_users_of(known),
            how=how,
        )
        for label in baselines
    }


def _by_rows(
    runs: Sequence[tuple["_Influences", "_Influences"]],
) -> dict[bytes, list[tuple["_Influences", "_Influences"]]]:
    """Group the pairs whose runs were tested on the same rows by these."""
    found: dict[bytes, list[tuple[_Influences, _Influences]]] = {}
    for pair in runs:
        digests = {one.rows.digest for side in pair for one in side.values()}
        if len(digests) == 1:
            found.setdefault(digests.pop(), []).append(pair)
    return found


_Influences = dict[str, Influence]
"""Metric -> influence."""
_Verdicts = dict[str, dict[str, Verdict]]
"""Metric -> variant -> verdict."""
_Pairs = dict[str, dict[str, list[tuple[RunRecord, RunRecord]]]]
"""Variant -> baseline -> runs of one seed each."""


def _pairs(comparison: Comparison, baselines: Sequence[str]) -> _Pairs:
    """Pair runs by seed, where a variant and a baseline have two seeds or more in common."""
    runs = {one.label: {run.seed: run for run in one.runs} for one in comparison.variants}
    found: _Pairs = {}
    for label, own in runs.items():
        for baseline in baselines:
            base = runs[baseline]
            both = [(own[seed], base[seed]) for seed in own if seed in base]
            if label != baseline and len(both) >= 2:
                found.setdefault(label, {})[baseline] = both
    return found


def _read_pairs(
    pairs: _Pairs, read: Callable[[RunRecord], _Influences | None], workers: int
) -> Iterator[tuple[str, str, list[tuple[_Influences, _Influences]]]]:
    """Yield variant, baseline and both influences; the baselines and two variants are kept."""
    sides = [both for of in pairs.values() for both in of.values()]
    bases = {base.run_id: base for both in sides for _, base in both}
    known: dict[str, _Influences | None] = {}
    with ThreadPoolExecutor(workers) as pool:  # NumPy and polars let other threads run

        def read_all(runs: Mapping[str, RunRecord]) -> dict[str, _Influences | None]:
            return dict(zip(runs, pool.map(read, runs.values()), strict=True))

        known |= read_all(bases)
        for label, of in pairs.items():
            own = {run.run_id: run for both in of.values() for run, _ in both}
            everything = known | read_all({name: own[name] for name in own if name not in known})
            for baseline, both in of.items():
                found = [(everything[a.run_id], everything[b.run_id]) for a, b in both]
                yield label, baseline, [(a, b) for a, b in found if a is not None and b is not None]


def _test(runs: Sequence[tuple[_Influences, _Influences]], margin: float) -> dict[str, Verdict]:
    """Test every metric that two pairs or more have; no p is adjusted yet."""
    found = {}
    for metric in dict.fromkeys(metric for own, _ in runs for metric in own):
        pairs = [
            (own[metric], base[metric]) for own, base in runs if metric in own and metric in base
        ]
        if len(pairs) < 2:
            continue
        per_seed = [one.value - other.value for one, other in pairs]
        result = difference(per_seed, seeds_row_variance(pairs), pairs[0][0].rows.freedom)
        found[metric] = Verdict(
            difference=result,
            adjusted_p=result.p,
            equivalence_p=equivalence(result, margin) if pairs[0][0].kind in ON_MARGIN else None,
        )
    return found


def _adjusted(comparison: Comparison, tested: _Verdicts) -> _Verdicts:
    """Adjust the verdicts metric by metric (Holm); AUCs come first and are there if untested."""
    found = {}
    for metric in (f"{name}_{kind}" for kind in KINDS for name in comparison.counts):
        of = tested.get(metric, {})
        adjusted = holm([one.adjusted_p for one in of.values()])
        margins = [one.equivalence_p for one in of.values() if one.equivalence_p is not None]
        within = holm(margins) if margins else [None] * len(of)
        if of or metric in comparison.auc_metrics:
            found[metric] = {
                label: replace(one, adjusted_p=p, equivalence_p=equal)
                for (label, one), p, equal in zip(of.items(), adjusted, within, strict=True)
            }
    return found


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The gains of a comparison's strategies over `REFERENCE`."""

    gains: Differences
    """Gains in every space, with verdicts."""
    relative: Mapping[str, Estimate]
    """Variant -> delta_m over the seeds that it has in common with the reference."""


def transfer(comparison: Comparison, gains: Differences | None) -> Transfer | None:
    """Return what sharing is worth; None where nothing could be tested.

    Args:
        comparison: All variants on one dataset.
        gains: Their differences to `REFERENCE`; None where there is no such row.
    """
    by_label = {variant.label: variant for variant in comparison.variants}
    alone = by_label.pop(REFERENCE, None)
    if alone is None or gains is None or not any(gains.verdicts.values()):
        return None
    relative = {
        label: t_interval(values)
        for label, variant in by_label.items()
        if len(values := _relative_gains(comparison, variant, alone)) > 1
    }
    return Transfer(gains=gains, relative=relative)


def _relative_gains(comparison: Comparison, variant: Variant, alone: Variant) -> list[float]:
    """delta_m of each seed in which both have every task's AUC."""
    metrics = [ranking_metric(task.name, comparison.tasks) for task in comparison.tasks]
    of_alone = {run.seed: run.metrics["test"] for run in alone.runs}
    found = []
    for run in variant.runs:
        base = of_alone.get(run.seed, {})
        pairs = [(run.metrics["test"].get(metric), base.get(metric)) for metric in metrics]
        gains = [(own - other) / other for own, other in pairs if own is not None and other]
        if len(gains) == len(metrics):
            found.append(sum(gains) / len(gains))
    return found
