"""Metrics equal scikit-learn's, brute force and closed forms, ties and all."""

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from cvrbench import metrics

Array = npt.NDArray[Any]
FEW = settings(max_examples=80, deadline=None)


@st.composite
def labelled(draw: st.DrawFn, *, distinct: int = 6, max_rows: int = 60) -> tuple[Array, Array]:
    """Labels and scores with many ties."""
    rows = draw(st.integers(2, max_rows))
    labels = draw(hnp.arrays(np.uint8, rows, elements=st.integers(0, 1)))
    scores = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, distinct)))
    return labels, scores / distinct


def brute_force(labels: Array, scores: Array) -> float:
    """Compare every positive with every negative."""
    above, below = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(((above > below) + 0.5 * (above == below)).mean())


@FEW
@given(labelled())
def test_auc_equals_scikit_learn_and_brute_force_with_ties(data: tuple[Array, Array]) -> None:
    labels, scores = data
    assume(0 < labels.sum() < len(labels))
    assert metrics.auc(labels, scores) == pytest.approx(brute_force(labels, scores), abs=1e-12)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_equals_scikit_learn_on_many_rows() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(50_000) < 0.03).astype(np.uint8)
    scores = rng.normal(labels * 0.4)
    for values in (scores, scores.astype(np.float32), np.round(scores, 1)):
        assert metrics.auc(labels, values) == pytest.approx(
            roc_auc_score(labels, values), abs=1e-12
        )


@FEW
@given(st.data())
def test_auc_of_huge_tiny_and_neighbouring_scores_equals_scikit_learn(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 80))
    values = [-8e307, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1e-323, 0.5, np.nextafter(0.5, 1), 8e307]
    scores = data.draw(hnp.arrays(np.float64, rows, elements=st.sampled_from(values)))
    labels = data.draw(hnp.arrays(np.uint8, rows, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < rows)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("rate", [0.0005, 0.5, 0.9995])
def test_auc_of_rare_common_and_nearly_sure_labels_equals_scikit_learn(rate: float) -> None:
    rng = np.random.default_rng(6)
    labels = (rng.random(40_000) < rate).astype(np.uint8)
    for scores in (rng.normal(labels * 0.3), rng.integers(0, 300, 40_000) / 300):
        assert metrics.auc(labels, scores) == pytest.approx(
            roc_auc_score(labels, scores), abs=1e-12
        )


@FEW
@given(labelled())
def test_auc_ignores_what_only_changes_the_scale(data: tuple[Array, Array]) -> None:
    labels, scores = data
    assume(0 < labels.sum() < len(labels))
    value = metrics.auc(labels, scores)
    assert metrics.auc(labels, np.exp(3 * scores) - 7) == value
    assert metrics.auc(labels, -scores) == pytest.approx(1 - value, abs=1e-12)
    assert metrics.auc(1 - labels, -scores) == pytest.approx(value, abs=1e-12)
    order = np.random.default_rng(0).permutation(len(labels))
    assert metrics.auc(labels[order], scores[order]) == value


@FEW
@given(labelled(max_rows=25), st.integers(0, 2**31))
def test_repeating_rows_equals_weighting_them(data: tuple[Array, Array], seed: int) -> None:
    labels, scores = data
    weights = np.random.default_rng(seed).integers(1, 5, len(labels))
    assume(0 < labels.sum() < len(labels))
    repeated, values = np.repeat(labels, weights), np.repeat(scores, weights)
    assert metrics.auc(repeated, values) == pytest.approx(
        roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert metrics.log_loss(repeated, values) == pytest.approx(
        sklearn_log_loss(labels, scores, sample_weight=weights, labels=[0, 1]), abs=1e-12
    )


@FEW
@given(labelled(max_rows=80), st.integers(1, 12), st.integers(0, 2**31))
def test_gauc_equals_a_loop_over_groups(
    data: tuple[Array, Array], n_groups: int, seed: int
) -> None:
    labels, scores = data
    groups = np.random.default_rng(seed).integers(-3, n_groups, len(labels))
    values, weights = [], []
    for group in np.unique(groups):
        mine = groups == group
        if 0 < labels[mine].sum() < mine.sum():
            values.append(roc_auc_score(labels[mine], scores[mine]))
            weights.append(mine.sum())
    if not values:
        with pytest.raises(metrics.Undefined, match="no group"):
            metrics.gauc(labels, scores, groups)
        return
    found = metrics.gauc(labels, scores, groups)
    assert found.value == pytest.approx(np.average(values, weights=weights), abs=1e-12)
    assert found.groups == len(values)


@FEW
@given(labelled(distinct=1000))
def test_log_loss_equals_scikit_learn(data: tuple[Array, Array]) -> None:
    labels, probabilities = data
    assert metrics.log_loss(labels, probabilities) == pytest.approx(
        sklearn_log_loss(labels, probabilities, labels=[0, 1]), abs=1e-12
    )


def test_log_loss_of_certain_and_wrong_is_finite_as_in_scikit_learn() -> None:
    labels, probabilities = np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0])
    value = metrics.log_loss(labels, probabilities)
    assert value == pytest.approx(sklearn_log_loss(labels, probabilities), abs=1e-12)
    assert value == pytest.approx(-2 / 3 * math.log(np.finfo(np.float64).eps), rel=1e-3)


