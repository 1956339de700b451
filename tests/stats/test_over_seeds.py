"""Tests over seeds against scipy, a published example and their definitions."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cvrbench.stats.difference import difference, paired_t, smallest_wilcoxon_p, wilcoxon

DARWIN = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)
"""Heights of crossed less self-fertilised plants, in eighths of an inch (Fisher, The Design of
Experiments, 1935, section 17)."""


def test_students_test_is_fishers_worked_example():
    # Fisher finds t = 2.148 on 14 degrees of freedom, just beyond the 5 per cent point 2.145.
    assert paired_t(DARWIN) == pytest.approx(0.0497, abs=5e-5)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-6))
def test_it_is_the_test_of_a_difference_without_doubt_about_rows(gains):
    expected = scipy_stats.ttest_rel(gains, np.zeros(len(gains))).pvalue
    assert paired_t(gains) == pytest.approx(expected)
    assert paired_t(gains) == pytest.approx(difference(gains, 0.0).p)


def test_equal_differences_have_no_spread_to_compare_with():
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.2, 0.2, 0.2]) == 0.0
    with pytest.raises(ValueError, match="two seeds"):
        paired_t([0.2])


def signed_rank_by_signs(values):
    """Share of all choices of signs whose positive rank sum is as far from its middle (exact)."""
    ranks = scipy_stats.rankdata(np.abs(values))
    middle = ranks.sum() / 2
    observed = abs(ranks[np.array(values) > 0].sum() - middle)
    sums = np.array(list(product([0, 1], repeat=len(ranks)))) @ ranks
    return np.mean(np.abs(sums - middle) >= observed - 1e-9)


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=9))
def test_the_signed_rank_test_tries_every_sign_ties_included(values):
    assert wilcoxon(values) == pytest.approx(signed_rank_by_signs(values))


def test_the_signed_rank_test_of_darwins_plants():
    assert wilcoxon(DARWIN) == pytest.approx(signed_rank_by_signs(DARWIN))
    assert wilcoxon(DARWIN) == pytest.approx(0.0413, abs=5e-5)


def test_differences_of_0_say_nothing():
    assert wilcoxon([3, 0, 1, 2, 0]) == wilcoxon([3, 1, 2]) == 0.25
    assert wilcoxon([0.0, 0.0]) == 1.0


def test_many_tied_differences_take_the_normal_law():
    values = np.random.default_rng(0).integers(-5, 9, 40)
    expected = scipy_stats.wilcoxon(values[values != 0], method="asymptotic").pvalue
    assert wilcoxon(values.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize("n", range(1, 9))
def test_no_differences_can_go_below_the_smallest_p(n):
    assert smallest_wilcoxon_p(n) == wilcoxon([float(i + 1) for i in range(n)])
    assert (smallest_wilcoxon_p(n) < 0.05) == (n >= 6)
