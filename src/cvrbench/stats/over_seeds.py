"""The usual tests over seeds: they know one doubt of two.

Each asks whether another seed would show the same on *these* test rows. What other rows would show
is in `difference.difference` alone.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

MOST_ENUMERATED = 13
"""Seeds up to which every one of the 2^n signs is tried where ties spoil the tables."""


def paired_t(per_seed: Sequence[float]) -> float:
    """Two-sided p of Student's paired t-test (Biometrika 1908) over the seeds' differences.

    It needs differences that are nearly normal, and at least two. Where all are equal it is 1 if
    they are 0 and else 0.

    Raises:
        ValueError: There is only one seed.
    """
    if len(per_seed) < 2:
        raise ValueError("a paired t-test needs at least two seeds")
    if np.ptp(per_seed) == 0:
        return 1.0 if per_seed[0] == 0 else 0.0
    return float(stats.ttest_1samp(per_seed, 0.0).pvalue)


def wilcoxon(per_seed: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test (Wilcoxon, Biometrics Bulletin 1945).

    It needs differences that are symmetric about their middle, not normal ones. Those that are
    exactly 0 say nothing and are dropped, as Wilcoxon did; with none left p is 1. It is exact up
    to 50 seeds, with tied differences up to 13. Whatever the differences, p is never below
    `smallest_wilcoxon_p(n)`: five seeds cannot reach 5 per cent.
    """
    counted = [value for value in per_seed if value != 0]
    if not counted:
        return 1.0
    tied = len({abs(value) for value in counted}) < len(counted)
    method = stats.PermutationMethod(n_resamples=np.inf) if tied else "auto"
    if tied and len(counted) > MOST_ENUMERATED:
        method = "approx"
    return float(stats.wilcoxon(counted, method=method).pvalue)


def smallest_wilcoxon_p(n_seeds: int) -> float:
    """The least two-sided p that the signed-rank test of so many differences can give.

    All of one sign is one of 2^n equally likely choices of signs, and so is the opposite.

    >>> [smallest_wilcoxon_p(n) for n in (3, 5, 6)]
    [0.25, 0.0625, 0.03125]
    """
    return min(1.0, 2.0 ** (1 - n_seeds))
