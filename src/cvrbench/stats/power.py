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
MOST_SEEDS = 2**40
ROWS_FACTORS = 2.0 ** (np.arange(81) / 2)


def power(
    size: float, *, of_seeds: float, of_rows: float, seeds: int, level: float = LEVEL
) -> float:
    """Chance that the test finds a true difference at a two-sided level.

    Args:
        size: The true difference.
        of_seeds: Variance of one seed's difference.
        of_rows: Variance over redrawn test rows.
        seeds: How many, at least 2.
        level: Of the test.
    """
    if of_seeds / seeds + of_rows == 0:
        return 1.0 if size else 0.0
    return float(_design(of_seeds, np.array([of_rows]), seeds, level).power(size)[0])


class _Design(NamedTuple):
    """What the power at any size is computed from, at `m` variances from the rows."""

    error: Floats
    """The mean's true standard error, `[m]`."""
    reach: Floats
    """The test's threshold at every drawn estimate of the seeds' variance, `[k, m]`."""
    weights: Floats
    """Of the draws, `[k]`."""

    def power(self, size: float) -> Floats:
        """Give the chances to find a true difference of this size, `[m]`."""
        above, below = (size - self.reach) / self.error, (-size - self.reach) / self.error
        found: Floats = self.weights @ (ndtr(above) + ndtr(below))
        return found


def _design(of_seeds: float, of_rows: Floats, seeds: int, level: float) -> _Design:
    """Give the design at several variances from the rows, `[m]`, where some doubt is left."""
    drawn = mixture.draws(seeds - 1)
    of_mean = of_seeds / seeds * drawn.ratios[:, None]
    reach = mixture.reaches(level, estimated=of_mean, freedom=seeds - 1, known=of_rows)
    return _Design(np.sqrt(of_seeds / seeds + of_rows), reach, drawn.weights)


def detectable(difference: Difference, *, target: float = POWER, level: float = LEVEL) -> float:
    """The smallest true difference that the present seeds and rows find with the target's power.

    Args:
        difference: A mean difference with its doubts; its mean has no say.
        target: The chance to find it, above `level`.
        level: Of the two-sided test.
    """
    if difference.error == 0:
        return 0.0

    rows = np.array([difference.of_rows])
    design = _design(difference.of_seeds, rows, difference.seeds, level)

    def lack(size: float) -> float:
        return float(design.power(size)[0]) - target

    high = difference.error
    while lack(high) < 0:
        high *= 2
    return float(brentq(lack, 0.0, high))


def seeds_needed(
    difference: Difference, size: float, *, target: float = POWER, level: float = LEVEL
) -> int | None:
    """How many seeds find a true difference of `size` on the same test rows.

    The rows' variance is taken to stay. Of a `row_variance` of the mean influence a part would fall
    with more seeds, so that the answer errs on the high side; of a `common_row_variance` none.

    Args:
        difference: A mean difference with its doubts; its mean has no say.
        size: The true difference, not 0.
        target: The chance to find it, above `level`.
        level: Of the two-sided test.

    Returns:
        At least 2; None where the rows alone blur so much that no number of seeds is enough.

    Raises:
        ValueError: The size is 0.
    """
    _require_size(size)
    rows = difference.of_rows
    if power(size, of_seeds=0.0, of_rows=rows, seeds=2, level=level) <= target:
        return None
    low, high = 1, 2
    while _power_of(difference, size, seeds=high, level=level) < target:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = _power_of(difference, size, seeds=middle, level=level) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def rows_factor_needed(
    difference: Difference,
    size: float,
    seeds: int | None = None,
    *,
    target: float = POWER,
    level: float = LEVEL,
) -> float | None:
    """By how much the test rows, positives included, must multiply to find a difference of `size`.

    The rows' variance is that of a mean, and falls as 1 over their number. What rows do to one seed
    alone would fall too, but counts as the seeds' here, so that the answer errs on the high side.

    Args:
        difference: A mean difference with its doubts; its mean has no say.
        size: The true difference, not 0.
        seeds: How many; None for the present number.
        target: The chance to find it, above `level`.
        level: Of the two-sided test.

    Returns:
        1 where the present rows are enough; None where the seeds alone blur so much that no number
        of rows is.

    Raises:
        ValueError: The size is 0.
    """
    _require_size(size)

    def lack(factor: float) -> float:
        found = _power_of(difference, size, seeds=seeds, rows_factor=factor, level=level)
        return found - target

    # Power need not rise with rows all the way: where rows and seeds blur alike the test is at its
    # most careful. So no bisection over the whole range.
    if difference.error == 0:
        return 1.0
    n = difference.seeds if seeds is None else seeds
    rows = difference.of_rows / ROWS_FACTORS
    found = _design(difference.of_seeds, rows, n, level).power(size)
    enough = np.flatnonzero(found >= target)
    if not len(enough):
        return None
    first = int(enough[0])
    return 1.0 if first == 0 else float(brentq(lack, *ROWS_FACTORS[first - 1 : first + 1]))


def _power_of(
    difference: Difference,
    size: float,
    *,
    seeds: int | None = None,
    rows_factor: float = 1.0,
    level: float,
) -> float:
    return power(
        size,
        of_seeds=difference.of_seeds,
        of_rows=difference.of_rows / rows_factor,
        seeds=difference.seeds if seeds is None else seeds,
        level=level,
    )


def _require_size(size: float) -> None:
    if size == 0:
        raise ValueError("no number of seeds or rows finds a difference of 0")
