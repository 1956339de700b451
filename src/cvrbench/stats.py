"""Uncertainty of a number: over seeds, and over test rows."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]


class Estimate(NamedTuple):
    """A mean and the half-width of its interval; None where one value allows no interval."""

    mean: float
    half_width: float | None
    n: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of independent values with Student's interval.

    >>> t_interval([0.70, 0.72, 0.74]).half_width
    0.0496...
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Estimate(mean, None, n)
    spread = float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread, n)


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC over test rows (Hanley and McNeil, Radiology 1982, eq. 2).

    >>> round(auc_standard_error(0.893, 51, 58), 4)
    0.0325
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


class Difference(NamedTuple):
    """A mean difference over seeds, its 95 % interval, and the p-value of no difference."""

    mean: float
    half_width: float
    p: float
    seeds: int


def auc_influence(labels: Labels, scores: Floats) -> Floats:
    """How far each row moves an AUC: `[rows]`, with mean 0 over the rows of either class.

    A positive row's value is its placement, the share of negatives that it outscores (ties half),
    less the AUC, over the number of positives; a negative row's likewise. The sum of squares over
    the rows is the variance of DeLong, DeLong and Clarke-Pearson (Biometrics 1988) up to their
    factors m / (m - 1) and n / (n - 1); sums over clusters give Obuchowski's (Biometrics 1997).
    Sorting makes it exact with ties in O(n log n) (Sun and Xu, IEEE Signal Proc. Letters 2014).

    Args:
        labels: `[rows]`, 0 or 1, both present.
        scores: `[rows]`.
    """
    positive = labels == 1
    above, below = scores[positive], scores[~positive]
    influence = np.empty(len(scores))
    for own, mine, theirs, sign in ((positive, above, below, 1), (~positive, below, above, -1)):
        ordered = np.sort(theirs)
        lower = np.searchsorted(ordered, mine, "left") + np.searchsorted(ordered, mine, "right")
        placement = lower / (2 * len(theirs))
        influence[own] = sign * (placement - placement.mean()) / len(mine)
    return influence


def row_variance(influence: Floats, labels: Labels, groups: Labels | None = None) -> float:
    """Variance, over redrawn test rows, of a statistic with these influences.

    Args:
        influence: `[rows]`: of an AUC, of a difference of two, or of means of such.
        labels: `[rows]`, 0 or 1.
        groups: `[rows]`, codes of what is drawn as a whole (a user); None where rows are drawn
            one by one, which gives DeLong's variance exactly.
    """
    if groups is None:
        squares = 0.0
        for own in (labels == 1, labels != 1):
            n = int(own.sum())
            squares += float((influence[own] ** 2).sum()) * n / max(n - 1, 1)
        return squares
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, weights=influence)
    return float((sums**2).sum()) * len(sums) / max(len(sums) - 1, 1)


def difference(per_seed: Sequence[float], variance: float, confidence: float = 0.95) -> Difference:
    """Test a mean difference against 0 with both its doubts: the seeds' and the test rows'.

    The variance of the mean is the seeds' spread over their number plus `variance`, that of the
    same mean over redrawn test rows; its degrees of freedom are Satterthwaite's (Biometrics 1946).
    A strategy trained twice differs from itself by the first, two strategies on too few rows by
    the second: a test that leaves either out finds differences where there are none. What seeds
    and rows do together is in both terms, which errs on the careful side.

    Args:
        per_seed: At least two differences, one per seed, on the same test rows.
        variance: `row_variance` of the mean of their influences.
        confidence: Of the interval.

    Raises:
        ValueError: There is only one seed, which says nothing about the next.
    """
    n = len(per_seed)
    if n < 2:
        raise ValueError("a difference needs at least two seeds")
    mean, of_seeds = float(np.mean(per_seed)), float(np.var(per_seed, ddof=1)) / n
    total = of_seeds + variance
    if total == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, n)
    # With no spread over seeds the rows alone decide, and their variance counts as known.
    freedom = total**2 / (of_seeds**2 / (n - 1)) if of_seeds > 0 else math.inf
    law = stats.t(freedom)
    error = math.sqrt(total)
    half_width = float(law.ppf((1 + confidence) / 2)) * error
    return Difference(mean, half_width, float(2 * law.sf(abs(mean) / error)), n)


class RowDifference(NamedTuple):
    """A difference of two runs on the same test rows, with its interval and p-value."""

    mean: float
    half_width: float
    p: float


def row_difference(mean: float, variance: float, confidence: float = 0.95) -> RowDifference:
    """Test a difference of two single runs against 0 with the test rows' doubt alone.

    For two AUCs and a `row_variance` without groups this is the test of DeLong et al. (Biometrics
    1988), with groups Obuchowski's (Biometrics 1997). What another seed would have given is not in
    it: two runs of one strategy differ by that as well.

    Args:
        mean: The difference.
        variance: `row_variance` of the difference of their influences.
        confidence: Of the interval.
    """
    if variance == 0:
        return RowDifference(mean, 0.0, 1.0 if mean == 0 else 0.0)
    error = math.sqrt(variance)
    half_width = float(stats.norm.ppf((1 + confidence) / 2)) * error
    return RowDifference(mean, half_width, float(2 * stats.norm.sf(abs(mean) / error)))


def welch_half_width(first: Estimate, second: Estimate, confidence: float = 0.95) -> float:
    """Half-width of the interval of a difference of two means (Welch, Biometrika 1947).

    Args:
        first: A `t_interval` of at least two values.
        second: Another, of other values.
        confidence: Of the interval, and of the two that are given.

    Raises:
        ValueError: One value has no spread.
    """
    variances, freedom = [], []
    for one in (first, second):
        if one.half_width is None or one.n < 2:
            raise ValueError("a mean needs at least two values")
        error = one.half_width / float(stats.t.ppf((1 + confidence) / 2, one.n - 1))
        variances.append(error**2)
        freedom.append(one.n - 1)
    total = sum(variances)
    if total == 0:
        return 0.0
    df = total**2 / sum(v**2 / n for v, n in zip(variances, freedom, strict=True))
    return float(stats.t.ppf((1 + confidence) / 2, df)) * math.sqrt(total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that one false finding among them all is as rare as each was alone.

    Holm, Scandinavian Journal of Statistics 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted
