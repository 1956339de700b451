"""Ranks against Demsar's worked example and R's."""

import numpy as np
import pytest

from cvrbench.stats.ranks import alike, average_ranks, critical_difference, friedman

# Demsar 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 datasets.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.975, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
# Hollander and Wolfe 1973, p. 140: rounding first base in three ways, as in R's ?friedman.test.
ROUNDING = np.array(
    [
        *([5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40]),
        *([5.90, 5.85, 5.70], [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35]),
        *([5.25, 5.15, 5.00], [5.85, 5.80, 5.70], [5.25, 5.20, 5.10], [5.65, 5.55, 5.45]),
        *([5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40], [5.45, 5.55, 5.50]),
        *([5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40]),
        *([5.70, 5.65, 5.55], [6.30, 6.30, 6.25]),
    ]
)


def test_mean_ranks_are_demsars():
    # His table ranks the rounded tie of the 13th dataset by digits that it does not print: 2 and 3.
    ranks = average_ranks(DEMSAR) * 14 + np.array([0, 0, -0.5, 0.5])
    assert ranks / 14 == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)


def test_the_lowest_can_be_the_best():
    assert average_ranks(np.array([[-0.3, -0.1, -0.1]])).tolist() == [
        3,
        1.5,
        1.5,
    ]


def test_friedmans_test_is_rs():
    # R: Friedman chi-squared = 11.143, df = 2, p-value = 0.003805
    statistic, p = friedman(ROUNDING)
    assert statistic == pytest.approx(11.143, abs=5e-4)
    assert p == pytest.approx(0.003805, abs=5e-7)


def test_nothing_but_ties_shows_no_difference():
    assert friedman(np.full((5, 3), 0.7)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("level", "critical"),
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_quantiles_are_those_of_demsars_table_5(level, critical):
    for k, expected in enumerate(critical, start=2):
        # One dataset more or less scales all alike: 6 N = k (k + 1) leaves the quantile.
        found = critical_difference(k, k * (k + 1), level) * 6**0.5
        assert found == pytest.approx(expected, abs=1.01e-3)  # the table truncates


def test_the_worked_example_of_demsar():
    # Section 3.2.2: CD is 1.25 at 5 per cent, where no two differ, and 1.12 at 10 per cent, where
    # C4.5 is worse than C4.5+m and C4.5+m+cf, and C4.5+cf may belong to either.
    ranks = np.array([3.143, 2.000, 2.893, 1.964])
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)
    assert alike(ranks, critical_difference(4, 14)) == [(3, 1, 2, 0)]
    assert alike(ranks, critical_difference(4, 14, 0.10)) == [(3, 1, 2), (2, 0)]


def test_strategies_that_all_differ_are_in_no_group():
    assert alike(np.array([3.0, 1.0, 2.0]), 0.9) == []
    assert alike(np.array([1.0, 2.0, 2.5]), 1.0) == [(1, 2)]


def test_too_few_or_missing_values_are_refused():
    with pytest.raises(ValueError, match="1 values are missing"):
        average_ranks(np.array([[0.1, np.nan]]))
    for shape in ((5, 2), (1, 4)):
        with pytest.raises(ValueError, match="at least 3 on 2"):
            friedman(np.ones(shape))
