"""Tables of sweeps, and what `cvrbench report` says of them."""

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from cvrbench.report.comparison import compare
from cvrbench.report.studies import (
    budgets_grid,
    cut,
    last_parts,
    study_json,
    trials_grid,
    tuned,
    tuned_words,
    value_text,
)
from cvrbench.report.tables import Grid, GridTable, to_latex, to_markdown
from cvrbench.runs.store import ResultStore, Survey
from cvrbench.runs.study import Studies, StudySummary
from tests.report.made_up_studies import AXES, params, searched, study, trial
from tests.report.test_comparison import run
from tests.report.test_export import HOSTILE


def texts(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in row] for row in grid.rows]


def column(grid: Grid, header: str) -> list[str]:
    headers = [one.replace("\n", " ") for one in grid.headers]
    return [row[headers.index(header)] for row in texts(grid)]


# Trials


def mixed(**changes) -> StudySummary:
    trials = [
        trial(0, [0.70], params=params(0), by_seed=((0.69,), (0.71,)), examples=1234567),
        trial(1, params=params(1), reason="RuntimeError: " + "out of memory " * 20),
        trial(2, [0.72], params=params(2, rounds=False), by_seed=((0.72,), (0.72,))),
        trial(3, state="pruned", params=params(3), reason="below the median"),
        trial(4, state="running", params=params(4), reason=None),
    ]
    return study(trials, seeds=(0, 1), **changes)


def test_trials_stand_from_the_best_to_those_without_a_value():
    grid = trials_grid(mixed())
    assert column(grid, "trial") == ["2", "0 preset", "4", "3", "1"]
    assert column(grid, "cvr_auc") == ["0.7200", "0.7000\n± 0.1271", "-", "-", "-"]
    assert column(grid, "state")[:4] == ["complete", "complete", "running", "pruned"]
    assert column(grid, "examples")[1] == "1,234,567"
    assert column(grid, "seconds")[0] == "12"
    assert [cell.text for row in grid.rows for cell in row if cell.strong] == ["2", "0.7200"]
    assert grid.last is None


def test_a_failure_says_why_in_a_few_words():
    (state,) = [one for one in column(trials_grid(mixed()), "state") if "failed" in one]
    assert state.replace("\n", " ").startswith("failed: RuntimeError: out of memory")
    assert max(map(len, state.splitlines())) <= 16
    assert state.endswith("…")
    assert len(state) < 50


def test_parameters_are_columns_by_importance_and_may_be_absent():
    space = {key: axis for key, axis in AXES.items() if "rate" in key or "rounds" in key}
    found = {"trainer.learning_rate": 0.9, "model.rounds": 0.1}
    grid = trials_grid(mixed(importances=found, axes=space))
    assert grid.headers[3:6] == ("learning_rate", "rounds", "examples")
    assert column(grid, "rounds")[:2] == ["-", "1"]


def test_many_parameters_share_a_column():
    found = {"trainer.learning_rate": 0.9, "model.density": 0.1}
    grid = trials_grid(mixed(importances=found))
    assert grid.headers[3:-2] == ("parameters tried",)
    first, second, *_ = column(grid, "parameters tried")
    assert second == "learning_rate=0.0001 density=0.1 search=imp rounds=1"
    assert "search=null" in first
    assert "rounds" not in first


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tables_fit_eighty_columns(count):
    space = dict(list(AXES.items())[:count])
    big = mixed(axes=space, name="ncs-kuairand-sparsity-4f1a9c", dataset="kuairand")
    big = replace(big, spent={"epochs": 1234.5, "examples": 987654321, "reused": 5})
    console = Console(width=80, file=io.StringIO())
    for grid in (trials_grid(big), budgets_grid([big])):
        console.print(GridTable(grid))
    said = console.file.getvalue()
    assert set(re.findall(r"\S*…\S*", said)) <= {"of…", "memory…", "ncs-kuair…y-4f1a9c:"}
    for words in ("0.7200", "± 0.1271", "987,654,321", "pruned/", "preset"):
        assert words in said


def test_a_cut_table_keeps_the_preset_below():
    summary = searched(24)
    grid = trials_grid(summary, limit=3)
    assert len(grid.rows) == 3
    assert grid.last is not None
    assert grid.last[0].text == "0 preset"
    assert "first 3 of 24 trials" in grid.caption
    values = column(trials_grid(summary), "cvr_auc")
    assert values == sorted(values, reverse=True)
    assert column(grid, "cvr_auc") == values[:3]


