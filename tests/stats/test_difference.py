"""The test of a difference against scipy's where one doubt is absent."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cvrbench.stats.difference import difference


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-6))
def test_without_doubt_about_the_rows_it_is_the_t_test_over_seeds(gains):
    found = difference(gains, 0.0)
    expected = scipy_stats.ttest_1samp(gains, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )


def test_without_spread_over_seeds_it_is_the_z_test_over_rows():
    found = difference([0.01, 0.01, 0.01], 0.006**2)
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(0.01 / 0.006))
    assert found.half_width == pytest.approx(scipy_stats.norm.ppf(0.975) * 0.006)


def test_equal_runs_do_not_differ_and_one_seed_is_refused():
    same = difference([0.0, 0.0], 0.0)
    assert (same.mean, same.half_width, same.p, same.seeds) == (0.0, 0.0, 1.0, 2)
    assert difference([0.1, 0.1], 0.0).p == 0.0
    with pytest.raises(ValueError, match="two seeds"):
        difference([0.1], 0.01)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0.001, 1))
def test_it_tells_the_doubts_that_it_was_made_of(gains, variance):
    found = difference(gains, variance)
    assert found.of_seeds == pytest.approx(np.var(gains, ddof=1))
    assert found.of_rows == variance
    assert found.error**2 == pytest.approx(found.of_seeds / len(gains) + variance)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0.001, 1))
def test_p_is_below_5_per_cent_where_the_interval_leaves_0_out(gains, variance):
    found = difference(gains, variance)
    assume(abs(abs(found.mean) - found.half_width) > 1e-9)
    assert (found.p < 0.05) == (abs(found.mean) > found.half_width)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seeds", "of_rows"), [(1.0, 0.0), (1.0, 1.0), (1.0, 0.02), (0.2, 1.0)])
def test_its_interval_covers_the_truth_on_the_same_rows_at_least_so_often(seeds, of_seeds, of_rows):
    rng = np.random.default_rng(1)
    gains = 0.3 + rng.normal(0, of_seeds**0.5, (1000, seeds))
    gains += rng.normal(0, of_rows**0.5, (1000, 1))
    found = [difference(row, of_rows) for row in gains]
    covered = sum(abs(each.mean - 0.3) <= each.half_width for each in found)
    assert covered >= scipy_stats.binom.ppf(1e-4, 1000, 0.95)
