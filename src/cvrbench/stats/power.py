"""How many seeds and test rows does a difference of a given size need?

Under normal seeds the test of `difference.difference` is Student's t-test with a part of its
variance known. Given the seeds' true variance s^2, their estimated one is S^2 = s^2 chi2 / (n - 1),
independent of the mean, and so

    power = E over S^2 of P( |N(size, s^2 / n + r)| > reach(level, S^2 / n, r) )

with n seeds, r the variance from the test rows, and `mixture.reach`, the threshold of the test
itself. Where r = 0 this is the power of the t-test by the noncentral law (Cohen, Statistical Power
Analysis, 2nd ed. 1988); where the seeds have no spread, the z-test's. More rows divide r; more
seeds divide s^2.

All answers take the variances that were estimated for the true ones, and from few seeds these are
rough: the true s of five may be 40 % less or 190 % more (95 % interval).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr

from cvrbench.stats import mixture
from cvrbench.stats.difference import Difference

Floats = npt.NDArray[np.float64]

POWER, LEVEL = 0.8, 0.05
"""Chance to find the difference that all answers are for, and two-sided level of the test."""
MOST_SEEDS = 2**40
ROWS_FACTORS = 2.0 ** (np.arange(81) / 2)


def power(
    size: float, *, of_seeds: float, of_rows: float, seeds: int, freedom_of_rows: float = np.inf
) -> float:
    """Chance that the test finds a true difference.

    Args:
        size: The true difference.
        of_seeds: Variance of one seed's difference.
        of_rows: Variance over redrawn test rows.
        seeds: Number of seeds, at least 2.
        freedom_of_rows: Degrees of freedom of the rows' variance.
    """
    if of_seeds / seeds + of_rows == 0:
        return 1.0 if size else 0.0
    return float(_design(of_seeds, np.array([of_rows]), seeds, freedom_of_rows).power(size)[0])


class _Design(NamedTuple):
    """What the power at any size is computed from, at `m` variances from the rows."""

    error: Floats
    """The mean's true standard error, `[m]`."""
    reach: Floats
    """The test's threshold at every drawn estimate of the seeds' variance, `[k, m]`."""
    weights: Floats
    """Weights of the draws, `[k]`."""

    def power(self, size: float) -> Floats:
        """Return the chances to find a true difference of this size, `[m]`."""
        above, below = (size - self.reach) / self.error, (-size - self.reach) / self.error
        chances = ndtr(above) + ndtr(below)  # [k, m]
        found: Floats = (self.weights[:, None] * chances).sum(axis=0)
        return found


def _design(of_seeds: float, of_rows: Floats, seeds: int, freedom: float) -> _Design:
    """Return the design at several variances from the rows, `[m]`, where some doubt is left.

    Few degrees of freedom of the rows' variance widen it as they widen Student's quantile.
    """
    few, many = (mixture.quantile(LEVEL / 2, one) for one in (freedom, np.inf))
    known = (few / many) ** 2 * of_rows
    drawn = mixture.draws(seeds - 1)
    of_mean = of_seeds / seeds * drawn.ratios[:, None]
    reach = mixture.reaches(LEVEL, estimated=of_mean, freedom=seeds - 1, known=known)
    return _Design(np.sqrt(of_seeds / seeds + of_rows), reach, drawn.weights)


def detectable(difference: Difference) -> float:
    """Return the smallest true difference that the present seeds and rows find with `POWER`.

    Only the doubts of the given difference count, not its mean.
    """
    if difference.error == 0:
        return 0.0
    _, _, _, seeds, _, of_seeds, of_rows, freedom = difference
    design = _design(of_seeds, np.array([of_rows]), seeds, freedom)

    def lack(size: float) -> float:
        return float(design.power(size)[0]) - POWER

    high = difference.error
    while lack(high) < 0:
        high *= 2
    return float(brentq(lack, 0.0, high))


def seeds_needed(difference: Difference, size: float) -> int | None:
    """Return how many seeds find a true difference of `size` on the same test rows.

    The rows' variance is taken to stay. A part of a `row_variance` of the mean influence would fall
    with more seeds, so that the answer errs on the high side; no part of a `common_row_variance`.

    Args:
        difference: A mean difference with its doubts; its mean does not count.
        size: The true difference, not 0.

    Returns:
        At least 2; None where the rows alone blur so much that no number of seeds is enough.

    Raises:
        ValueError: The size is 0.
    """
    _require_size(size)
    rows = {"of_rows": difference.of_rows, "freedom_of_rows": difference.freedom_of_rows}

    def is_enough(seeds: int) -> bool:
        return power(size, of_seeds=difference.of_seeds, seeds=seeds, **rows) >= POWER

    if power(size, of_seeds=0.0, seeds=2, **rows) <= POWER:
        return None
    low, high = 1, 2
    while not is_enough(high):
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def rows_factor_needed(difference: Difference, size: float, seeds: int) -> float | None:
    """Return the factor of test rows, positives included, that finds a difference of `size`.

    The rows' variance is that of a mean, and falls as 1 over their number. What rows do to one seed
    alone would fall too, but counts as the seeds' here, so that the answer errs on the high side.

    Args:
        difference: A mean difference with its doubts; its mean does not count.
        size: The true difference, not 0.
        seeds: Number of seeds.

    Returns:
        1 where the present rows are enough; None where the seeds alone blur so much that no number
        of rows is.

    Raises:
        ValueError: The size is 0.
    """
    _require_size(size)
    of_seeds, of_rows, freedom = difference[-3:]

    def lack(factor: float) -> float:
        design = _design(of_seeds, np.array([of_rows / factor]), seeds, freedom)
        return float(design.power(size)[0]) - POWER

    if difference.error == 0:
        return 1.0
    # Power need not rise with rows all the way: where rows and seeds blur alike the test is at its
    # most careful. So no bisection over the whole range.
    found = _design(of_seeds, of_rows / ROWS_FACTORS, seeds, freedom).power(size)
    enough = np.flatnonzero(found >= POWER)
    if not len(enough):
        return None
    first = int(enough[0])
    return 1.0 if first == 0 else float(brentq(lack, *ROWS_FACTORS[first - 1 : first + 1]))


def _require_size(size: float) -> None:
    if size == 0:
        raise ValueError("no number of seeds or rows finds a difference of 0")
