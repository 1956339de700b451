"""Is a difference real? Tested with the doubt of the seeds, of the test rows, or of both."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from cvrbench.stats import mixture


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


def difference(per_seed: Sequence[float], variance: float, confidence: float = 0.95) -> Difference:
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
        confidence: Of the interval.

    Raises:
        ValueError: There is only one seed, which says nothing about the next.
    """
    n = len(per_seed)
    if n < 2:
        raise ValueError("a difference needs at least two seeds")
    mean, of_seeds = float(np.mean(per_seed)), float(np.var(per_seed, ddof=1))
    error = math.sqrt(of_seeds / n + variance)
    doubts = (error, of_seeds, variance)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, n, *doubts)
    half_width = mixture.reach(
        1 - confidence, estimated=of_seeds / n, freedom=n - 1, known=variance
    )
    p = mixture.two_sided(abs(mean), estimated=of_seeds / n, freedom=n - 1, known=variance)
    return Difference(mean, half_width, p, n, *doubts)


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
