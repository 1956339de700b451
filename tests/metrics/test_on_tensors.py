"""Metrics of tensors equal scikit-learn's, and AUC the one of arrays to the last bit."""

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from cvrbench import metrics
from cvrbench.metrics import on_tensors

Array = npt.NDArray[Any]
FEW = settings(max_examples=80, deadline=None)
EXTREMES = [-8e37, -1.0, -1e-45, -0.0, 0.0, 1e-45, 3e-45, 0.5, 0.50000006, 8e37]


def on_both(metric: str, labels: Array, scores: Array) -> tuple[float, float]:
    """What a metric is of tensors, and of arrays."""
    of_tensors = getattr(on_tensors, metric)(torch.tensor(labels), torch.tensor(scores))
    return of_tensors, getattr(metrics, metric)(labels, scores)


@FEW
@given(st.data(), st.sampled_from([np.float32, np.float64]), st.sampled_from([np.uint8, np.int64]))
def test_auc_is_that_of_arrays_to_the_last_bit(
    data: st.DataObject, of_scores: type, of_labels: type
) -> None:
    rows = data.draw(st.integers(2, 80))
    values = data.draw(st.sampled_from([EXTREMES, [0.1, 0.2, 0.3], [0.7]]))
    scores = data.draw(hnp.arrays(np.float64, rows, elements=st.sampled_from(values)))
    labels = data.draw(hnp.arrays(of_labels, rows, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < rows)
    of_tensors, of_arrays = on_both("auc", labels, scores.astype(of_scores))
    assert of_tensors == of_arrays
    assert of_tensors == pytest.approx(roc_auc_score(labels, scores.astype(of_scores)), abs=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [2, 16])
@pytest.mark.parametrize("rate", [0.0002, 0.04, 0.9995])
def test_metrics_of_a_million_rows_equal_scikit_learn(
    rate: float, decimals: int, kind: type
) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(1_000_000) < rate).astype(np.uint8)
    scores = (1 / (1 + np.exp(-rng.normal(labels * 0.5 - 1)))).round(decimals).astype(kind)
    assert on_tensors.auc(torch.tensor(labels), torch.tensor(scores)) == metrics.auc(labels, scores)
    auc, loss = roc_auc_score(labels, scores), sklearn_log_loss(labels, scores.astype(np.float64))
    for metric, expected in (("auc", auc), ("log_loss", loss)):
        assert on_both(metric, labels, scores) == pytest.approx((expected, expected), rel=1e-11)


def test_pairs_beyond_32_bits_are_counted_exactly() -> None:
    labels = np.repeat([0, 1], 200_000).astype(np.uint8)
    scores = np.zeros(400_000)
    scores[-1] = 1.0
    half_of_the_rest = (200_000 + (200_000**2 - 200_000) / 2) / 200_000**2
    assert on_both("auc", labels, scores) == (half_of_the_rest, half_of_the_rest)


@FEW
@given(st.data(), st.integers(1, 9))
def test_log_loss_in_chunks_equals_scikit_learn(data: st.DataObject, chunk: int) -> None:
    rows = data.draw(st.integers(1, 60))
    labels = data.draw(hnp.arrays(np.uint8, rows, elements=st.integers(0, 1)))
    probabilities = data.draw(hnp.arrays(np.float64, rows, elements=st.floats(0, 1)))
    expected = sklearn_log_loss(labels, probabilities, labels=[0, 1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(on_tensors, "CHUNK_ROWS", chunk)
        found = on_both("log_loss", labels, probabilities)
    assert found == pytest.approx((expected, expected), rel=1e-12, abs=1e-15)


def test_columns_of_a_table_are_measured_as_rows_of_their_own() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, (500, 2)), rng.random((500, 2))
    for metric in ("auc", "log_loss"):
        of_tensors, of_arrays = on_both(metric, labels[:, 1], scores[:, 1])
        table = getattr(on_tensors, metric)(torch.tensor(labels)[:, 1], torch.tensor(scores)[:, 1])
        assert table == of_tensors == pytest.approx(of_arrays, rel=1e-14)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([], []),
        ([1, 1, 1], [0.1, 0.2, 0.3]),
        ([0, 0], [0.1, 0.2]),
        ([0, 1, 1], [0.1, np.nan, 0.3]),
        ([0, 0], [np.nan, np.nan]),
        ([0, 2, 1], [0.1, 0.2, 0.3]),
        ([0, 1, 1], [0.1, 0.2]),
        ([0, 1], [0.1, 1.2]),
        ([0, 1], [-0.1, 0.2]),
        ([[0], [1]], [[0.1], [0.2]]),
    ],
)
def test_what_has_no_value_is_refused_in_the_same_words(labels: Any, scores: Any) -> None:
    arrays = np.array(labels, np.uint8), np.array(scores, np.float64)
    for metric in ("auc", "log_loss"):
        of_arrays = said(getattr(metrics, metric), *arrays)
        of_tensors = said(getattr(on_tensors, metric), *map(torch.tensor, arrays))
        assert of_tensors == of_arrays
    assert said(metrics.log_loss, *arrays) or said(metrics.auc, *arrays)


def said(metric: Callable[..., float], labels: Any, scores: Any) -> tuple[type, str] | None:
    """The error that a metric raises, None if it has a value."""
    try:
        metric(labels, scores)
    except ValueError as error:
        return type(error), str(error)
    return None


def test_a_handful_of_numbers_reaches_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    scores = torch.tensor(rng.random(200_000))
    labels = (torch.tensor(rng.random(200_000)) < scores).to(torch.uint8)
    moved: list[int] = []
    to_list, to_item = torch.Tensor.tolist, torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: moved.append(t.numel()) or to_list(t))
    monkeypatch.setattr(torch.Tensor, "item", lambda t: moved.append(t.numel()) or to_item(t))
    for name in ("cpu", "numpy", "to", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, **__: pytest.fail("rows were moved"))
    on_tensors.auc(labels, scores)
    on_tensors.log_loss(labels, scores)
    assert 0 < sum(moved) < 20
