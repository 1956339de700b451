"""Two one-sided tests against scipy's, and against the interval that they stand for."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cvrbench.stats.difference import difference, equivalence

gains = st.lists(st.floats(-1, 1), min_size=2, max_size=8)
margins = st.floats(0.01, 2)


@given(gains, margins)
def test_without_doubt_about_rows_it_is_the_worse_of_two_t_tests(values, margin):
    found = difference(values, 0.0)
    assume(found.of_seeds > 1e-9)
    above = scipy_stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = scipy_stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert equivalence(found, margin) == pytest.approx(max(above, below), abs=1e-12)


@given(gains, margins, st.floats(0, 0.5))
def test_equivalence_at_5_per_cent_is_the_90_per_cent_interval_inside_the_margin(
    values, margin, variance
):
    found = difference(values, variance, confidence=0.90)
    assume(found.error > 1e-9)
    inside = abs(found.mean) + found.half_width
    assume(abs(inside - margin) > 1e-9)
    assert (equivalence(found, margin) < 0.05) == (inside < margin)


def test_without_spread_over_seeds_it_is_the_worse_of_two_z_tests():
    found = difference([0.01, 0.01], 0.004**2)
    assert equivalence(found, 0.02) == pytest.approx(scipy_stats.norm.sf(0.01 / 0.004))


def test_without_any_doubt_the_mean_decides():
    assert equivalence(difference([0.1, 0.1], 0.0), 0.2) == 0.0
    assert equivalence(difference([0.3, 0.3], 0.0), 0.2) == 1.0
    assert equivalence(difference([0.2, 0.2], 0.0), 0.2) == 1.0


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
def test_a_margin_that_holds_nothing_is_refused(margin):
    with pytest.raises(ValueError, match="above 0"):
        equivalence(difference([0.1, 0.2], 0.0), margin)
