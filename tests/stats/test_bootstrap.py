"""Redrawn samples against samples that are really redrawn, influences and planted truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from cvrbench import metrics
from cvrbench.stats.influence import (
    Resampling,
    auc_draws,
    auc_influence,
    common_draw_variance,
    common_row_variance,
    gauc_influence,
    log_loss_draws,
    log_loss_influence,
    row_variance,
)


def planted(seed, users=300, each=10):
    """Labels, probabilities with ties, and users of some rows that agree within a user."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(users), each))
    taste = rng.standard_normal(users)[groups]
    labels = (taste + rng.standard_normal(len(groups)) > 0.8).astype(int)
    logits = taste + rng.standard_normal(len(groups)) - 1
    return labels, np.round(1 / (1 + np.exp(-logits)), 2).clip(0.01, 0.99), groups


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_draw_is_the_metric_of_the_rows_repeated(seed, by_user):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 25))
    labels, groups = rng.integers(0, 2, n), rng.integers(0, 5, n)
    scores = rng.integers(1, 6, n) / 6
    resampling = Resampling(rows=n, groups=groups if by_user else None, draws=6, seed=seed % 7)
    drawn = zip(
        resampling.weights(),
        auc_draws(labels, scores, resampling),
        auc_draws(labels, scores, resampling, groups),
        log_loss_draws(labels, scores, resampling),
        strict=True,
    )
    for weights, auc, gauc, log_loss in drawn:
        y, s, g = (np.repeat(each, weights) for each in (labels, scores, groups))
        assert log_loss == pytest.approx(metrics.log_loss(y, s))
        if len(set(y)) == 2:
            assert auc == pytest.approx(metrics.auc(y, s), rel=1e-12)
            assert auc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
        else:
            assert np.isnan(auc)
        try:
            assert gauc == pytest.approx(metrics.gauc(y, s, g).value)
        except metrics.Undefined:
            assert np.isnan(gauc)


def test_users_are_drawn_whole_and_as_many_as_there_are():
    groups = np.array([5, 5, 9, 2, 9, 9])
    resampling = Resampling(rows=6, groups=groups, draws=50)
    assert resampling.n_clusters == 3
    for draw, weights in enumerate(resampling.weights()):
        assert resampling.counts(draw).sum() == 3
        assert len(set(weights[[0, 1]])) == len(set(weights[[2, 4, 5]])) == 1


def test_a_draw_follows_from_the_seed_and_its_number_alone():
    few, many = (Resampling(rows=40, draws=draws, seed=1) for draws in (3, 30))
    assert (few.counts(2) == many.counts(2)).all()
    other = Resampling(rows=40, draws=3, seed=2)
    assert (few.counts(2) != other.counts(2)).any()
    assert (few.counts(1) != few.counts(2)).any()


def test_each_row_is_drawn_as_often_as_chance_has_it():
    resampling = Resampling(rows=20, draws=4000)
    often = np.bincount(np.concatenate(list(resampling.weights())), minlength=4)[:4] / 80_000
    assert often == pytest.approx(scipy_stats.binom.pmf(np.arange(4), 20, 1 / 20), abs=0.008)


@pytest.mark.parametrize("by_user", [True, False])
def test_the_draws_spread_as_the_influences_say(by_user):
    labels, scores, users = planted(0)
    groups = users if by_user else None
    resampling = Resampling(rows=len(labels), groups=groups, draws=1500)
    found = {
        "auc": (auc_draws(labels, scores, resampling), auc_influence(labels, scores)),
        "log loss": (
            log_loss_draws(labels, scores, resampling),
            log_loss_influence(labels, scores),
        ),
    }
    if by_user:  # a user's rows drawn apart change its own AUC, which a first derivative misses
        found = {name: (d, np.bincount(users, of_rows)) for name, (d, of_rows) in found.items()}
        of_users = gauc_influence(labels, scores, users)
        found["gauc"] = (auc_draws(labels, scores, resampling, users), of_users)
    for draws, influence in found.values():
        assert draws.var() == pytest.approx(row_variance(influence), rel=0.15)


def test_two_runs_draws_are_paired():
    labels, scores, users = planted(1)
    rng = np.random.default_rng(1)
    other = np.clip(scores + 0.05 * rng.standard_normal(len(scores)), 0.01, 0.99)
    resampling = Resampling(rows=len(labels), groups=users, draws=1500)
    gains = auc_draws(labels, other, resampling) - auc_draws(labels, scores, resampling)
    influence = auc_influence(labels, other) - auc_influence(labels, scores)
    assert gains.var() == pytest.approx(row_variance(np.bincount(users, influence)), rel=0.15)
    assert gains.var() < 0.2 * auc_draws(labels, scores, resampling).var()


def test_the_interval_covers_the_planted_truth():
    truth = metrics.auc(*planted(99, users=60_000)[:2])
    covered = 0
    for seed in range(100):
        labels, scores, users = planted(seed, users=80)
        resampling = Resampling(rows=len(labels), groups=users, draws=200, seed=seed)
        low, high = np.quantile(auc_draws(labels, scores, resampling), (0.025, 0.975))
        covered += low <= truth <= high
    # Within the binomial error of 100 studies, and of percentiles of 80 users.
    assert 89 <= covered <= 99


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Resampling(rows=0)
    with pytest.raises(ValueError, match="2 group codes for 3 rows"):
        Resampling(rows=3, groups=np.array([1, 2]))
    with pytest.raises(ValueError, match="2 rows, but 3 are redrawn"):
        auc_draws(np.array([0, 1]), np.array([0.1, 0.2]), Resampling(rows=3))
    with pytest.raises(ValueError, match="without NaN"):
        auc_draws(np.array([0, 1]), np.array([0.1, np.nan]), Resampling(rows=2))


def test_what_seeds_have_in_common_is_their_draws_mean_covariance():
    labels, scores, users = planted(2)
    rng = np.random.default_rng(2)
    runs = [np.clip(scores + rng.normal(0, 0.1, len(scores)), 0.01, 0.99) for _ in range(3)]
    resampling = Resampling(rows=len(labels), groups=users, draws=1500)
    draws = np.array([auc_draws(labels, run, resampling) for run in runs])
    between = np.cov(draws)[~np.eye(3, dtype=bool)].mean()
    assert common_draw_variance(draws) == pytest.approx(between, rel=1e-9)
    influences = [np.bincount(users, auc_influence(labels, run)) for run in runs]
    told = common_row_variance(np.array(influences))
    assert common_draw_variance(draws) == pytest.approx(told, rel=0.15)


def test_draws_without_a_value_have_no_say_in_it():
    draws = np.array([[0.1, 0.4, np.nan, 0.2], [0.2, 0.6, 0.9, 0.1]])
    assert common_draw_variance(draws) == common_draw_variance(draws[:, [0, 1, 3]]) > 0
    for few in (draws[:1], draws[:, :1]):
        with pytest.raises(ValueError, match="at least 2"):
            common_draw_variance(few)
