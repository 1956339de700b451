"""Intervals of one number: of a mean over seeds, and of an AUC over test rows."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

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
