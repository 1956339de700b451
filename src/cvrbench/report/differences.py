"""Which differences to the baseline are real: paired over seeds, and over the same test rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, StoreError
from cvrbench.report.frames import Comparison, Variant
from cvrbench.stats import Difference, Floats, auc_influence, difference, holm, row_variance
from cvrbench.store import ResultStore, RunRecord

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
    base = by_label.pop(baseline)
    verdicts: dict[str, dict[str, Verdict]] = {}
    clustered = False
    for metric in comparison.auc_metrics:
        found: dict[str, Difference] = {}
        for label, variant in by_label.items():
            paired = _pairs(variant, base, metric)
            if len(paired) < 2:
                continue
            variance, clustered = _row_variance(paired, metric, comparison.tasks, store)
            gains = [_value(run, metric) - _value(other, metric) for run, other in paired]
            found[label] = difference(gains, variance)
        adjusted = holm([d.p for d in found.values()])
        verdicts[metric] = {
            label: Verdict(difference=found[label], adjusted_p=p)
            for label, p in zip(found, adjusted, strict=True)
        }
    return Differences(baseline=baseline, verdicts=verdicts, clustered=clustered)


Pairs = Sequence[tuple[RunRecord, RunRecord]]


def _pairs(variant: Variant, base: Variant, metric: str) -> Pairs:
    """Runs of the same seed, where both have the metric."""
    of_seed = {run.seed: run for run in base.runs}
    return [
        (run, of_seed[run.seed])
        for run in variant.runs
        if run.seed in of_seed
        and run.metrics["test"].get(metric) is not None
        and of_seed[run.seed].metrics["test"].get(metric) is not None
    ]


def _value(run: RunRecord, metric: str) -> float:
    value = run.metrics["test"][metric]
    assert value is not None  # `_pairs` leaves such runs out
    return value


def _row_variance(
    paired: Pairs, metric: str, tasks: Sequence[Task], store: ResultStore
) -> tuple[float, bool]:
    """Variance of the mean gain over redrawn test rows, and whether users were drawn whole."""
    total: Floats | None = None
    first: pl.DataFrame | None = None
    for pair in paired:
        for run, sign in zip(pair, (1.0, -1.0), strict=True):
            rows = space_rows(store.predictions(run.run_id), metric.removesuffix("_auc"), tasks)
            first = rows if first is None else first
            if not rows["label"].equals(first["label"]):
                raise StoreError(f"{run.run_id}: its predictions are not of the same test rows")
            share = sign / len(paired) * auc_influence(*_arrays(rows))
            total = share if total is None else total + share
    assert first is not None  # there are two pairs or more
    assert total is not None
    labels = first["label"].to_numpy()
    groups = first["group"].to_numpy() if "group" in first.columns else None
    return row_variance(total, labels, groups), groups is not None


def space_rows(predictions: pl.DataFrame, space: str, tasks: Sequence[Task]) -> pl.DataFrame:
    """Give label, score and group of the rows on which a task or joint is defined."""
    by_name = {task.name: task for task in tasks}
    task = next(task for task in tasks if space in {task.name, task.joint})
    parents: list[str] = []
    parent = task.parent
    while parent is not None:
        parents.append(f"label_{parent}")
        parent = by_name[parent].parent
    label, clicked = pl.col(f"label_{task.name}"), [pl.col(name) == 1 for name in parents]
    if space == task.joint:
        label = pl.all_horizontal(label == 1, *clicked)
    elif parents:
        predictions = predictions.filter(*clicked)
    kept = [label.cast(pl.UInt8).alias("label"), pl.col(f"p_{space}").alias("score")]
    return predictions.select(*kept, *(["group"] if "group" in predictions.columns else []))


def _arrays(rows: pl.DataFrame) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint8]], Floats]:
    return rows["label"].to_numpy(), rows["score"].cast(pl.Float64).to_numpy()
