"""What sharing is worth: every strategy's gain over the same tasks trained each by itself.

The reference is `single_task` on the same rows under the same seeds, so that a gain below 0 is
negative transfer: the task would be better off alone. The gains in the spaces' AUC and their
verdicts are those of `report.differences`; over the tasks they come together in

    delta_m = 1/T sum over tasks t of  (AUC_t - AUC_t alone) / AUC_t alone

(Maninis et al., CVPR 2019, eq. 4; the measure of LibMTL, Lin and Zhang, JMLR 2023), each task in
its own space, with equal weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cvrbench.report.difference_grids import difference_grid
from cvrbench.report.differences import Differences, verdict_json
from cvrbench.report.frames import Comparison, Variant
from cvrbench.report.grids import Cell, Grid
from cvrbench.stats.intervals import Estimate, t_interval

REFERENCE = "single_task"


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The gains of a comparison's strategies over `REFERENCE`."""

    gains: Differences
    """In the AUC of every space, with verdicts."""
    relative: Mapping[str, Estimate]
    """Variant -> delta_m over the seeds that it has in common with the reference."""


def transfer(comparison: Comparison, gains: Differences | None) -> Transfer | None:
    """Tell what sharing is worth.

    Args:
        comparison: All variants on one dataset.
        gains: Their differences to `REFERENCE`; None where there is no such row.

    Returns:
        None where nothing could be tested.
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


def transfer_grid(comparison: Comparison, found: Transfer) -> Grid:
    """Give a row per strategy: its gain in every space, and delta_m."""
    grid = difference_grid(comparison, found.gains)
    rows = [(*row, Cell(_percent(found.relative.get(row[0].text)))) for row in grid.rows]
    return replace(
        grid,
        title=f"{comparison.name}: transfer: gain over {REFERENCE}",
        headers=(*grid.headers, "mean gain (%)"),
        rows=tuple(rows),
        caption=f"{grid.caption} Mean gain: relative, over the tasks' own AUC (delta_m); ± over "
        "seeds.",
    )


def transfer_json(found: Transfer) -> dict[str, Any]:
    """Give the gains as plain values: `{"gain": {metric: {strategy: ...}}, ...}`."""
    return {
        "reference": REFERENCE,
        "gain": {
            metric: {label: verdict_json(verdict) for label, verdict in verdicts.items()}
            for metric, verdicts in found.gains.verdicts.items()
        },
        "mean_relative_gain": {
            label: estimate._asdict() for label, estimate in found.relative.items()
        },
    }


def _relative_gains(comparison: Comparison, variant: Variant, alone: Variant) -> list[float]:
    """delta_m of each seed in which both have every task's AUC."""
    metrics = [f"{task.name}_auc" for task in comparison.tasks]
    of_alone = {run.seed: run.metrics["test"] for run in alone.runs}
    found = []
    for run in variant.runs:
        pairs = [
            (run.metrics["test"].get(metric), of_alone.get(run.seed, {}).get(metric))
            for metric in metrics
        ]
        gains = [(own - base) / base for own, base in pairs if own is not None and base]
        if len(gains) == len(metrics):
            found.append(sum(gains) / len(gains))
    return found


def _percent(estimate: Estimate | None) -> str:
    """`+0.52 ± 0.31`, or a dash."""
    if estimate is None or estimate.half_width is None:
        return "-"
    return f"{100 * estimate.mean:+.2f} ± {100 * estimate.half_width:.2f}"
