"""What several datasets have in common that strategies can be ranked on.

A strategy's rank needs its value on every dataset, so that only strategies that were run on all of
them are ranked, and only datasets that have enough of them are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvrbench.report.frames import Comparison, Variant
from cvrbench.stats.influence import Floats

FEWEST = 3
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
    """Give the AUCs of `FEWEST` strategies or more on two datasets or more, `MEAN` first.

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
        if len(whole) >= FEWEST:
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
        if one.scarce_task is None and one.dataset not in chosen and len(common) >= FEWEST:
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