def test_pcoc_is_predicted_over_observed() -> None:
    labels = np.array([1, 0, 0, 1, 0])
    assert metrics.pcoc(labels, np.full(5, 0.4)) == pytest.approx(1, abs=1e-15)
    assert metrics.pcoc(labels, np.full(5, 0.8)) == pytest.approx(2, abs=1e-15)


def test_ece_of_a_constant_prediction_is_its_distance_from_the_rate() -> None:
    labels = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    for bins in (1, 2, 15):
        assert metrics.ece(labels, np.full(8, 0.6), bins) == pytest.approx(0.35, abs=1e-15)


def test_ece_sees_errors_that_cancel_over_all_rows() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    probabilities = np.where(labels == 1, 0.9, 0.1)
    assert metrics.pcoc(labels, probabilities) == pytest.approx(1)
    assert metrics.ece(labels, probabilities, bins=2) == pytest.approx(0.1, abs=1e-14)
    assert metrics.ece(labels, 1 - probabilities, bins=2) == pytest.approx(0.9, abs=1e-14)
    assert metrics.ece(labels, probabilities, bins=1) == pytest.approx(0, abs=1e-14)


def test_ece_bins_hold_equal_shares_of_the_rows() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.random(3000)
    labels = (rng.random(3000) < probabilities**2).astype(np.uint8)
    order = np.argsort(probabilities)
    shares = np.array_split(order, 15)
    expected = sum(abs(probabilities[s].mean() - labels[s].mean()) / 15 for s in shares)
    assert metrics.ece(labels, probabilities) == pytest.approx(expected, abs=1e-12)


@FEW
@given(labelled(distinct=20), st.integers(1, 15))
def test_ece_with_ties_equals_a_sum_over_numpys_bins(data: tuple[Array, Array], bins: int) -> None:
    labels, probabilities = data
    edges = np.sort(probabilities)[[k * len(labels) // bins for k in range(1, bins)]]
    bin_of_row = np.digitize(probabilities, edges)
    expected = sum(
        abs((probabilities - labels)[bin_of_row == number].sum()) for number in range(bins)
    )
    assert metrics.ece(labels, probabilities, bins) == pytest.approx(
        expected / len(labels), abs=1e-12
    )


def test_log_loss_of_more_rows_than_a_chunk_equals_scikit_learn() -> None:
    rng = np.random.default_rng(7)
    probabilities = rng.random(2 * metrics.CHUNK_ROWS + 5)
    labels = (rng.random(len(probabilities)) < probabilities).astype(np.uint8)
    for values in (probabilities, probabilities.astype(np.float32)):
        assert metrics.log_loss(labels, values) == pytest.approx(
            sklearn_log_loss(labels, values.astype(np.float64)), abs=1e-12
        )


def test_ece_of_a_calibrated_model_is_small() -> None:
    rng = np.random.default_rng(4)
    probabilities = rng.random(200_000)
    labels = (rng.random(200_000) < probabilities).astype(np.uint8)
    assert metrics.ece(labels, probabilities) < 0.006
    assert metrics.ece(labels, probabilities**2) > 0.1


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_and_says_why(label: int) -> None:
    labels = np.full(4, label)
    with pytest.raises(metrics.Undefined, match="all 4 rows are"):
        metrics.auc(labels, np.arange(4.0))
    with pytest.raises(metrics.Undefined):
        metrics.gauc(labels, np.arange(4.0), np.zeros(4))


def test_no_rows_and_no_positives_are_undefined() -> None:
    empty = np.zeros(0)
    for metric in (metrics.auc, metrics.log_loss, metrics.pcoc, metrics.ece):
        with pytest.raises(metrics.Undefined):
            metric(empty, empty)
    with pytest.raises(metrics.Undefined):
        metrics.gauc(empty, empty, empty)
    with pytest.raises(metrics.Undefined, match="no row is positive"):
        metrics.pcoc(np.zeros(3), np.full(3, 0.5))


def test_bad_input_is_refused() -> None:
    labels = np.array([0, 1, 1])
    for metric in (metrics.auc, metrics.log_loss, metrics.pcoc, metrics.ece):
        with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
            metric(labels, np.array([0.1, np.nan, 0.3]))
        with pytest.raises(ValueError, match="neither 0 nor 1"):
            metric(np.array([0, 2, 1]), np.array([0.1, 0.2, 0.3]))
        with pytest.raises(ValueError, match="rows"):
            metric(labels, np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        metrics.log_loss(labels, np.array([0.1, 1.2, 0.3]))
