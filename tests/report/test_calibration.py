"""Reliability curves, against scikit-learn's and against planted rates."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.calibration import calibration_curve

from cvrbench.errors import StoreError
from cvrbench.report.comparison import compare
from cvrbench.report.diagnostics import BINS, CELLS, CalibrationReader, bins_of, reliability
from cvrbench.runs.store import ResultStore
from tests.report.test_comparison import run

ROWS = 6000
TRUTH = np.random.default_rng(7).permutation(np.linspace(0, 0.6, ROWS))


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_bins_of_equal_size_are_those_of_scikit_learn(bins):
    rng = np.random.default_rng(bins)
    predicted = np.sort(rng.permutation(np.linspace(0.01, 0.99, 9001))[:3000])
    labels = (rng.random(3000) < predicted).astype(np.uint8)
    found = reliability(labels, predicted, bins)
    observed, mean = calibration_curve(labels, predicted, n_bins=bins, strategy="quantile")
    # scikit-learn cuts between two rows where we cut before one: a row may change its bin.
    np.testing.assert_allclose(found, (mean, observed), atol=2 * bins / 3000)


def test_bins_are_means_over_their_rows():
    predicted, observed = reliability(np.array([0, 1, 1, 1, 0]), np.arange(5) / 10, 2)
    np.testing.assert_allclose(predicted, [0.05, 0.3])
    np.testing.assert_allclose(observed, [0.5, 2 / 3])


def test_few_positives_have_few_bins():
    assert bins_of(10**6) == BINS
    assert [bins_of(n) for n in (0, 1, 19, 20, 99)] == [1, 1, 1, 2, 9]


def write(folder, record, p_click, p_conversion, seed=0):
    """Keep predictions beside labels that were drawn from `TRUTH`, and a fifth of the clicks."""
    rng = np.random.default_rng(seed)
    click = rng.random(ROWS) < TRUTH
    frame = pl.DataFrame(
        {
            "label_ctr": click.astype(np.uint8),
            "p_ctr": p_click.astype(np.float32),
            "label_cvr": (click & (rng.random(ROWS) < 0.2)).astype(np.uint8),
            "p_cvr": p_conversion.astype(np.float32),
            "p_ctcvr": (p_click * p_conversion).astype(np.float32),
        }
    )
    path = folder / "runs" / record.run_id
    path.mkdir(parents=True)
    frame.write_parquet(path / "predictions.parquet")
    clicks, both = int(frame["label_ctr"].sum()), int(frame["label_cvr"].sum())
    counts = {
        "ctr": {"rows": ROWS, "positives": clicks},
        "cvr": {"rows": clicks, "positives": both},
        "ctcvr": {"rows": ROWS, "positives": both},
    }
    return replace(record, counts={"test": counts})


def test_each_space_is_judged_on_its_own_rows(tmp_path):
    records = [
        write(tmp_path, run("mmoe", seed, 0.7), np.full(ROWS, 0.3), np.full(ROWS, 0.4))
        for seed in range(2)
    ]
    (comparison,) = compare(records)
    found = {one.metric: one for one in CalibrationReader(comparison).finish(ResultStore(tmp_path))}
    assert list(found) == ["ctr_auc", "cvr_auc", "ctcvr_auc"]
    for metric, promised in (("ctr_auc", 0.3), ("cvr_auc", 0.4), ("ctcvr_auc", 0.12)):
        curve = found[metric].variants["mmoe"]
        count = comparison.counts[metric.removesuffix("_auc")]
        np.testing.assert_allclose(curve.predicted, promised, rtol=1e-6)
        assert curve.observed.mean() == pytest.approx(count["positives"] / count["rows"], rel=0.02)
        assert found[metric].rate == count["positives"] / count["rows"]


def test_a_seeds_range_holds_its_mean_and_histograms_hold_every_row(tmp_path):
    rng = np.random.default_rng(5)
    records = [
        write(tmp_path, run("mmoe", seed, 0.7), rng.random(ROWS), rng.random(ROWS) * 1e-8)
        for seed in range(3)
    ]
    (comparison,) = compare(records)
    for one in CalibrationReader(comparison).finish(ResultStore(tmp_path)):
        curve = one.variants["mmoe"]
        assert (curve.low <= curve.observed).all()
        assert (curve.observed <= curve.high).all()
        assert len(curve.mass) == CELLS == len(one.edges) - 1
        assert math.isclose(curve.mass.sum(), 1)


def test_a_planted_rate_lies_on_the_diagonal(tmp_path):
    records = [write(tmp_path, run("ple", 0, 0.7), TRUTH, np.full(ROWS, 0.2))]
    (comparison,) = compare(records)
    ctr, *_ = CalibrationReader(comparison).finish(ResultStore(tmp_path))
    curve = ctr.variants["ple"]
    error = 4 * np.sqrt(curve.predicted * (1 - curve.predicted) / (ROWS / BINS))
    assert (abs(curve.observed - curve.predicted) < error).all()
    assert np.ptp(curve.predicted) > 0.5


def test_rare_rates_are_read_on_logarithmic_axes(tmp_path):
    record = write(tmp_path, run("mmoe", 0, 0.7), np.full(ROWS, 0.3), np.full(ROWS, 0.2))
    rare = {**record.counts["test"], "ctcvr": {"rows": ROWS, "positives": 30}}
    none = {**rare, "cvr": {"rows": 1800, "positives": 0}}
    (comparison,) = compare([replace(record, counts={"test": none})])
    ctr, ctcvr = CalibrationReader(comparison).finish(ResultStore(tmp_path))
    assert not ctr.is_rare
    assert ctcvr.is_rare
    assert len(ctcvr.variants["mmoe"].observed) == 3
    ratios = ctcvr.edges[1:] / ctcvr.edges[:-1]
    np.testing.assert_allclose(ratios, ratios[0])


def test_missing_predictions_and_columns_are_named(tmp_path):
    record = write(tmp_path, run("mmoe", 0, 0.7), np.full(ROWS, 0.3), np.full(ROWS, 0.2))
    (comparison,) = compare([record])
    file = tmp_path / "runs" / record.run_id / "predictions.parquet"
    pl.read_parquet(file).drop("p_ctcvr").write_parquet(file)
    with pytest.raises(StoreError, match="lack the column p_ctcvr"):
        CalibrationReader(comparison).finish(ResultStore(tmp_path))
    file.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        CalibrationReader(comparison).finish(ResultStore(tmp_path))