def test_what_is_minimised_is_best_when_small_and_fronts_come_first():
    trials = [trial(n, [0.5 + n / 10], params=params(n)) for n in range(3)]
    down = study(trials, directions=("minimize",), best=(0,))
    assert column(trials_grid(down), "trial") == ["0 preset", "1", "2"]
    both = [trial(0, [0.7, 90000.0]), trial(1, [0.6, 200.0]), trial(2, [0.65, 95000.0])]
    front = study(
        both,
        objectives=("cvr_auc", "multiply_adds"),
        directions=("maximize", "minimize"),
        best=(0, 1),
    )
    grid = trials_grid(front)
    assert column(grid, "trial") == ["0 preset", "1", "2"]
    assert column(grid, "multiply_adds") == ["90,000", "200", "95,000"]
    assert [row[0].strong for row in grid.rows] == [True, True, False]


@pytest.mark.parametrize("trials", [[], [trial(n) for n in range(5)], [trial(0, [-0.25])]])
def test_extremes_are_tables_all_the_same(trials):
    summary = study(trials)
    assert len(trials_grid(summary).rows) == len(trials)
    grid = budgets_grid([summary])
    assert column(grid, "best") == (["-0.2500"] if trials and trials[0].values else ["-"])
    json.dumps(study_json(summary), allow_nan=False)


def test_hostile_names_do_no_harm_in_tables():
    space = {HOSTILE: searched().axes["model.search"]}
    trials = [trial(0, [0.7], params={HOSTILE: HOSTILE}), trial(1, reason=HOSTILE)]
    summary = study(trials, name=HOSTILE, model=HOSTILE, objectives=(HOSTILE,), axes=space)
    for grid in (budgets_grid([summary]), trials_grid(summary)):
        lines = to_markdown(grid).splitlines()
        rows = [line for line in lines if line.startswith("|")]
        bars = {sum(c == "|" and r[i - 1] != "\\" for i, c in enumerate(r)) for r in rows}
        assert bars == {len(grid.headers) + 1}
        assert "<script>" not in to_markdown(grid).replace(r"\<script\>", "")
        latex = to_latex(grid)
        assert latex.count("%") == latex.count(r"\%")


# Budgets


def test_budgets_say_what_a_sweep_cost_and_found():
    chosen = {"trial": 2, "overrides": ["model.density=0.3", "trainer.lr=0.01"], "runs": []}
    grid = budgets_grid([mixed(chosen=chosen)])
    (row,) = texts(grid)
    assert row == [
        "ncs-log:\nncs on\nlog, density",
        "2/1/1",
        "12.5",
        "3,000",
        "25",
        "0.7200",
        "0.7000",
    ]
    assert "Searched for: cvr_auc. `cvrbench sweep --best NAME`" in grid.caption


def test_budgets_without_a_choice_or_reuse_have_dashes():
    grid = budgets_grid([study([trial(1, [0.7])], spent={})])
    (row,) = texts(grid)
    assert row[2:] == ["-", "0", "-", "0.7000", "-"]
    assert "Searched for: cvr_auc (ncs-log, not retrained yet)." in grid.caption


# Rows that were tuned


def test_rows_that_a_sweep_chose_say_so():
    records = [run("mmoe", seed, 0.7) for seed in range(2)] + [run("ncs", 0, 0.7)]
    (comparison,) = compare(records)
    runs = [record.run_id for record in records[:2]]
    summary = mixed(chosen={"trial": 2, "overrides": [], "seeds": [0, 1], "runs": runs})
    found = tuned(comparison, [searched(), summary])
    assert found == {"mmoe": ("ncs-log", 4, 3000), "ncs": None}
    assert tuned_words(found) == (
        "Tuned: mmoe (sweep ncs-log, 4 trials, 3,000 examples). All other rows are presets."
    )
    assert "all are presets" in tuned_words(tuned(comparison, [searched()]))


