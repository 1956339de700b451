"""Influences and their variance against definitions, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from cvrbench import metrics
from cvrbench.metrics import log_losses, ratios
from cvrbench.stats.difference import difference, row_difference
from cvrbench.stats.influence import (
    auc_influence,
    common_row_variance,
    effective_groups,
    gauc_influence,
    gxauc_influence,
    log_loss_influence,
    mae_influence,
    per_group,
    rmse_influence,
    row_variance,
    xauc_influence,
)


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
        by_user.append(row_variance(np.bincount(groups, influence)))
        by_row.append(row_variance(influence, labels))
    assert np.mean(by_user) == pytest.approx(np.var(aucs), rel=0.15)
    assert np.mean(by_row) < 0.8 * np.var(aucs)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_the_mean_of_the_rows_losses_is_the_log_loss(seed, n):
    rng = np.random.default_rng(seed)
    labels, probabilities = rng.integers(0, 2, n), rng.choice([0.0, 1.0, 0.3, 1e-20], n)
    assert log_losses(labels, probabilities).mean() == pytest.approx(
        metrics.log_loss(labels, probabilities), rel=1e-12
    )


def test_of_log_losses_it_is_the_paired_t_statistic():
    rng = np.random.default_rng(2)
    labels, one, other = rng.integers(0, 2, 500), rng.random(500), rng.random(500)
    gains = log_loss_influence(labels, one) - log_loss_influence(labels, other)
    expected = scipy_stats.ttest_rel(log_losses(labels, one), log_losses(labels, other))
    gain = metrics.log_loss(labels, one) - metrics.log_loss(labels, other)
    assert gain / np.sqrt(row_variance(gains)) == pytest.approx(expected.statistic, rel=1e-9)


def test_of_log_losses_by_user_it_is_the_ratio_estimators_variance():
    rng = np.random.default_rng(3)
    labels, predicted, users = rng.integers(0, 2, 400), rng.random(400), rng.integers(0, 30, 400)
    losses = log_losses(labels, predicted)
    # Cochran 1977, eq. 6.13: residuals of the users' sums about ratio times users' sizes.
    sums, sizes = np.bincount(users, losses), np.bincount(users)
    residuals = sums - sizes * losses.mean()
    expected = 30 * residuals.var(ddof=1) / 400**2
    found = row_variance(np.bincount(users, log_loss_influence(labels, predicted)))
    assert found == pytest.approx(expected, rel=1e-9)


def gauc_by_pairs(labels, scores, groups, weights):
    """GAUC of weighted rows by its definition, pair by pair."""
    values, sizes = [], []
    for group in np.unique(groups):
        positive, negative = ((groups == group) & (labels == y) for y in (1, 0))
        if positive.any() and negative.any():
            pairs = weights[positive][:, None] * weights[negative][None, :]
            gaps = scores[positive][:, None] - scores[negative][None, :]
            values.append((pairs * ((gaps > 0) + 0.5 * (gaps == 0))).sum() / pairs.sum())
            sizes.append(weights[positive].sum() + weights[negative].sum())
    return np.average(values, weights=sizes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 20))
def test_a_groups_influence_on_gauc_is_its_derivative_by_the_groups_weight(seed, n_groups, levels):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(n_groups), rng.integers(2, 8, n_groups)))
    scores = rng.integers(0, levels, len(groups)) * 1.0
    labels = rng.integers(0, 2, len(groups))
    labels[groups == groups[0]] = np.arange((groups == groups[0]).sum()) % 2
    influence = gauc_influence(labels, scores, groups)
    for group in range(n_groups):
        step = 1e-5 * (groups == group)
        high, low = (gauc_by_pairs(labels, scores, groups, 1 + s) for s in (step, -step))
        assert influence[group] == pytest.approx((high - low) / 2e-5, abs=1e-8)


def test_a_whole_users_influence_on_gauc_is_its_share_of_the_difference():
    rng = np.random.default_rng(4)
    groups = rng.integers(0, 12, 300)
    labels, scores = (rng.random(300) < 0.3) & (groups != 5), rng.standard_normal(300)
    influence = gauc_influence(labels.astype(int), scores, groups)
    used = np.bincount(groups[groups != 5], minlength=12)
    gauc = metrics.gauc(labels.astype(int), scores, groups).value
    for user in set(range(12)) - {5}:
        own = groups == user
        expected = used[user] * (roc_auc_score(labels[own], scores[own]) - gauc) / used.sum()
        assert influence[user] == pytest.approx(expected, rel=1e-9)
    assert influence[5] == 0


def test_gauc_has_no_influence_where_it_is_undefined():
    with pytest.raises(metrics.Undefined, match="no group"):
        gauc_influence(np.array([1, 0]), np.array([0.1, 0.2]), np.array([0, 1]))


def test_the_variance_of_gauc_is_its_spread_over_redrawn_users():
    rng = np.random.default_rng(5)

    def draw():
        sizes = rng.integers(2, 30, 120)
        users = np.repeat(np.arange(120), sizes)
        skill = np.repeat(rng.normal(1.0, 1.0, 120), sizes)
        labels = (rng.random(len(users)) < 0.3).astype(int)
        return labels, skill * labels + rng.standard_normal(len(users)), users

    drawn = [draw() for _ in range(800)]
    told = [row_variance(gauc_influence(y, s, u)) for y, s, u in drawn]
    assert np.mean(told) == pytest.approx(
        np.var([metrics.gauc(*each).value for each in drawn]), rel=0.15
    )


def test_what_seeds_have_in_common_is_their_mean_covariance():
    rng = np.random.default_rng(6)
    labels = rng.permutation(np.repeat([1, 0], [30, 70]))
    scores = labels + rng.standard_normal(100) + rng.standard_normal((4, 100)).round(1)
    covariance = delong_by_definition(labels, scores)
    between = covariance[~np.eye(4, dtype=bool)].mean()
    influences = np.array([auc_influence(labels, score) for score in scores])
    assert common_row_variance(influences, labels) == pytest.approx(between, rel=1e-9)


def test_seeds_with_nothing_in_common_have_no_common_variance():
    influences = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    assert common_row_variance(influences) == 0.0
    with pytest.raises(ValueError, match="at least two"):
        common_row_variance(influences[:1])


def few_heavy_users(rng, n_users=60):
    """Difference of two equally good scores' AUC, and its influence, rows and users."""
    sizes = np.minimum(1 + (10 * rng.pareto(1.3, n_users)).astype(int), 1000)
    users = np.repeat(np.arange(n_users), sizes)
    merit = rng.standard_normal(len(users)) + rng.standard_normal(n_users)[users]
    labels = (merit + rng.standard_normal(len(users)) > 0.8).astype(np.uint8)
    scores = [
        merit + rng.standard_normal(n_users)[users] + rng.standard_normal(len(users))
        for _ in range(2)
    ]
    first, second = (roc_auc_score(labels, score) for score in scores)
    influence = auc_influence(labels, scores[0]) - auc_influence(labels, scores[1])
    return first - second, influence, labels, users


