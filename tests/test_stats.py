"""Intervals and tests against scipy, against their definitions, and against simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from cvrbench.stats import (
    auc_influence,
    auc_standard_error,
    difference,
    holm,
    row_variance,
    t_interval,
)


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
    labels = np.repeat([1, 0], [positives, negatives])
    aucs = [
        roc_auc_score(
            labels,
            np.concatenate([rng.exponential(ratio, positives), rng.exponential(1.0, negatives)]),
        )
        for _ in range(1500)
    ]
    assert np.mean(aucs) == pytest.approx(0.75, abs=0.005)
    assert auc_standard_error(0.75, positives, negatives) == pytest.approx(np.std(aucs), rel=0.08)


def delong_by_definition(labels, scores):
    """Covariance of AUCs from every pair of rows (DeLong et al. 1988, eq. 3 to 6): O(m n)."""
    kernels = []
    for score in scores:
        gaps = score[labels == 1][:, None] - score[labels == 0][None, :]
        kernels.append(np.where(gaps > 0, 1.0, np.where(gaps == 0, 0.5, 0.0)))
    of_positives = np.cov([kernel.mean(axis=1) for kernel in kernels])
    of_negatives = np.cov([kernel.mean(axis=0) for kernel in kernels])
    return of_positives / (labels == 1).sum() + of_negatives / (labels == 0).sum()


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 40), st.integers(2, 50))
def test_row_by_row_it_is_delongs_variance_ties_and_pairing_included(seed, m, n, levels):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [m, n]))
    common = rng.integers(0, levels, m + n)
    scores = [common + rng.integers(0, 2, m + n) * 1.0, common * 1.0]
    covariance = delong_by_definition(labels, scores)
    one, other = (auc_influence(labels, score) for score in scores)
    assert row_variance(one, labels) == pytest.approx(covariance[0, 0], rel=1e-9, abs=1e-15)
    gain = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert row_variance(one - other, labels) == pytest.approx(gain, rel=1e-9, abs=1e-12)


def test_rows_of_one_user_that_agree_count_as_less_than_rows_of_many():
    rng = np.random.default_rng(1)
    users, each = 150, 8
    groups = np.repeat(np.arange(users), each)

    def draw():
        taste = np.repeat(rng.standard_normal(users), each)
        labels = (taste + rng.standard_normal(users * each) > 0.5).astype(int)
        return labels, taste + rng.standard_normal(users * each)

    aucs, by_user, by_row = [], [], []
    for _ in range(600):
        labels, scores = draw()
        influence = auc_influence(labels, scores)
        aucs.append(roc_auc_score(labels, scores))
        by_user.append(row_variance(influence, labels, groups))
        by_row.append(row_variance(influence, labels))
    assert np.mean(by_user) == pytest.approx(np.var(aucs), rel=0.15)
    assert np.mean(by_row) < 0.8 * np.var(aucs)


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
    assert difference([0.0, 0.0], 0.0) == (0.0, 0.0, 1.0, 2)
    with pytest.raises(ValueError, match="two seeds"):
        difference([0.1], 0.01)


def test_holm_is_the_worked_example():
    # Holm's procedure as tabulated in textbooks: 4 p, 3 p, then never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    adjusted = np.array(holm(p_values))
    level, rejected = 0.05, np.zeros(len(p_values), bool)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - rank) > level:
            break
        rejected[index] = True
    assert ((adjusted <= level) == rejected).all()
