"""The law of a mean whose variance is in part estimated, from few seeds, and in part known.

The estimated part S, with f degrees of freedom, says of the true one that it is f S / chi2, with
chi2 drawn from the chi-squared law of f degrees. So the mean's distance x from the truth has

    p(x) = E over chi2 of 2 Phi(-x / sqrt(known + f S / chi2)),

the fiducial law of Behrens and Fisher (Fisher, Annals of Eugenics 1935) with one variance known.
Without the known part it is Student's t, without the estimated one the normal law. A test by it
rejects exactly `level` of true nulls in these two cases and less in between. Student's t with
Satterthwaite's degrees of freedom (Biometrics Bulletin 1946) does not keep the level: where S is
small by luck it takes the known part for almost all of the variance, and with two seeds a test at
0.1 % rejects up to 5.6 %.

Where the other part is estimated, too, from groups of test rows with g degrees of freedom, it is
g K / chi2 in turn, and p the average over both chi2: Behrens' and Fisher's law itself.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.special import gammainccinv, gammaincinv, ndtr, ndtri, stdtrit

Floats = npt.NDArray[np.float64]
TAIL = 1e-14
STEPS = 50


class Draws(NamedTuple):
    """An average over chi2: what weighs how much."""

    ratios: Floats
    """chi2 over its degrees of freedom, `[k]`, rising."""
    weights: Floats
    """`[k]`, summing to 1."""


@lru_cache(maxsize=4096)
def draws(freedom: float) -> Draws:
    """Return the average over chi2, by the trapezoidal rule in its logarithm.

    The density is smooth there and falls off at both ends, so that the error falls exponentially
    with the step (Trefethen and Weideman, SIAM Review 2014). Small p are as sharp as large ones: to
    1e-8 of themselves down to 1e-6.

    Args:
        freedom: At least 1; infinite for a variance that is known.
    """
    if math.isinf(freedom):
        return Draws(np.ones(1), np.ones(1))
    ends = (f(freedom / 2, TAIL) * 2 / freedom for f in (gammaincinv, gammainccinv))
    low, high = map(math.log, ends)
    step = min(0.25, 0.4 * math.sqrt(2 / freedom))
    logs = np.linspace(low, high, math.ceil((high - low) / step) + 1)
    weights = np.exp(freedom / 2 * (logs - np.expm1(logs)))
    return Draws(np.exp(logs), weights / weights.sum())


def two_sided(
    x: float, *, estimated: float, freedom: int, known: float, known_freedom: float = math.inf
) -> float:
    """Chance that a mean lies further than `x` from the truth, on either side.

    Args:
        x: At least 0.
        estimated: The mean's variance as it was estimated.
        freedom: Degrees of freedom of that estimate, at least 1.
        known: A further variance of the mean. Not both are 0.
        known_freedom: Degrees of freedom of that, infinite where it is known indeed.
    """
    law = _Law(np.array([estimated / (estimated + known)]), freedom, known_freedom)
    scaled = x / math.sqrt(estimated + known) * law.precisions
    return float(_mean(2 * ndtr(-scaled), law.weights)[0])


def reach(
    level: float, *, estimated: float, freedom: int, known: float, known_freedom: float = math.inf
) -> float:
    """Distance that a mean exceeds with a chance of `level`: the inverse of `two_sided`.

    Args:
        level: Between 0 and 1.
        estimated: The mean's variance as it was estimated.
        freedom: Degrees of freedom of that estimate, at least 1.
        known: A further variance of the mean. Not both are 0.
        known_freedom: Degrees of freedom of that, infinite where it is known indeed.
    """
    law = _Law(np.array([estimated / (estimated + known)]), freedom, known_freedom)
    return float(_solved(level, law)[0]) * math.sqrt(estimated + known)


def reaches(level: float, *, estimated: Floats, freedom: int, known: Floats) -> Floats:
    """Return `reach` of many variances, to 1e-6 of itself at levels from 0.001.

    Args:
        level: Between 0 and 1.
        estimated: Of any shape.
        freedom: At least 1.
        known: Of the same shape, or one that broadcasts.
    """
    total = estimated + known
    stretch, spline = _interpolated(level, freedom)
    found: Floats = spline(np.arcsinh(stretch * np.sqrt(estimated / total))) * np.sqrt(total)
    return found


@lru_cache(maxsize=4096)
def _interpolated(level: float, freedom: int) -> tuple[float, CubicSpline]:
    """Return the reach in standard errors by arcsinh(stretch * sqrt(share that is estimated)).

    Over the root the reach is smooth at both ends. Where Student's quantile is far above the normal
    one it turns from the one to the other where the root is about 1 / stretch, which the arcsinh
    makes room for.
    """
    stretch = float(stdtrit(freedom, 1 - level / 2) / -ndtri(level / 2))
    knots = np.linspace(0.0, math.asinh(stretch), 257 if freedom < 4 else 65)
    share = np.minimum(np.sinh(knots) / stretch, 1.0) ** 2
    return stretch, CubicSpline(knots, _solved(level, _Law(share, freedom, math.inf)))


def quantile(p: float, freedom: float) -> float:
    """Return Student's quantile; the normal one without an end to the degrees of freedom."""
    return float(ndtri(p) if math.isinf(freedom) else stdtrit(freedom, p))


class _Law:
    """Normal laws, and how much each weighs, where a share `[n]` of the variance is estimated."""

    def __init__(self, share: Floats, freedom: int, known_freedom: float) -> None:
        drawn, known = draws(freedom), draws(known_freedom)
        self.share = share
        self.freedoms = (known_freedom, freedom)
        variances = (1 - share[:, None, None]) / known.ratios[:, None] + (
            share[:, None, None] / drawn.ratios
        )
        self.weights: Floats = np.outer(known.weights, drawn.weights).ravel()
        self.precisions: Floats = variances.reshape(len(share), -1) ** -0.5
        """One over the deviation of each law, `[n, k]`."""


def _mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted sums of `[n, k]` over the last axis, `[n]`, with equal last bits.

    A product by BLAS would round as many ways as it has threads.
    """
    sums: Floats = (values * weights).sum(axis=-1)
    return sums


def _solved(level: float, law: _Law) -> Floats:
    """Return the standard errors that are exceeded with a chance of `level`, `[n]`.

    Newton's steps for log p over log x, which is exactly a line in a power law's tail and nearly
    one elsewhere.
    """
    weights, precisions = law.weights, law.precisions
    known, estimated = (quantile(level / 2, freedom) ** 2 for freedom in law.freedoms)
    x: Floats = np.sqrt((1 - law.share) * known + law.share * estimated)
    for _ in range(STEPS):
        scaled = x[:, None] * precisions
        p = _mean(2 * ndtr(-scaled), weights)
        density = scaled * np.exp(-(scaled**2) / 2)
        slope = -2 / math.sqrt(2 * math.pi) * _mean(density, weights)
        step = (math.log(level) - np.log(p)) * p / slope
        x = x * np.exp(step)
        if np.max(np.abs(step)) < 1e-12:
            break
    return x
