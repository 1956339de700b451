"""The law of a mean whose variance is in part known: against scipy, and how often it errs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as scipy_stats
from scipy.special import ndtr

from cvrbench.stats.mixture import reach, reaches, two_sided

SEEDS = (2, 3, 5)
RHOS = (0.0, 0.02, 0.1, 1.0, 10.0)
"""Variance of the rows over that of the seeds' mean."""


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 40, 10**6])
@pytest.mark.parametrize("level", [0.5, 0.05, 0.01, 1e-3, 1e-4])
def test_with_nothing_known_it_is_students(freedom, level):
    x = scipy_stats.t.isf(level / 2, freedom)
    assert two_sided(3 * x, estimated=9.0, freedom=freedom, known=0.0) == pytest.approx(
        level, rel=1e-9
    )
    found = reach(level, estimated=9.0, freedom=freedom, known=0.0)
    assert found == pytest.approx(3 * x, rel=1e-9)


@given(st.integers(1, 50), st.floats(0, 5), st.floats(0.001, 0.9))
def test_with_nothing_estimated_it_is_the_normal_law(freedom, x, level):
    p = two_sided(2 * x, estimated=0.0, freedom=freedom, known=4.0)
    assert p == pytest.approx(2 * scipy_stats.norm.sf(x), rel=1e-9)
    z = scipy_stats.norm.isf(level / 2)
    assert reach(level, estimated=0.0, freedom=freedom, known=4.0) == pytest.approx(2 * z)


@pytest.mark.parametrize("freedom", [1, 2, 4, 9])
@pytest.mark.parametrize("known", [1e-6, 0.02, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("x", [1.0, 4.0, 20.0])
def test_in_between_it_is_the_integral_by_quadpack(freedom, known, x):
    def integrand(log):
        density = np.exp(scipy_stats.chi2.logpdf(np.exp(log), freedom) + log)
        return 2 * ndtr(-x / np.sqrt(known + freedom * np.exp(-log))) * density

    expected = integrate.quad(integrand, -75, 6, limit=500, epsabs=0, epsrel=1e-9, points=[-5, 2])
    found = two_sided(x, estimated=1.0, freedom=freedom, known=known)
    assert found == pytest.approx(expected[0], rel=1e-7, abs=1e-14)


@given(
    st.integers(1, 30),
    st.floats(0, 1),
    st.sampled_from([0.2, 0.05, 0.01, 0.001]),
    st.floats(1e-6, 1e6),
)
def test_the_reach_is_where_p_is_the_level(freedom, share, level, total):
    parts = {"estimated": share * total, "freedom": freedom, "known": (1 - share) * total}
    found = reach(level, **parts)
    assert two_sided(found, **parts) == pytest.approx(level, rel=1e-9)
    many = reaches(
        level,
        estimated=np.array([[parts["estimated"]]]),
        freedom=freedom,
        known=np.array([parts["known"]]),
    )
    assert many == pytest.approx(np.array([[found]]), rel=2e-6)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("level", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("rho", RHOS)
def test_a_true_null_is_not_rejected_more_often_than_the_level_says(seeds, level, rho):
    n = 100_000
    rng = np.random.default_rng(seeds)
    per_seed = rng.normal(0, seeds**0.5, (n, seeds)) + rng.normal(0, rho**0.5, (n, 1))
    estimated = per_seed.var(axis=1, ddof=1) / seeds
    reached = reaches(level, estimated=estimated, freedom=seeds - 1, known=np.array(rho))
    rejected = int((np.abs(per_seed.mean(axis=1)) > reached).sum())
    # Of 45 cells one in ten thousand each may be beyond by luck; without rows the law is exact.
    assert rejected <= scipy_stats.binom.isf(1e-4, n, level)
    if rho == 0:
        assert rejected >= scipy_stats.binom.ppf(1e-4, n, level)


def test_satterthwaites_degrees_of_freedom_reject_far_too_often_on_such_draws():
    """So the test above can tell a bold law from an honest one."""
    n, rho = 100_000, 0.02
    rng = np.random.default_rng(2)
    per_seed = rng.normal(0, 2**0.5, (n, 2)) + rng.normal(0, rho**0.5, (n, 1))
    estimated = per_seed.var(axis=1, ddof=1) / 2
    freedom = ((estimated + rho) / estimated) ** 2
    t = np.abs(per_seed.mean(axis=1)) / np.sqrt(estimated + rho)
    p = 2 * scipy_stats.t.sf(t, freedom)
    shares = [(p < level).mean() for level in (0.05, 0.01, 0.001)]
    assert shares == pytest.approx([0.118, 0.079, 0.056], abs=0.004)
