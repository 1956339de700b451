"""Runs whose conversion is a ratio, from the log to what they leave behind."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cvrbench.data.schema import Task
from cvrbench.metrics import ratios
from cvrbench.report.comparison import compare
from cvrbench.report.differences import Method, against
from cvrbench.runs.load import load_trained
from cvrbench.runs.store import ResultStore
from cvrbench.serving.export import part_of, write_bundle

WATCH = "dataset=synthetic_watch"
MSE = "objective.losses={cvr:{kind:mse}}"


def record(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("model=shared_bottom", MSE),
        ("model=mmoe", "objective=entire_space"),
        ("model=ncs", "model.search=imp", "model.search.rounds=2", "model.search.together=false"),
        ("model=aitm", "objective=exposure_space", "trainer.data=disk"),
    ],
    ids=lambda words: words[0],
)
def test_a_run_is_judged_by_the_ratios_metrics(trained, words):
    folder = trained(WATCH, *words)
    found = record(folder)
    test = found["metrics"]["test"]
    frame = pl.read_parquet(folder / "predictions.parquet")
    clicked = frame.filter(frame["label_ctr"] == 1)
    watch, predicted = (clicked[name].to_numpy() for name in ("label_cvr", "p_cvr"))
    assert test["cvr_rmse"] == pytest.approx(ratios.rmse(watch, predicted))
    assert test["cvr_xauc"] == pytest.approx(ratios.xauc(watch, predicted))
    assert 0 < test["cvr_best_rmse"] < test["cvr_rmse"]
    assert test["cvr_best_xauc"] > test["cvr_xauc"]
    assert np.isclose(test["ctcvr_mae"], abs(frame["p_ctcvr"] - frame["label_cvr"]).mean())
    assert not {"cvr_auc", "cvr_logloss"} & test.keys()
    assert [task.get("kind") for task in found["tasks"]] == [None, "ratio"]
    assert Task(**found["tasks"][1]).is_ratio
    assert frame["label_ctr"].dtype == pl.UInt8


def test_differences_of_ratios_are_tested(trained):
    words = [(WATCH, "model=single_task"), (WATCH, "model=shared_bottom", MSE)]
    folders = [trained(*cell, f"seed={seed}") for cell in words for seed in (0, 1)]
    store = ResultStore(folders[0].parent.parent)
    records = [store.find(folder.name) for folder in folders]
    (comparison,) = compare([one for one in records if one is not None])
    assert comparison.auc_metrics == ["ctr_auc", "cvr_xauc", "ctcvr_xauc"]
    by_formula = against(comparison, ["single_task"], store)["single_task"]
    by_draws = against(comparison, ["single_task"], store, Method(draws=200))["single_task"]
    for kind in ("xauc", "rmse", "mae", "gxauc"):
        verdicts = [
            of.of(f"cvr_{kind}", "shared_bottom").difference for of in (by_formula, by_draws)
        ]
        assert verdicts[0].mean == verdicts[1].mean
        assert verdicts[0].half_width == pytest.approx(verdicts[1].half_width, rel=0.3)
    assert by_formula.of("cvr_rmse", "shared_bottom").equivalence_p is None
    assert by_formula.of("cvr_xauc", "shared_bottom").equivalence_p is not None


def test_an_export_says_that_it_predicts_a_mean(trained, tmp_path):
    run = load_trained(trained(WATCH, "model=shared_bottom", MSE))
    write_bundle(part_of(run, None), run, tmp_path / "out")
    text = "".join(file.read_text() for file in (tmp_path / "out").glob("*.json"))
    assert "E(watch | exposure and click)" in text
    assert "E(click * watch | exposure)" in text