def test_intervals_cover_the_truth_where_a_few_users_are_heavy():
    """Without the correction 95 % intervals cover 0 in 85 % of the samples."""
    rng = np.random.default_rng(23)
    plain, corrected = [], []
    for _ in range(400):
        gain, influence, labels, users = few_heavy_users(rng)
        plain.append(row_difference(gain, row_variance(np.bincount(users, weights=influence))))
        freedom = max(1.0, effective_groups(users) - 1)
        variance = row_variance(per_group(influence, users, labels))
        corrected.append(row_difference(gain, variance, freedom))
    # Where seeds have no spread, the test over seeds and rows is the same one.
    assert difference([gain, gain], variance, freedom).p == pytest.approx(corrected[-1].p)
    covered = [np.mean([abs(d.mean) <= d.half_width for d in of]) for of in (plain, corrected)]
    assert covered[0] < 0.91
    assert 0.94 <= covered[1] <= 0.985


def test_equal_groups_need_no_correction():
    rng = np.random.default_rng(0)
    influence, groups = rng.standard_normal(60), np.arange(60) % 12
    labels = (np.arange(60) // 12 < 2).astype(np.uint8)
    plain = np.bincount(groups, weights=influence)
    assert per_group(influence, groups).tolist() == pytest.approx(plain.tolist())
    assert per_group(influence, groups, labels).tolist() == pytest.approx(plain.tolist())
    assert effective_groups(groups) == pytest.approx(12)
    assert np.isfinite(per_group(influence, np.zeros(60, int), labels)).all()


RATIOS = {
    "xauc": (ratios.xauc, xauc_influence),
    "rmse": (ratios.rmse, rmse_influence),
    "mae": (ratios.mae, mae_influence),
}


@pytest.mark.parametrize("kind", [*RATIOS, "gxauc"])
def test_tests_of_ratios_find_as_many_differences_as_they_should_where_there_is_none(kind):
    """A/A: two predictions of equal noise, rows of 80 users who have something in common."""
    rng = np.random.default_rng(5)
    gains, variances = [], []
    for _ in range(400):
        users = np.sort(rng.integers(80, size=480))
        users = np.unique(users, return_inverse=True)[1]
        true = 0.8 * rng.standard_normal(80)[users] + rng.standard_normal(480)
        labels = scipy_stats.norm.cdf(true + 0.5 * rng.standard_normal(480))
        shift = 0.5 * rng.standard_normal((2, 80))[:, users]  # an error that a user's rows share
        scores = scipy_stats.norm.cdf(true + shift + 0.7 * rng.standard_normal((2, 480)))
        if kind == "gxauc":
            values = [ratios.gxauc(labels, score, users).value for score in scores]
            moved = [gxauc_influence(labels, score, users) for score in scores]
        else:
            value, influence = RATIOS[kind]
            values = [value(labels, score) for score in scores]
            moved = [per_group(influence(labels, score), users) for score in scores]
        gains.append(values[0] - values[1])
        variances.append(row_variance(moved[0] - moved[1]))
    assert np.mean(variances) == pytest.approx(np.var(gains), rel=0.2)
    found = np.mean([row_difference(*pair).p < 0.05 for pair in zip(gains, variances, strict=True)])
    assert 0.02 <= found <= 0.085
