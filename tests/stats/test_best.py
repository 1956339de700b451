"""The best set against closed forms, published tables and planted truths."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from cvrbench.stats.best import Joint, _losses, best, joint
from cvrbench.stats.difference import difference, row_difference
from cvrbench.stats.influence import common_row_variance, folded, folded_labels, row_variance


def planted(rng, means, seeds=5, of_seeds=0.001, of_rows=0.0003):
    """Means, seeds and rows alike for all: what a Joint would hold."""
    n = len(means)
    noise = of_seeds / math.sqrt(2) * rng.standard_normal((n, seeds))
    rows = of_rows / math.sqrt(2) * rng.standard_normal((n, 1))
    return Joint(
        values=np.array(means)[:, None] + noise + rows,
        of_rows=of_rows**2 * (1 - np.eye(n)),
    )


@pytest.mark.parametrize("seeds", [2, 5])
def test_of_two_it_is_the_test_of_their_difference(seeds):
    found = planted(np.random.default_rng(1), [0.7, 0.702], seeds)
    one = difference((found.values[0] - found.values[1]).tolist(), found.of_rows[0, 1])
    assert min(best(found).p) == pytest.approx(one.p)
    assert all((best(found).p < 0.05) == [one.p < 0.05, False])


def test_the_rival_is_the_one_that_beats_most_clearly_not_the_best_mean():
    """The first has the best mean and a wide spread; the second beats the third seed by seed."""
    steady = np.array([0.7000, 0.7002, 0.6999, 0.7001])
    wide = steady + 0.0030 + 0.004 * np.array([-1, 1, -1, 1])
    found = Joint(values=np.array([wide, steady + 0.0010, steady]), of_rows=np.zeros((3, 3)))
    third = best(found)
    assert third.inside.tolist() == [True, True, False]
    assert int(third.rival[2]) == 1


def test_without_doubt_about_seeds_it_is_tukeys_studentized_range():
    """Of k equal means with known variance the largest difference is beyond q once in twenty."""
    for k, q in ((3, 3.31), (5, 3.86), (9, 4.39)):  # tables of the studentized range, df infinite
        values = 0.7 + np.zeros((k, 1))
        values[0] += q * 0.001 / math.sqrt(2)
        found = Joint(values=values, of_rows=0.001**2 * (1 - np.eye(k)))
        assert best(found).p[1:] == pytest.approx(0.05, abs=0.01)
        exact = scipy_stats.studentized_range.sf(q, k, np.inf)
        assert exact == pytest.approx(0.05, abs=0.001)


def test_the_loss_at_most_is_hsus_with_dunnetts_quantile():
    """One-sided, three against a control with 30 degrees of freedom: 2.15 (Dunnett 1955)."""
    k, n = 4, 31
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((k, n))
    noise -= noise.mean(axis=1, keepdims=True)
    noise *= 0.001 / noise.std(axis=1, ddof=1, keepdims=True)
    found = Joint(values=0.7 + noise, of_rows=np.zeros((k, k)))
    tied = best(found).loss
    errors = [
        [(noise[i] - noise[j]).std(ddof=1) / math.sqrt(n) for j in range(k) if j != i]
        for i in range(k)
    ]
    ratio = tied / np.max(errors, axis=1)
    assert ratio == pytest.approx(2.15, abs=0.12)


def test_clear_losers_are_out_and_the_best_is_named():
    found = best(planted(np.random.default_rng(2), [0.70, 0.70, 0.69, 0.68]))
    assert found.inside.tolist() == [True, True, False, False]
    assert found.p[3] <= found.p[2] < 0.05
    assert found.chance[:2].sum() == pytest.approx(1)
    assert (found.loss[2:] > [0.009, 0.019]).all()
    assert (found.loss[:2] < 0.003).all()


def test_the_best_stays_inside_and_losses_are_bounded():
    rng = np.random.default_rng(3)
    means = np.array([0.7, 0.7, 0.6995, 0.699, 0.695])
    lost = wrong = sizes = 0
    for _ in range(60):
        found = best(planted(rng, means))
        lost += not found.inside[:2].all()
        wrong += bool((found.loss < means.max() - means).any())
        sizes += int(found.inside.sum())
    assert lost <= 7  # of 60 at 5 %: more by chance once in a thousand
    assert wrong <= 7
    assert sizes < 60 * 4.5


def test_rows_that_are_the_same_are_both_inside():
    values = np.array([[0.7, 0.71], [0.7, 0.71], [0.5, 0.52]])
    found = best(Joint(values=values, of_rows=np.zeros((3, 3))))
    assert found.inside[:2].all()
    assert best(Joint(values=values[:2], of_rows=np.zeros((2, 2)))).loss.tolist() == [0, 0]


def test_one_seed_has_the_doubt_of_the_rows_alone():
    found = Joint(values=np.array([[0.7], [0.71]]), of_rows=np.array([[0, 1e-5], [1e-5, 0]]))
    assert found.single
    assert min(best(found).p) == pytest.approx(row_difference(0.01, 1e-5).p)


def test_pairs_are_over_the_seeds_and_rows_that_they_have_in_common():
    rng = np.random.default_rng(0)
    labels = (np.arange(200) < 60).astype(np.uint8)
    values = 0.7 + 0.01 * rng.standard_normal((3, 4))
    values[2, 2:] = np.nan
    moved = rng.standard_normal((3, 4, 200)) + 3 * rng.standard_normal((3, 1, 200))
    there = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    found = joint(values, [{s: moved[k, s] for s in of} for k, of in enumerate(there)], labels)
    for i, j, seeds in ((0, 1, [0, 1, 2, 3]), (0, 2, [0, 1]), (1, 2, [0, 1])):
        gains = moved[i, seeds] - moved[j, seeds]
        assert found.of_rows[i, j] == pytest.approx(common_row_variance(gains, labels))
        assert len(found.gains(i, j)) == len(seeds)
    assert best(found).p == pytest.approx(best(found).p)


def test_few_users_make_it_more_careful():
    shift = np.array([[0.7], [0.7028]])
    rows = np.array([[0, 1e-6], [1e-6, 0]])
    many, few = (best(Joint(values=shift, of_rows=rows, freedom=f)).p.min() for f in (np.inf, 3))
    assert many < 0.05 < few


def test_heaps_of_rows_keep_the_variance():
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < 0.1).astype(np.uint8)
    influence = rng.standard_normal(50_000)
    of = folded(influence, labels, most=4000)
    assert len(of) == len(folded_labels(labels, 4000)) == 8000
    assert row_variance(of, folded_labels(labels, 4000)) == pytest.approx(
        row_variance(influence, labels), rel=0.06
    )


def test_losses_are_nothing_where_one_is_shown_to_be_best():
    gain = np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert _losses(gain, np.full((2, 2), 0.1), np.zeros((50, 2, 2)))[0] == 0
