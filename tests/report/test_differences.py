"""Verdicts on differences, from predictions on disk."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, StoreError
from cvrbench.report.differences import against, choose_baselines, read_moves
from cvrbench.report.frames import compare
from cvrbench.report.grids import difference_grid
from cvrbench.report.tables import comparison_json
from cvrbench.stats import auc_influence
from cvrbench.store import ResultStore
from tests.report.test_frames import TASKS, run

ROWS, USERS = 4000, 500


@pytest.fixture
def store(tmp_path):
    """Three models of four seeds on the same rows: `ple` planted better, `mmoe` as the baseline."""
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(ROWS)
    click = merit + rng.standard_normal(ROWS) > 0.5
    conversion = click & (merit + rng.standard_normal(ROWS) > 1.2)
    for model, noise in (("shared_bottom", 1.5), ("mmoe", 1.5), ("ple", 1.0)):
        for seed in range(4):
            write(
                tmp_path, model, seed, merit + noise * rng.standard_normal(ROWS), click, conversion
            )
    return ResultStore(tmp_path)


def write(folder, model, seed, score, click, conversion):
    p = 1 / (1 + np.exp(-score))
    frame = pl.DataFrame(
        {
            "label_ctr": click.astype(np.uint8),
            "p_ctr": p,
            "label_cvr": conversion.astype(np.uint8),
            "p_cvr": p,
            "p_ctcvr": p * p,
            "group": np.arange(ROWS) % USERS,
        }
    )
    aucs = {
        "ctr_auc": roc_auc_score(click, p),
        "cvr_auc": roc_auc_score(conversion[click], p[click]),
        "ctcvr_auc": roc_auc_score(conversion, p * p),
    }
    record = replace(run(model, seed, None), metrics={"valid": aucs, "test": aucs})
    path = folder / "runs" / record.run_id
    path.mkdir(parents=True)
    frame.write_parquet(path / "predictions.parquet")
    (path / "record.json").write_text(json.dumps(record.to_json()))


def test_the_better_one_is_found_and_the_equal_one_is_not(store):
    (comparison,) = compare(store.records())
    found = against(comparison, "shared_bottom", store)
    assert found.clustered
    for metric in ("ctr_auc", "cvr_auc", "ctcvr_auc"):
        assert found.verdicts[metric]["ple"].is_real, metric
        assert not found.verdicts[metric]["mmoe"].is_real, metric
        assert found.verdicts[metric]["ple"].difference.mean > 0.03
    rows = comparison_json(comparison, found)["strategies"]
    gains = {row["strategy"]: row["differences"] for row in rows}
    assert gains["shared_bottom"] == {}
    assert gains["ple"]["ctr_auc"]["seeds"] == 4


def test_adjusting_never_makes_a_difference_more_certain(store):
    (comparison,) = compare(store.records())
    for verdicts in against(comparison, "shared_bottom", store).verdicts.values():
        assert all(v.adjusted_p >= v.difference.p for v in verdicts.values())


def test_the_interval_is_wider_than_seeds_alone_say(store):
    (comparison,) = compare(store.records())
    verdict = against(comparison, "shared_bottom", store).verdicts["cvr_auc"]["ple"]
    values = [[r.metrics["test"]["cvr_auc"] for r in v.runs] for v in comparison.variants]
    gains = np.subtract(values[2], values[0])
    assert [v.label for v in comparison.variants] == ["shared_bottom", "mmoe", "ple"]
    assert verdict.difference.mean == pytest.approx(gains.mean())
    seeds_alone = scipy_stats.sem(gains)
    error = abs(verdict.difference.mean) / scipy_stats.norm.isf(verdict.difference.p / 2)
    assert error > seeds_alone


def test_only_real_differences_are_bold(store):
    (comparison,) = compare(store.records())
    grid = difference_grid(comparison, against(comparison, "shared_bottom", store))
    mmoe, ple = grid.rows
    assert not any(cell.strong for cell in mmoe)
    assert all(cell.strong for cell in ple[1:])


def test_one_seed_in_common_gives_no_verdict(store):
    kept = [r for r in store.records() if r.model != "ple" or r.seed == 3]
    (comparison,) = compare(kept)
    found = against(comparison, "shared_bottom", store)
    assert "ple" not in found.verdicts["ctr_auc"]
    mmoe, ple = difference_grid(comparison, found).rows
    assert "±" in mmoe[1].text
    assert ple[1].text == "-"


def test_a_baseline_is_the_usual_one_or_one_that_is_there(store):
    found = compare([*store.records(), run("ple", 0, 0.7, dataset="other")])
    assert [comparison.dataset for comparison in found] == ["log", "other"]
    assert choose_baselines(found, None) == ["shared_bottom", None]
    assert choose_baselines(found, "mmoe") == ["mmoe", None]
    assert choose_baselines(found, "ple") == ["ple", "ple"]
    with pytest.raises(ConfigError, match=r"there are shared_bottom, mmoe, ple$"):
        choose_baselines(found, "plee")


def test_missing_predictions_and_other_rows_are_named(store):
    (comparison,) = compare(store.records())
    file = store.runs / "ple-1" / "predictions.parquet"
    frame = pl.read_parquet(file)
    frame.with_columns(label_ctr=1 - pl.col("label_ctr")).write_parquet(file)
    with pytest.raises(StoreError, match=r"ple-1.*same test rows"):
        against(comparison, "shared_bottom", store)
    file.write_bytes(b"half a file")
    with pytest.raises(StoreError, match=r"predictions\.parquet cannot be read.*--force"):
        against(comparison, "shared_bottom", store)


def test_each_space_has_its_rows_and_its_label(tmp_path):
    tasks = [Task(**task) for task in TASKS]
    frame = pl.DataFrame(
        {
            "label_ctr": [0, 1, 1, 0],
            "label_cvr": [0, 1, 0, 1],  # the last: a conversion without a click, kept by policy
            "p_ctr": [0.1, 0.2, 0.3, 0.4],
            "p_cvr": [0.5, 0.6, 0.7, 0.8],
            "p_ctcvr": [0.0, 0.1, 0.2, 0.3],
            "group": [7, 7, 8, 9],
        }
    )
    record = run("mmoe", 0, 0.7)
    (tmp_path / "runs" / record.run_id).mkdir(parents=True)
    frame.write_parquet(tmp_path / "runs" / record.run_id / "predictions.parquet")
    moves = read_moves(record, tasks, ResultStore(tmp_path))
    of = {"ctr": [0, 1, 1, 0], "cvr": [1, 0], "ctcvr": [0, 1, 0, 0]}
    users = {"ctr": [7, 7, 8, 9], "cvr": [7, 8], "ctcvr": [7, 7, 8, 9]}
    scores = {"ctr": [0.1, 0.2, 0.3, 0.4], "cvr": [0.6, 0.7], "ctcvr": [0.0, 0.1, 0.2, 0.3]}
    assert list(moves) == ["ctr_auc", "cvr_auc", "ctcvr_auc"]
    for space, labels in of.items():
        found = moves[f"{space}_auc"]
        assert found.labels.tolist() == labels
        assert found.groups.tolist() == users[space]
        expected = auc_influence(np.array(labels), np.array(scores[space]))
        assert found.influence.tolist() == expected.tolist()
