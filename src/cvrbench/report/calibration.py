"""Whether predicted rates happen: reliability curves from the predictions on the test rows.

The rows of a space are ordered by their prediction and cut into bins of equal size; in each, the
mean prediction is held against the share of positives (DeGroot and Fienberg, The Statistician
1983; bins of equal mass as Naeini, Cooper and Hauskrecht, AAAI 2015, have them).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cvrbench.data.schema import Task
from cvrbench.metrics.spaces import Space
from cvrbench.report.comparison import Comparison
from cvrbench.report.differences import predicted_spaces
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.stats.influence import Floats, Labels

BINS = 10
FEWEST = 10
"""Positives that a bin should have in the mean: with fewer, its rate is chance."""
RARE = 0.1
"""Rates below this are read on logarithmic axes."""
CELLS = 40
"""Cells of a histogram."""
LOWEST = 1e-6
"""Where a logarithmic histogram begins; what is predicted below it counts in its first cell."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """One variant's predictions in one space."""

    predicted: Floats
    """`[bins]`: mean prediction of each bin, over the seeds."""
    observed: Floats
    """`[bins]`: share of positives, over the seeds."""
    low: Floats
    high: Floats
    """`[bins]`: least and greatest share among the seeds."""
    mass: Floats
    """`[CELLS]`: share of the predictions in every cell of `Calibration.edges`."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All variants in one space."""

    metric: str
    """`cvr_auc`: its header names the space."""
    rate: float
    """Share of positives."""
    edges: Floats
    """`[CELLS + 1]`: edges of the histograms."""
    variants: Mapping[str, Reliability]

    @property
    def is_rare(self) -> bool:
        """Whether it is read on logarithmic axes."""
        return self.rate < RARE


def calibrations(comparison: Comparison, store: ResultStore) -> list[Calibration]:
    """Compare predicted rates with observed ones, a `Calibration` per space with positives.

    Every run's predictions are read once.

    Raises:
        StoreError: Predictions are missing or damaged.
    """
    rates = {
        name: count["positives"] / count["rows"]
        for name, count in comparison.counts.items()
        if 0 < count["positives"] < count["rows"]
    }
    edges = {name: _edges(rate) for name, rate in rates.items()}
    bins = {name: bins_of(comparison.counts[name]["positives"]) for name in rates}
    found: dict[str, dict[str, Reliability]] = {name: {} for name in rates}
    for variant in comparison.variants:
        seeds = [_spaces(run, comparison.tasks, store) for run in variant.runs]
        for name in rates:
            own = [seed[name] for seed in seeds]
            found[name][variant.label] = _over_seeds(own, bins[name], edges[name])
    return [
        Calibration(metric=f"{name}_auc", rate=rate, edges=edges[name], variants=found[name])
        for name, rate in rates.items()
    ]


def bins_of(positives: int) -> int:
    """Return the number of bins: `BINS`, or fewer where positives are few.

    >>> bins_of(10_000), bins_of(45), bins_of(3)
    (10, 4, 1)
    """
    return max(1, min(BINS, positives // FEWEST))


def reliability(labels: Labels, predicted: Floats, bins: int) -> tuple[Floats, Floats]:
    """Return mean prediction and share of positives of bins of equal size, the lowest first.

    Args:
        labels: `[rows]`, 0 or 1, in the order of the predictions.
        predicted: `[rows]`, ascending.
        bins: At most as many as rows.

    Returns:
        Two arrays `[bins]`.
    """
    ends = np.arange(1, bins + 1) * len(labels) // bins
    starts = np.append(0, ends[:-1])
    sizes = ends - starts
    return (
        np.add.reduceat(predicted, starts) / sizes,
        np.add.reduceat(labels, starts, dtype=np.int64) / sizes,
    )


Pair = tuple[Labels, Floats]
"""Labels and predictions on the rows of a space, the lowest prediction first."""


def _spaces(run: RunRecord, tasks: Sequence[Task], store: ResultStore) -> dict[str, Pair]:
    frame = store.predictions(run.run_id)
    return {space.name: _pair(space) for space in predicted_spaces(run.run_id, tasks, frame)}


def _pair(space: Space) -> Pair:
    labels, predicted = space.take(space.label), space.take(space.predicted)
    order = np.argsort(predicted, kind="stable")
    return labels[order], predicted[order].astype(np.float64)


def _over_seeds(seeds: Sequence[Pair], bins: int, edges: Floats) -> Reliability:
    found = [reliability(labels, predicted, bins) for labels, predicted in seeds]
    observed = np.array([one for _, one in found])
    mass = [_mass(predicted, edges) for _, predicted in seeds]
    return Reliability(
        predicted=np.mean([one for one, _ in found], axis=0),
        observed=observed.mean(axis=0),
        low=observed.min(axis=0),
        high=observed.max(axis=0),
        mass=np.mean(mass, axis=0),
    )


def _mass(predicted: Floats, edges: Floats) -> Floats:
    """Return the share of ascending predictions in every cell; those beyond count at the ends."""
    inner = np.searchsorted(predicted, edges[1:-1])
    return np.diff(np.concatenate([[0], inner, [len(predicted)]])) / len(predicted)


def _edges(rate: float) -> Floats:
    if rate < RARE:
        return np.geomspace(LOWEST, 1, CELLS + 1)
    return np.linspace(0, 1, CELLS + 1)
