"""Contests within groups are counted exactly, wherever rows lie and however close scores are."""

from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from sklearn.metrics import roc_auc_score

from cvrbench import metrics
from cvrbench.metrics import by_group

Array = npt.NDArray[Any]
FEW = settings(max_examples=80, deadline=None)
TINY = float(np.finfo(np.float64).smallest_subnormal)
NEIGHBOURS = [0.5, np.nextafter(0.5, 1), np.nextafter(0.5, 0)]
EXTREMES = [-8e307, -1.0, -TINY, -0.0, 0.0, TINY, 2 * TINY, 1e-300, *NEIGHBOURS, 1.0, 8e307]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few rows as much work as millions: several parts, filled from several chunks."""
    monkeypatch.setattr(by_group, "PART_ROWS", 16)
    monkeypatch.setattr(by_group, "CHUNK_ROWS", 7)


def loop_over_groups(labels: Array, scores: Array, groups: Array) -> tuple[float, int]:
    """GAUC by scikit-learn's AUC of one group after the other; NaN without any."""
    values, weights = [], []
    for group in np.unique(groups):
        mine = groups == group
        if 0 < labels[mine].sum() < mine.sum():
            values.append(roc_auc_score(labels[mine], scores[mine]))
            weights.append(mine.sum())
    return (float(np.average(values, weights=weights)) if values else np.nan), len(values)


@st.composite
def exposures(draw: st.DrawFn, scores: st.SearchStrategy[float]) -> tuple[Array, Array, Array]:
    """Labels, scores and groups, of which some have one row and some many."""
    rows = draw(st.integers(1, 120))
    labels = draw(hnp.arrays(np.uint8, rows, elements=st.integers(0, 1)))
    groups = np.repeat(np.arange(rows), draw(st.integers(1, 40)))[:rows]
    groups = draw(st.permutations(list(groups)))
    return labels, draw(hnp.arrays(np.float64, rows, elements=scores)), np.array(groups)


def assert_equal_to_the_loop(labels: Array, scores: Array, groups: Array) -> None:
    value, n_groups = loop_over_groups(labels, scores, groups)
    if not n_groups:
        with pytest.raises(metrics.Undefined, match="no group"):
            metrics.gauc(labels, scores, groups)
        return
    found = metrics.gauc(labels, scores, groups)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.groups == n_groups


@FEW
@given(exposures(st.sampled_from(EXTREMES)))
def test_extreme_neighbouring_and_tied_scores_count_as_in_scikit_learn(
    data: tuple[Array, Array, Array],
) -> None:
    assert_equal_to_the_loop(*data)


@pytest.mark.usefixtures("small_parts")
@settings(FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_groups_spread_over_many_parts_count_as_in_scikit_learn(data: st.DataObject) -> None:
    few, any_number = st.integers(0, 3).map(float), st.floats(-1e300, 1e300)
    assert_equal_to_the_loop(*data.draw(exposures(st.one_of(few, any_number))))


@FEW
@given(exposures(st.floats(0, 1, width=32)))
def test_scores_of_single_precision_count_as_in_scikit_learn(
    data: tuple[Array, Array, Array],
) -> None:
    labels, scores, groups = data
    assert_equal_to_the_loop(labels, scores.astype(np.float32), groups)


def test_scores_that_differ_in_the_last_bit_alone_are_told_apart() -> None:
    # With 5,000 groups over all magnitudes a group, a score and a label are more than 64 bits.
    rng = np.random.default_rng(2)
    groups = np.tile(np.arange(5_000), 4)
    scores = rng.choice([1.0, np.nextafter(1, 2), -1e300, 1e300, TINY, 0.0], len(groups))
    labels = rng.integers(0, 2, len(groups)).astype(np.uint8)
    labels[groups % 10 > 0] = 0  # of one class, which scikit-learn need not be asked about
    assert_equal_to_the_loop(labels, scores, groups)
    ranks = np.unique(scores, return_inverse=True)[1]
    assert metrics.gauc(labels, scores, groups) == metrics.gauc(labels, ranks, groups)


@pytest.mark.parametrize("rows_per_group", [1.5, 40, 20_000])
def test_many_rows_count_as_in_scikit_learn(rows_per_group: float) -> None:
    rng = np.random.default_rng(3)
    rows = 300_000 if rows_per_group > 40 else 6_000  # scikit-learn is asked once a group
    groups = rng.integers(0, int(rows / rows_per_group) + 1, rows)
    scores = rng.beta(1, 20, rows)
    labels = (rng.random(rows) < scores).astype(np.uint8)
    assert_equal_to_the_loop(labels, scores, groups)


@pytest.mark.parametrize(
    "codes",
    [
        np.array([-128, 127, 0], np.int8),
        np.array([-(2**63), 2**63 - 1, 5]),
        np.array([2**64 - 3, 2**64 - 2, 2**64 - 1], np.uint64),
        np.array([0.25, -3.0, 7.5]),
        np.array(["ann", "bob", "cy"]),
    ],
    ids=lambda codes: str(codes.dtype),
)
def test_groups_may_be_named_by_anything_that_sorts(codes: Array) -> None:
    rng = np.random.default_rng(4)
    number = rng.integers(0, 3, 200)
    labels, scores = rng.integers(0, 2, 200).astype(np.uint8), rng.random(200).round(1)
    assert_equal_to_the_loop(labels, scores, codes[number])


def test_columns_of_a_wider_array_need_no_copy() -> None:
    rng = np.random.default_rng(5)
    scores, labels = rng.random((500, 3)), rng.integers(0, 2, (500, 3)).astype(np.uint8)
    groups = rng.integers(0, 9, 500)
    assert_equal_to_the_loop(labels[:, 1], scores[:, 2], groups)


def test_one_row_per_group_has_no_contest() -> None:
    with pytest.raises(metrics.Undefined, match="no group"):
        metrics.gauc(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3]), np.arange(3))
