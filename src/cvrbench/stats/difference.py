"""Intervals of a mean, and tests of a difference: is it real, and is it too small to matter?"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from cvrbench.stats import mixture

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean and the half-width of its interval; None where one value allows no interval."""

    mean: float
    half_width: float | None
    n: int


def t_interval(values: Sequence[float]) -> Estimate:
    """Mean of independent values with Student's 95 % interval.

    >>> t_interval([0.70, 0.72, 0.74]).half_width
    0.0496...
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Estimate(mean, None, n)
    spread = float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, _student(n - 1) * spread, n)


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC over test rows (Hanley and McNeil, Radiology 1982, eq. 2).

    >>> round(auc_standard_error(0.893, 51, 58), 4)
    0.0325
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def welch_half_width(first: Estimate, second: Estimate) -> float:
    """Half-width of the 95 % interval of a difference of two means (Welch, Biometrika 1947).

    Args:
        first: A `t_interval` of at least two values.
        second: Another, of other values.

    Raises:
        ValueError: One value has no spread.
    """
    variances, freedom = [], []
    for one in (first, second):
        if one.half_width is None or one.n < 2:
            raise ValueError("a mean needs at least two values")
        error = one.half_width / _student(one.n - 1)
        variances.append(error**2)
        freedom.append(one.n - 1)
    total = sum(variances)
    if total == 0:
        return 0.0
    df = total**2 / sum(v**2 / n for v, n in zip(variances, freedom, strict=True))
    return _student(df) * math.sqrt(total)


def _student(freedom: float) -> float:
    """Half-width of Student's 95 % interval in standard errors."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


class Difference(NamedTuple):
    """A mean difference over seeds, its 95 % interval, and the p-value of no difference."""

    mean: float
    half_width: float
    p: float
    seeds: int
    error: float
    """Standard error of the mean, from both doubts."""
    of_seeds: float
    """Variance of one seed's difference."""
    of_rows: float
    """Variance over redrawn test rows."""
    freedom_of_rows: float = math.inf
    """Degrees of freedom of that; few where few users are redrawn."""


def difference(
    per_seed: Sequence[float],
    variance: float,
    freedom: float = math.inf,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Test a mean difference against 0 with both its doubts: the seeds' and the test rows'.

    The variance of the mean is the seeds' spread over their number, which is estimated, plus
    `variance`, that over redrawn test rows, which counts as known; the law of such a mean is in
    `mixture`. A strategy trained twice differs from itself by the first, two strategies on too few
    rows by the second: a test that leaves either out finds differences where there are none. It is
    the analysis of many readers (here seeds) on the same cases by Obuchowski and Rockette
    (Communications in Statistics 1995), with another law.

    Args:
        per_seed: At least two differences, one per seed, on the same test rows.
        variance: `row_variance` of the mean of their influences, which errs on the careful side,
            as what rows do to one seed alone is in the seeds' spread already; or theirs,
            `common_row_variance`, which counts it once.
        freedom: Degrees of freedom of `variance`: the `effective_groups` that are redrawn
            less 1; infinite for single rows.
        confidence: Confidence of the interval.

    Raises:
        ValueError: There is only one seed, which says nothing about the next.
    """
    n = len(per_seed)
    if n < 2:
        raise ValueError("a difference needs at least two seeds")
    mean, of_seeds = float(np.mean(per_seed)), float(np.var(per_seed, ddof=1))
    error = math.sqrt(of_seeds / n + variance)
    doubts = (error, of_seeds, variance, freedom)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, n, *doubts)
    half_width = mixture.reach(
        1 - confidence,
        estimated=of_seeds / n,
        freedom=n - 1,
        known=variance,
        known_freedom=freedom,
    )
    found = Difference(mean, half_width, 0.0, n, *doubts)
    return found._replace(p=_beyond(found, abs(mean)))


def _beyond(found: Difference, distance: float) -> float:
    """Return the chance that a mean with these doubts lies further from the truth."""
    return mixture.two_sided(
        distance,
        estimated=found.of_seeds / found.seeds,
        freedom=found.seeds - 1,
        known=found.of_rows,
        known_freedom=found.freedom_of_rows,
    )


class RowDifference(NamedTuple):
    """A difference of two runs on the same test rows, with its interval and p-value."""

    mean: float
    half_width: float
    p: float


def row_difference(mean: float, variance: float, freedom: float = math.inf) -> RowDifference:
    """Test a difference of two single runs against 0 with the test rows' doubt alone.

    For two AUCs and a `row_variance` without groups this is the test of DeLong et al. (Biometrics
    1988), with groups Obuchowski's (Biometrics 1997). What another seed would have given is not in
    it: two runs of one strategy differ by that as well.

    Args:
        mean: The difference.
        variance: `row_variance` of the difference of their influences.
        freedom: As for `difference`.
    """
    if variance == 0:
        return RowDifference(mean, 0.0, 1.0 if mean == 0 else 0.0)
    error = math.sqrt(variance)
    half_width = mixture.quantile((1 + CONFIDENCE) / 2, freedom) * error
    return RowDifference(mean, half_width, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def equivalence(difference: Difference, margin: float) -> float:
    """One-sided p of "the difference is not within +-margin": the larger of two tests'.

    Schuirmann (Journal of Pharmacokinetics and Biopharmaceutics 1987): one test against a true
    difference of -margin or less, one against +margin or more, each at the full level, with the
    difference's own law (`mixture`), which is symmetric. Below 5 per cent is the same as its
    90 % interval lying inside the margin. A p above it shows no difference either: the seeds and
    rows at hand may simply tell too little.

    Args:
        difference: A mean difference with its doubts.
        margin: Above 0, in the units of the mean; chosen before looking.

    Raises:
        ValueError: The margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"a margin of {margin} holds no difference; it must be above 0")
    room = margin - abs(difference.mean)
    if difference.error == 0:
        return 0.0 if room > 0 else 1.0
    half = 0.5 * _beyond(difference, abs(room))
    return half if room >= 0 else 1 - half


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
