"""Verdicts on differences, from predictions on disk."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import log_loss, roc_auc_score

from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError
from cvrbench.metrics import gauc
from cvrbench.report.comparison import Comparison, compare
from cvrbench.report.dataset_report import build, comparison_json
from cvrbench.report.differences import (
    Differences,
    InfluenceReader,
    Method,
    against,
    choose_baselines,
)
from cvrbench.report.grids import difference_grid, power_grid
from cvrbench.runs.store import ResultStore
from cvrbench.stats.influence import auc_influence, per_group
from cvrbench.stats.power import detectable
from tests.report.test_comparison import COUNTS, TASKS, run

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
    save(folder, replace(run(model, seed, None), metrics={"valid": aucs, "test": aucs}), frame)


def save(folder, record, frame):
    path = folder / "runs" / record.run_id
    path.mkdir(parents=True)
    frame.write_parquet(path / "predictions.parquet")
    (path / "record.json").write_text(json.dumps(record.to_json()))


def versus(comparison: Comparison, baseline: str, store: ResultStore) -> Differences:
    return against(comparison, [baseline], store)[baseline]


def test_the_better_one_is_found_and_the_equal_one_is_not(store):
    (comparison,) = compare(store.records())
    found = versus(comparison, "shared_bottom", store)
    assert found.clustered
    for metric in ("ctr_auc", "cvr_auc", "ctcvr_auc"):
        assert found.verdicts[metric]["ple"].is_shown, metric
        assert not found.verdicts[metric]["mmoe"].is_shown, metric
        assert found.verdicts[metric]["ple"].difference.mean > 0.03
    rows = comparison_json(comparison, found)["strategies"]
    gains = {row["strategy"]: row["differences"] for row in rows}
    assert gains["shared_bottom"] == {}
    assert gains["ple"]["ctr_auc"]["seeds"] == 4


def test_adjusting_never_makes_a_difference_more_certain(store):
    (comparison,) = compare(store.records())
    for verdicts in versus(comparison, "shared_bottom", store).verdicts.values():
        assert all(v.adjusted_p >= v.difference.p for v in verdicts.values())


def test_the_interval_is_wider_than_seeds_alone_say(store):
    (comparison,) = compare(store.records())
    verdict = versus(comparison, "shared_bottom", store).verdicts["cvr_auc"]["ple"]
    values = [[r.metrics["test"]["cvr_auc"] for r in v.runs] for v in comparison.variants]
    gains = np.subtract(values[2], values[0])
    assert [v.label for v in comparison.variants] == ["shared_bottom", "mmoe", "ple"]
    assert verdict.difference.mean == pytest.approx(gains.mean())
    seeds_alone = scipy_stats.sem(gains)
    error = abs(verdict.difference.mean) / scipy_stats.norm.isf(verdict.difference.p / 2)
    assert error > seeds_alone


def test_only_real_differences_are_bold(store):
    (comparison,) = compare(store.records())
    grid = difference_grid(comparison, versus(comparison, "shared_bottom", store))
    mmoe, ple = grid.rows
    assert not any(cell.strong for cell in mmoe)
    assert all(cell.strong for cell in ple[1:])


def test_one_seed_in_common_gives_no_verdict(store):
    kept = [r for r in store.records() if r.model != "ple" or r.seed == 3]
    (comparison,) = compare(kept)
    found = versus(comparison, "shared_bottom", store)
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


def test_missing_predictions_and_other_rows_cost_only_their_run(store):
    (comparison,) = compare(store.records())
    file = store.runs / "ple-1" / "predictions.parquet"
    frame = pl.read_parquet(file)
    whole = versus(comparison, "shared_bottom", store)
    for damaged, words in (
        (frame.with_columns(label_ctr=1 - pl.col("label_ctr")), "not of the same test rows"),
        (frame.with_columns(p_ctr=pl.lit(float("nan"))), "hold no numbers in p_ctr"),
        (frame.with_columns(p_cvr=pl.lit("x")), "hold no numbers in p_cvr"),
        (frame.drop("p_cvr"), "lack the column p_cvr"),
        (frame.clear(), "have no rows"),
        (None, "predictions.parquet cannot be read"),
    ):
        if damaged is None:
            file.write_bytes(b"half a file")
        else:
            damaged.write_parquet(file)
        told: list[str] = []
        found = against(comparison, ["shared_bottom"], store, on_problem=told.append)
        (problem,) = told
        assert "ple-1" in problem
        assert words in problem
        of = found["shared_bottom"]
        assert of.of("ctr_auc", "ple").difference.seeds == 3
        assert of.of("ctr_auc", "mmoe").difference == whole.of("ctr_auc", "mmoe").difference


@pytest.mark.parametrize("odd", [[0], [0, 1, 2], [11], [3, 4, 5, 6, 7]])
def test_the_rows_of_most_runs_are_the_truth_whichever_is_read_first(store, odd):
    runs = store.records()
    names = [record.run_id for record in runs]
    spoilt = {names[place] for place in odd}
    for name in spoilt:
        file = store.runs / name / "predictions.parquet"
        frame = pl.read_parquet(file)
        frame.with_columns(pl.col("label_ctr", "label_cvr").reverse()).write_parquet(file)
    told: list[str] = []
    found = against(compare(runs)[0], ["mmoe"], store, on_problem=told.append)["mmoe"]
    assert {words.partition(":")[0] for words in told} == spoilt
    assert all("as those of most runs" in words for words in told)
    for label in ("ple", "shared_bottom"):
        pairs = {f"{m}-{s}" for m in (label, "mmoe") for s in range(4)} & spoilt
        left = 4 - len({name[-1] for name in pairs})
        verdict = found.of("ctr_auc", label)
        assert (verdict.difference.seeds if verdict else 0) == (left if left > 1 else 0)


def test_where_no_rows_are_those_of_most_runs_nothing_is_tested(store):
    for place, record in enumerate(store.records()):
        file = store.runs / record.run_id / "predictions.parquet"
        frame = pl.read_parquet(file)
        if place % 2:
            frame.with_columns(pl.col("label_ctr", "label_cvr").reverse()).write_parquet(file)
    told: list[str] = []
    runs = store.records()
    found = against(compare(runs)[0], ["mmoe"], store, on_problem=told.append)["mmoe"]
    assert not any(found.verdicts.values())
    assert len(told) == len(runs)
    assert all("no rows are those of most runs" in words for words in told)


def test_without_any_predictions_nothing_is_tested_and_it_is_said_why(store):
    for file in store.runs.glob("*/predictions.parquet"):
        file.unlink()
    (part,) = build(store.records(), store)
    assert part.tested is None
    assert part.untested == "no predictions could be read"
    assert len(part.problems) == 4  # three by name
    assert part.problems[-1] == "and 9 more of log"


def test_each_space_has_its_rows_and_its_label():
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
    moves = InfluenceReader(tasks).read(record, frame)
    of = {"ctr": [0, 1, 1, 0], "cvr": [1, 0], "ctcvr": [0, 1, 0, 0]}
    users = {"ctr": [7, 7, 8, 9], "cvr": [7, 8], "ctcvr": [7, 7, 8, 9]}
    scores = {"ctr": [0.1, 0.2, 0.3, 0.4], "cvr": [0.6, 0.7], "ctcvr": [0.0, 0.1, 0.2, 0.3]}
    assert list(moves) == ["ctr_auc", "cvr_auc", "ctcvr_auc"]
    for space, labels in of.items():
        found = moves[f"{space}_auc"]
        assert found.rows.labels.tolist() == labels
        influence = auc_influence(np.array(labels), np.array(scores[space]))
        codes = np.unique(users[space], return_inverse=True)[1]
        of_users = per_group(influence, codes, np.array(labels))
        assert found.influence.tolist() == pytest.approx(of_users.tolist())


def test_every_kind_of_metric_is_tested_that_a_record_has(tmp_path):
    rng = np.random.default_rng(1)
    merit = rng.standard_normal(ROWS)
    click = (merit + rng.standard_normal(ROWS) > 0.5).astype(np.uint8)
    users = np.arange(ROWS) % USERS
    losses: dict[str, list[np.ndarray]] = {"shared_bottom": [], "ple": []}
    for model, noise in (("shared_bottom", 1.5), ("ple", 1.0)):
        of_model = noise * rng.standard_normal(ROWS)  # what all its seeds get wrong
        for seed in range(3):
            p = 1 / (1 + np.exp(-merit - of_model - 0.2 * rng.standard_normal(ROWS)))
            frame = pl.DataFrame({"label_ctr": click, "p_ctr": p, "group": users})
            found = {
                "ctr_auc": roc_auc_score(click, p),
                "ctr_logloss": log_loss(click, p),
                "ctr_gauc": gauc(click, p, users).value,
            }
            losses[model].append(-np.log(np.where(click == 1, p, 1 - p)))
            record = replace(
                run(model, seed, None), tasks=TASKS[:1], counts={"test": {"ctr": COUNTS["ctr"]}},
                metrics={"valid": found, "test": found},
            )  # fmt: skip
            save(tmp_path, record, frame)
    store = ResultStore(tmp_path)
    (comparison,) = compare(store.records())
    found = versus(comparison, "shared_bottom", store)
    assert list(found.verdicts) == ["ctr_auc", "ctr_logloss", "ctr_gauc"]
    assert (
        found.of("ctr_logloss", "ple").difference.mean
        < 0
        < found.of("ctr_gauc", "ple").difference.mean
    )
    assert all(found.of(metric, "ple").is_shown for metric in found.verdicts)
    assert found.of("ctr_logloss", "ple").equivalence_p is None
    gains = np.subtract(losses["ple"], losses["shared_bottom"])  # [seeds, rows]
    of_users = np.array([np.bincount(users, weights=g - g.mean()) / ROWS for g in gains])
    covariance = USERS * np.cov(of_users)  # of two seeds, over redrawn users
    in_common = covariance[~np.eye(3, dtype=bool)].mean()
    of_rows = found.of("ctr_logloss", "ple").difference.of_rows
    assert of_rows == pytest.approx(in_common)
    drawn = against(comparison, ["shared_bottom"], store, how=Method(draws=400))["shared_bottom"]
    for metric in found.verdicts:
        formula, bootstrap = (one.of(metric, "ple").difference for one in (found, drawn))
        assert bootstrap.mean == formula.mean
        assert bootstrap.of_rows == pytest.approx(formula.of_rows, rel=0.25)  # 3.5 of its errors


def test_what_is_shown_to_be_small_is_equivalent_and_says_so(store):
    (comparison,) = compare(store.records())
    wide = against(comparison, ["shared_bottom"], store, how=Method(margin=0.2))["shared_bottom"]
    assert wide.of("ctr_auc", "mmoe").is_equivalent
    assert wide.of("ctr_auc", "ple").is_shown  # as well, and then it is said first
    mmoe, ple = difference_grid(comparison, wide).rows
    assert mmoe[1].text.endswith(" =0.2")
    assert "p=0.0" in ple[1].text
    narrow = versus(comparison, "shared_bottom", store)
    assert not narrow.of("ctr_auc", "mmoe").is_equivalent


def test_what_could_have_been_seen_is_told_for_every_row(store):
    (comparison,) = compare(store.records())
    found = versus(comparison, "shared_bottom", store)
    cell = power_grid(comparison, found).rows[1][1]
    assert float(cell.text) == pytest.approx(
        detectable(found.of("ctr_auc", "ple").difference), abs=5e-5
    )
