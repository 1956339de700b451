"""Power against published values, the noncentral law and the test itself on simulated seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cvrbench.stats.difference import difference
from cvrbench.stats.power import detectable, power, rows_factor_needed, seeds_needed


def doubts(of_seeds, of_rows, seeds):
    """A difference of 0 with these doubts exactly."""
    spread = np.linspace(-1, 1, seeds)
    return difference((spread * np.sqrt(of_seeds / spread.var(ddof=1))).tolist(), of_rows)


@given(st.integers(2, 60), st.floats(0.05, 1.5))
def test_without_doubt_about_rows_it_is_the_noncentral_t_tests(n, size):
    critical = scipy_stats.t.isf(0.025, n - 1)
    # The other tail by symmetry: scipy's nct.cdf is NaN far out.
    tails = [scipy_stats.nct.sf(critical, n - 1, sign * size * n**0.5) for sign in (1, -1)]
    found = power(size, of_seeds=1.0, of_rows=0.0, seeds=n)
    assert found == pytest.approx(np.nansum(tails), abs=1e-6)


@pytest.mark.parametrize(
    ("size", "pairs"),
    # Cohen 1988; as G*Power 3.1 prints: t-test of two dependent means, two tails, 5 %, power 80 %.
    [(0.2, 199), (0.5, 34), (0.8, 15)],
)
def test_the_classic_numbers_of_pairs(size, pairs):
    assert seeds_needed(doubts(1.0, 0.0, 5), size) == pairs


def test_without_spread_over_seeds_it_is_the_z_tests():
    z = scipy_stats.norm.isf(0.025)
    expected = scipy_stats.norm.sf(z - 0.9 / 0.4) + scipy_stats.norm.cdf(-z - 0.9 / 0.4)
    assert power(0.9, of_seeds=0.0, of_rows=0.16, seeds=3) == pytest.approx(expected)
    # The textbook's (z_.025 + z_.2) standard errors, but for the other tail.
    assert detectable(doubts(0.0, 1.0, 3)) == pytest.approx(2.8016, abs=1e-3)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_rows"), [(2, 1.0, 1.0), (3, 1.0, 0.2), (5, 1.0, 0.5), (10, 0.5, 0.2)]
)
def test_so_often_the_test_finds_a_planted_difference(seeds, of_seeds, of_rows):
    rng = np.random.default_rng(seeds)
    size = detectable(doubts(of_seeds, of_rows, seeds))
    gains = size + rng.normal(0, of_seeds**0.5, (2000, seeds))
    gains += rng.normal(0, of_rows**0.5, (2000, 1))  # the same test rows for all seeds
    found = np.mean([difference(row, of_rows).p < 0.05 for row in gains])
    assert found == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 2000))


@settings(max_examples=40)
@given(st.integers(2, 20), st.floats(0.01, 1), st.floats(0, 1))
def test_what_is_detectable_is_found_with_a_power_of_80_per_cent(seeds, of_seeds, of_rows):
    size = detectable(doubts(of_seeds, of_rows, seeds))
    found = power(size, of_seeds=of_seeds, of_rows=of_rows, seeds=seeds)
    assert found == pytest.approx(0.8, abs=1e-6)


@settings(max_examples=40)
@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0.1, 3))
def test_one_seed_less_than_needed_is_not_enough(of_seeds, of_rows, size):
    needed = seeds_needed(doubts(of_seeds, of_rows, 5), size)
    rows_alone = scipy_stats.norm.isf(0.025) + scipy_stats.norm.isf(0.2)
    if needed is None:
        assert size < rows_alone * of_rows**0.5 * 1.001
        return
    assert power(size, of_seeds=of_seeds, of_rows=of_rows, seeds=needed) >= 0.8
    if needed > 2:
        assert power(size, of_seeds=of_seeds, of_rows=of_rows, seeds=needed - 1) < 0.8


@settings(max_examples=40)
@given(st.integers(2, 10), st.floats(0.01, 1), st.floats(0.01, 2), st.floats(0.3, 4))
def test_so_many_more_rows_are_just_enough(seeds, of_seeds, of_rows, size):
    factor = rows_factor_needed(doubts(of_seeds, of_rows, 5), size, seeds)
    if factor is None:
        assert power(size, of_seeds=of_seeds, of_rows=0.0, seeds=seeds) < 0.8 + 1e-6
        return
    found = power(size, of_seeds=of_seeds, of_rows=of_rows / factor, seeds=seeds)
    assert found >= 0.8 - 1e-6 if factor == 1 else found == pytest.approx(0.8, abs=1e-6)


def test_more_of_one_does_not_help_against_the_other():
    assert seeds_needed(doubts(1.0, 1.0, 5), 2.0) is None
    assert rows_factor_needed(doubts(1.0, 1.0, 5), 0.5, 5) is None
    assert seeds_needed(doubts(0.0, 0.0, 5), 0.1) == 2
    assert rows_factor_needed(doubts(0.01, 0.0, 5), 1.0, 5) == 1.0
    assert detectable(doubts(0.0, 0.0, 5)) == 0.0


def test_a_difference_of_0_is_not_to_be_found():
    with pytest.raises(ValueError, match="of 0"):
        seeds_needed(doubts(1.0, 1.0, 3), 0.0)
    with pytest.raises(ValueError, match="of 0"):
        rows_factor_needed(doubts(1.0, 1.0, 3), 0.0, 3)