# The command


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A results folder of two tested runs, one of which a sweep chose."""
    monkeypatch.chdir(tmp_path)
    records = [run("mmoe", 0, 0.7), run("ncs", 0, 0.72)]
    survey = Survey(records=records, unreadable=[])
    monkeypatch.setattr(ResultStore, "survey", lambda _store: survey)
    chosen = {"trial": 2, "overrides": ["model.density=0.3"], "runs": [records[1].run_id]}
    folder = Studies(Path("results")).folder("ncs-log")
    folder.path.mkdir(parents=True)
    folder.write(mixed(chosen=chosen))
    return Path("results")


def test_a_study_is_read_as_it_was_written(tmp_path):
    folder = Studies(tmp_path).folder("ncs-log")
    folder.write(searched())
    assert json.dumps(study_json(folder.read())) == json.dumps(study_json(searched()))


def test_report_ends_with_what_tuning_cost(results, cvrbench):
    said = cvrbench("report")
    assert said.code == 0
    assert said.out.index("dense") < said.out.index("sweeps: what tuning cost")
    assert "cvrbench sweep --best NAME" in " ".join(said.out.split())
    assert "Tuned: ncs (sweep ncs-log" in " ".join(said.out.split())
    assert "### sweeps: what tuning cost" in cvrbench("report", "--format", "md").out
    assert r"\caption{sweeps: what tuning cost" in cvrbench("report", "--format", "latex").out
    assert "ncs-log" not in cvrbench("report", "--format", "csv").out


def test_report_as_json_has_an_object_per_sweep(results, cvrbench):
    compared, sweep = cvrbench("report", "--json").json()
    wanted = {"sweep": "ncs-log", "trials": 4, "examples": 3000}
    assert compared["tuned"] == {"mmoe": None, "ncs": wanted}
    assert sweep["study"]["best_value"] == 0.72
    assert sweep["study"]["trials"]["failed"] == 1
    assert sweep["study"]["chosen"]["overrides"] == ["model.density=0.3"]


def test_report_draws_sweeps(results, cvrbench):
    said = cvrbench("report", "--no-html", "--figures", "figures")
    assert said.code == 0
    names = {path.name for path in Path("figures").glob("sweep-*")}
    kinds = ("history", "slices", "parallel", "density")
    endings = ("png", "svg", "pdf")
    assert names == {f"sweep-ncs-log-{kind}.{end}" for kind in kinds for end in endings}
    assert "sweep-ncs-log-history: Every trial" in Path("figures/captions.txt").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 0}', '{"version": 1}', '{"axes": []}'])
def test_a_sweep_that_cannot_be_read_is_named_and_left_out(text, results, cvrbench):
    broken = Studies(results).folder("broken").path / "study.json"
    broken.parent.mkdir()
    broken.write_text(text)
    said = cvrbench("report", "--no-html")
    assert said.code == 0
    assert "no sweep broken" in said.err
    assert "what tuning cost" in said.out


def test_a_sweep_of_odd_shape_is_left_out(results, cvrbench):
    data = {**asdict(mixed()), "axes": []}
    Studies(results).folder("broken").path.mkdir()
    (Studies(results).folder("broken").path / "study.json").write_text(json.dumps(data))
    said = cvrbench("report", "--no-html")
    assert (said.code, "no sweep broken" in said.err) == (0, True)


def test_sweeps_alone_are_a_report(results, cvrbench, monkeypatch):
    monkeypatch.setattr(ResultStore, "survey", lambda _store: Survey(records=[], unreadable=[]))
    said = cvrbench("report")
    assert said.code == 0
    assert "what tuning cost" in said.out


def test_a_study_of_another_name_than_its_folder_is_left_out(results, cvrbench):
    folder = Studies(results).folder("ncs-log")
    folder.write(replace(folder.read(), name="../../out"))
    said = cvrbench("report", "--no-html", "--figures", "figures")
    assert "no sweep ncs-log" in said.err
    assert not list(Path().rglob("sweep-*.png"))


# Words


def test_words_of_values_and_names():
    values = (None, True, 0.123456, 1e-5, 64, "[64,32]")
    assert [value_text(value) for value in values] == [
        "null",
        "true",
        "0.1235",
        "1e-05",
        "64",
        "[64,32]",
    ]
    assert last_parts(["model.rate", "trainer.rate", "model.density"]) == {
        "model.rate": "model.rate",
        "trainer.rate": "trainer.rate",
        "model.density": "density",
    }
    assert cut("abcdefghij", 5) == "ab…ij"
    assert cut("a\nb  c", 10) == "a b c"
    assert [len(cut("x" * 50, length)) for length in (1, 2, 9, 50)] == [1, 2, 9, 50]
