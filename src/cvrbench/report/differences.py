"""Which differences to the baseline are real: paired over seeds, and over the same test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import polars as pl

from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, StoreError
from cvrbench.record import RunRecord
from cvrbench.report.frames import Comparison
from cvrbench.spaces import spaces
from cvrbench.stats import (
    Difference,
    Floats,
    Labels,
    auc_influence,
    difference,
    holm,
    row_variance,
)
from cvrbench.store import ResultStore

USUAL_BASELINES = ("shared_bottom", "shared_embedding", "single_task")
"""What a table is held against where the user names nothing, the first that is there."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A variant's AUC less the baseline's."""

    difference: Difference
    adjusted_p: float
    """After Holm, over all variants of one metric."""

    @property
    def is_real(self) -> bool:
        """Whether the difference stands at 5 per cent after the adjustment."""
        return self.adjusted_p < 0.05


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All verdicts of a comparison; a variant without two seeds in common has none."""

    baseline: str
    verdicts: dict[str, dict[str, Verdict]]
    """Metric -> variant -> verdict."""
    clustered: bool
    """Whether test rows were taken user by user."""

    def of(self, metric: str, label: str) -> Verdict | None:
        """Give a variant's verdict in one metric, if it has one."""
        return self.verdicts.get(metric, {}).get(label)


def choose_baselines(comparisons: Sequence[Comparison], wanted: str | None) -> list[str | None]:
    """Give each comparison's baseline: the wanted row, else a usual one; None where it has none.

    Raises:
        ConfigError: The wanted row is in no comparison.
    """
    rows = [[variant.label for variant in comparison.variants] for comparison in comparisons]
    if wanted is None:
        return [next((u for u in USUAL_BASELINES if u in labels), None) for labels in rows]
    if not any(wanted in labels for labels in rows):
        there = list(dict.fromkeys(label for labels in rows for label in labels))
        raise ConfigError(f"--baseline {wanted}: no such row; there are {', '.join(there)}")
    return [wanted if wanted in labels else None for labels in rows]


def against(comparison: Comparison, baseline: str, store: ResultStore) -> Differences:
    """Compare every variant with the baseline from the predictions kept on the test rows.

    Raises:
        StoreError: Predictions are missing, or were made on other rows.
    """
    by_label = {variant.label: variant for variant in comparison.variants}
    base = {run.seed: run for run in by_label.pop(baseline).runs}
    tasks = comparison.tasks
    of_base = cache(lambda seed: read_moves(base[seed], tasks, store))
    found: dict[str, dict[str, Difference]] = {metric: {} for metric in comparison.auc_metrics}
    clustered = False
    for label, variant in by_label.items():
        runs = [run for run in variant.runs if run.seed in base]
        if len(runs) < 2:
            continue
        pairs = [(read_moves(run, tasks, store), of_base(run.seed)) for run in runs]
        for metric, differences in found.items():
            both = [(a[metric], b[metric]) for a, b in pairs if metric in a and metric in b]
            if len(both) >= 2:
                differences[label] = _difference(both)
                clustered = both[0][0].groups is not None
    verdicts = {metric: _verdicts(differences) for metric, differences in found.items()}
    return Differences(baseline=baseline, verdicts=verdicts, clustered=clustered)


class Moves(NamedTuple):
    """One run's AUC in one space, and how far each of the space's rows moves it."""

    run_id: str
    auc: float
    labels: Labels
    groups: Labels | None
    influence: Floats


def read_moves(run: RunRecord, tasks: Sequence[Task], store: ResultStore) -> dict[str, Moves]:
    """Read a run's predictions; give metric -> `Moves` of every AUC that is defined.

    Raises:
        StoreError: The predictions are missing, damaged, or not of the rows of the record.
    """
    return moves_of(run, tasks, store.predictions(run.run_id))


def moves_of(run: RunRecord, tasks: Sequence[Task], frame: pl.DataFrame) -> dict[str, Moves]:
    """Give metric -> `Moves` of every AUC that is defined.

    Raises:
        StoreError: The predictions are not of the rows of the record.
    """
    groups = frame["group"].to_numpy() if "group" in frame.columns else None
    labels = frame.select(f"label_{task.name}" for task in tasks).to_numpy()
    conditional = frame.select(f"p_{task.name}" for task in tasks).to_numpy()
    joint = frame.select(f"p_{task.joint or task.name}" for task in tasks).to_numpy()
    moves = {}
    for space in spaces(tasks, labels, conditional, joint):
        auc = run.metrics["test"].get(f"{space.name}_auc")
        if auc is None:
            continue
        label = space.take(space.label)
        if not 0 < label.sum() < len(label):  # no AUC, where the record has one
            raise StoreError(f"{run.run_id}: its predictions are not of the same test rows")
        influence = auc_influence(label, space.take(space.predicted).astype(np.float64))
        drawn = None if groups is None else space.take(groups)
        moves[f"{space.name}_auc"] = Moves(run.run_id, auc, label, drawn, influence)
    return moves


def _difference(pairs: Sequence[tuple[Moves, Moves]]) -> Difference:
    """Test the mean gain of the first over the second, on the same rows."""
    first = pairs[0][0]
    for moves in chain.from_iterable(pairs):
        if not np.array_equal(moves.labels, first.labels):
            raise StoreError(f"{moves.run_id}: its predictions are not of the same test rows")
    influence = np.mean([one.influence - other.influence for one, other in pairs], axis=0)
    variance = row_variance(influence, first.labels, first.groups)
    return difference([one.auc - other.auc for one, other in pairs], variance)


def _verdicts(differences: Mapping[str, Difference]) -> dict[str, Verdict]:
    adjusted = holm([found.p for found in differences.values()])
    return {
        label: Verdict(difference=found, adjusted_p=p)
        for (label, found), p in zip(differences.items(), adjusted, strict=True)
    }
