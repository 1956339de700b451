"""Intervals against scipy and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cvrbench.stats.difference import auc_standard_error, t_interval


@given(st.lists(st.floats(0.5, 1.0), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-6))
def test_the_interval_is_scipys(values):
    mean, half_width, n = t_interval(values)
    low, high = scipy_stats.t.interval(
        0.95, n - 1, loc=np.mean(values), scale=scipy_stats.sem(values)
    )
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_one_value_has_no_interval():
    assert t_interval([0.7]) == (0.7, None, 1)


def test_the_standard_error_is_the_spread_over_redrawn_test_rows():
    rng = np.random.default_rng(0)
    # Exponential scores, the distribution that the formula assumes: AUC = r / (1 + r).
    positives, negatives, ratio = 60, 400, 3.0
    aucs = [  # by definition the share of pairs that are in order
        np.mean(rng.exponential(ratio, (positives, 1)) > rng.exponential(1.0, negatives))
        for _ in range(1500)
    ]
    assert np.mean(aucs) == pytest.approx(0.75, abs=0.005)
    assert auc_standard_error(0.75, positives, negatives) == pytest.approx(np.std(aucs), rel=0.08)
