"""Strategies over many datasets: ranks, whether they differ at all, and which of them do.

Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets (JMLR 2006). A dataset is one
observation here: a handful of them shows only the largest differences, whatever each one's seeds.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


class Friedman(NamedTuple):
    """Friedman's chi-square statistic and its p-value."""

    statistic: float
    p: float


def average_ranks(values: Floats) -> Floats:
    """Mean rank of each strategy over the datasets, `[strategies]`; 1 is best, ties share ranks.

    Args:
        values: `[datasets, strategies]`, higher is better; none missing.

    Raises:
        ValueError: A value is NaN: a strategy that was not run has no rank.
    """
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} values are missing; ranks need all")
    mean: Floats = stats.rankdata(-values, axis=1).mean(axis=0)
    return mean


def friedman(values: Floats) -> Friedman:
    """Test whether all strategies are alike (Friedman, JASA 1937), corrected for ties.

    Its chi-square law is an approximation, careful with few datasets (fewer than about ten).

    Args:
        values: `[datasets, strategies]`, none missing; at least three strategies, two datasets.

    Raises:
        ValueError: There are fewer.
    """
    datasets, strategies = values.shape
    if strategies < 3 or datasets < 2:
        raise ValueError(
            f"{strategies} strategies on {datasets} datasets; Friedman's test needs at least 3 on 2"
        )
    if (values == values[:, :1]).all():
        return Friedman(0.0, 1.0)  # nothing but ties
    found = stats.friedmanchisquare(*values.T)
    return Friedman(float(found.statistic), float(found.pvalue))


def critical_difference(strategies: int, datasets: int, level: float = 0.05) -> float:
    """By how much two mean ranks must differ for their strategies to (Nemenyi 1963).

    CD = q sqrt(k (k + 1) / (6 N)) with q the studentized range's quantile over sqrt(2)
    (Demsar 2006, section 3.2.2); all pairs together err once in 1 / level.

    Args:
        strategies: k, at least 2.
        datasets: N.
        level: Of all comparisons together.
    """
    q = float(stats.studentized_range.isf(level, strategies, np.inf)) / math.sqrt(2)
    return q * math.sqrt(strategies * (strategies + 1) / (6 * datasets))


def alike(mean_ranks: Floats, critical: float) -> list[tuple[int, ...]]:
    """Groups of strategies that do not differ: the bars of a critical-difference diagram.

    Args:
        mean_ranks: `[strategies]`, of `average_ranks`.
        critical: Of `critical_difference`; a difference as large counts as one.

    Returns:
        Indices of the strategies of each group, the better first: every largest run of neighbours
        whose first and last do not differ. A strategy that differs from all others is in none.
    """
    order = np.argsort(mean_ranks, kind="stable")
    ranks = mean_ranks[order]
    groups: list[tuple[int, ...]] = []
    reached = 0
    for first in range(len(order)):
        end = int((ranks - ranks[first] < critical).sum())
        if end > reached and end - first > 1:
            groups.append(tuple(order[first:end].tolist()))
        reached = max(reached, end)
    return groups
