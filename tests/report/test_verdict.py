"""The verdict on planted predictions: what is taken, what is out, and what would settle it."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from cvrbench.errors import ConfigError
from cvrbench.report.comparison import compare
from cvrbench.report.dataset_report import build, report_json
from cvrbench.report.tables import words_to_latex, words_to_markdown
from cvrbench.report.verdict import command_of
from cvrbench.runs.store import ResultStore
from tests.report.test_comparison import run
from tests.report.test_differences import ROWS, write

COMMAND = "cvrbench run -m model=a,b seed=0..3 dataset=log model.density=0.1,0.2"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four models of four seeds: `ple` and `mmoe` alike, the others worse by far."""
    folder = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(ROWS)
    click = merit + rng.standard_normal(ROWS) > 0.5
    conversion = click & (merit + rng.standard_normal(ROWS) > 1.2)
    common = rng.standard_normal(ROWS)
    for model, noise in (("single_task", 3), ("shared_bottom", 2), ("mmoe", 0.5), ("ple", 0.5)):
        for seed in range(4):
            own = 0.1 * rng.standard_normal(ROWS)
            write(folder, model, seed, merit + noise * common + own, click, conversion)
    return ResultStore(folder)


def of(store, **options):
    (found,) = build(store.records(), store, **options)
    return found


def test_losers_are_out_and_of_the_others_none_is_called_the_winner(store):
    found = of(store)
    plain = report_json(found)["verdict"]
    assert plain["metric"] == "cvr_auc"
    assert set(plain["best_set"]) == {"mmoe", "ple"}
    assert {one["row"] for one in plain["out"]} == {"single_task", "shared_bottom"}
    assert all(one["difference"] < 0 and one["p"] < 0.05 for one in plain["out"])
    assert {one["to"] for one in plain["out"]} <= {"mmoe", "ple", "shared_bottom"}
    assert plain["take"] in plain["best_set"]
    assert "No winner is shown" in plain["why"]
    assert sum(plain["chances"].values()) == pytest.approx(1)
    json.dumps(plain, allow_nan=False)
    assert found.verdict.title.startswith("Verdict on log, CVR AUC (clicked): 4 strategies, 4")


def test_the_cheaper_of_the_best_set_is_taken(store):
    for cheap in ("mmoe", "ple"):
        records = [
            replace(one, multiply_adds=5 if one.model == cheap else 10) for one in store.records()
        ]
        (found,) = build(records, store)
        assert found.verdict.take == cheap
        assert "the cheapest of the best set" in found.verdict.why


def test_one_that_beats_all_is_shown(store):
    records = [one for one in store.records() if one.model != "mmoe"]
    (found,) = build(records, store)
    assert found.verdict.why == "Take ple: shown better than all 2 others at 5 %."
    assert found.verdict.settle == ()


def test_another_metric_may_be_asked_for_and_less_loss_is_better(store):
    found = of(store, metric="ctr_auc").verdict
    assert found.metric == "ctr_auc"
    assert any("CVR AUC (clicked)" in line for line in found.others)
    with pytest.raises(ConfigError, match="Choices: ctr_auc, ctr_logloss"):
        of(store, metric="ctr_aux")


def test_one_seed_says_so_and_a_row_without_a_partner_is_not_judged(store):
    (found,) = build([one for one in store.records() if one.seed == 2], store)
    assert any(line.startswith("One seed:") for line in found.verdict.lines)
    records = [one for one in store.records() if one.model != "ple" or one.seed == 2]
    (found,) = build(records, store)
    assert any("Not judged" in line and "ple" in line for line in found.verdict.lines)
    (found,) = build([one for one in store.records() if one.model == "ple"], store)
    assert found.verdict.take is None


def test_the_same_words_stand_in_markdown_and_latex(store):
    verdict = of(store).verdict
    told = words_to_markdown(verdict.title, verdict.lines)
    assert told.startswith("## Verdict on log")
    assert verdict.why.replace("_", r"\_") in told
    assert words_to_latex(verdict.title, verdict.lines).startswith(r"\paragraph{Verdict on log")


def test_what_settles_it_is_a_command_that_bash_reads():
    records = [
        run(
            model,
            seed,
            0.7,
            run_id=f"{model}{seed}",
            config={"model": {"kind": model, "density": density}, "seed": seed},
            choices={"dataset": "log", "model": model},
            environment={"command": COMMAND},
        )
        for model, density in (("a", 0.1), ("b", 0.2))
        for seed in range(4)
    ]
    (comparison,) = compare(records)
    command = command_of(comparison.variants, 3)
    assert command == (
        "cvrbench run -m model=a seed=4..6 dataset=log model.density=0.1 && "
        "cvrbench run -m model=b seed=4..6 dataset=log model.density=0.2"
    )
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    untold = [replace(v, runs=(run("a", 0, 0.7),)) for v in comparison.variants]
    assert command_of(untold, 3) is None
