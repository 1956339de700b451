"""Is a difference real? Tested with the doubt of the seeds, of the test rows, or of both."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """A mean difference over seeds, its 95 % interval, and the p-value of no difference."""

    mean: float
    half_width: float
    p: float
    seeds: int
    error: float
    """Standard error of the mean, from both doubts."""
    freedom: float
    """Degrees of freedom of its Student law; inf where the seeds have no spread."""
    of_seeds: float
    """Variance of one seed's difference."""
    of_rows: float
    """Variance over redrawn test rows."""


def difference(per_seed: Sequence[float], variance: float, confidence: float = 0.95) -> Difference:
    """Test a mean difference against 0 with both its doubts: the seeds' and the test rows'.

    The variance of the mean is the seeds' spread over their number plus `variance`, that over
    redrawn test rows; its degrees of freedom are Satterthwaite's. A strategy trained twice differs
    from itself by the first, two strategies on too few rows by the second: a test that leaves
    either out finds differences where there are none. It is the analysis of many readers (here
    seeds) on the same cases by Obuchowski and Rockette (Communications in Statistics 1995), with
    the degrees of freedom of Hillis (Statistics in Medicine 2007).

    Args:
        per_seed: At least two differences, one per seed, on the same test rows.
        variance: `row_variance` of the mean of their influences, which errs on the careful side,
            as what rows do to one seed alone is in the seeds' spread already; or theirs,
            `common_row_variance`, which counts it once and is a little bold with three seeds.
        confidence: Of the interval.

    Raises:
        ValueError: There is only one seed, which says nothing about the next.
    """
    n = len(per_seed)
    if n < 2:
        raise ValueError("a difference needs at least two seeds")
    mean, of_seeds = float(np.mean(per_seed)), float(np.var(per_seed, ddof=1))
    error = math.sqrt(of_seeds / n + variance)
    freedom = satterthwaite(of_seeds / n, n - 1, variance)
    doubts = (error, freedom, of_seeds, variance)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, n, *doubts)
    half_width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, half_width, p, n, *doubts)


def satterthwaite(estimated: float, freedom: float, known: float) -> float:
    """Degrees of freedom of a sum of an estimated variance and one that counts as known.

    Satterthwaite, Biometrics Bulletin 1946; inf where nothing was estimated.

    Args:
        estimated: A variance, from `freedom` degrees of freedom.
        freedom: At least 1.
        known: The other variance.
    """
    if estimated == 0:
        return math.inf
    ratio = (estimated + known) / estimated
    return freedom * ratio * ratio  # not ** 2, which raises where it overflows


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
