"""Uncertainty of a number: over seeds, and over test rows."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


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
