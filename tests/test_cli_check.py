"""`cvrbench check`: what fell, what only seems to have, and what is not there to be compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats as scipy_stats

from cvrbench.cli.console import out
from cvrbench.stats.difference import auc_standard_error
from tests.report.test_comparison import COUNTS, run

HOSTILE = "[bold]x[/bold][/red]\x1b[31m"
USUAL = (0.70, 0.702, 0.701)


def write(model: str, aucs, *, results: str = "results", density: float = 0.2, **changes) -> None:
    """One run a seed; without predictions, which a check has no need of."""
    for seed, auc in enumerate(aucs):
        record = run(model, seed, auc)
        config = {**record.config, "model": {"kind": model, "density": density}}
        record = replace(record, run_id=f"{model}-{density}-{seed}", config=config, seed=seed)
        record = replace(record, **changes)
        folder = Path(results, "runs", record.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record.to_json()))


@pytest.fixture
def baseline(cvrbench, monkeypatch):
    """Give what the report says of some runs, in a file, and take the runs away."""
    monkeypatch.setattr(out, "width", 120)

    def made(**models) -> str:
        for model, aucs in models.items():
            write(model, aucs, results="before")
        Path("baseline.json").write_text(cvrbench("report", "before", "--json").out)
        return "baseline.json"

    return made


def test_nothing_fell_where_nothing_changed(cvrbench, baseline):
    file = baseline(mmoe=USUAL, ple=(0.7,))
    said = cvrbench("check", file, "before")
    assert said.code == 0
    assert "6 compared, 0 failed" in said.out


def test_a_fall_beyond_the_seeds_interval_fails_and_one_within_does_not(cvrbench, baseline):
    file = baseline(mmoe=USUAL)
    for by, code in ((0.0019, 0), (0.0030, 1), (-0.1, 0)):
        write("mmoe", [auc - by for auc in USUAL])
        said = cvrbench("check", file, "--json")
        assert said.code == code
        (found,) = said.json()
        one = found["compared"][0]
        assert one["outcome"] == ("fell" if code else "held")
        test = scipy_stats.ttest_ind(USUAL, [a - by for a in USUAL], equal_var=False)
        low, high = test.confidence_interval(0.95)
        assert one["tolerance"] == pytest.approx((high - low) / 2, abs=1e-9)
        assert one["basis"] == "seeds"
    assert 0.0019 < one["tolerance"] < 0.0030


def test_one_seed_may_fall_as_far_as_its_test_rows_allow(cvrbench, baseline):
    file = baseline(mmoe=(0.7,))
    ctr = COUNTS["ctr"]
    error = auc_standard_error(0.7, ctr["positives"], ctr["rows"] - ctr["positives"])
    allowed = 1.96 * error
    for by, outcome in ((0.9 * allowed, "held"), (1.1 * allowed, "fell")):
        write("mmoe", [0.7 - by])
        (found,) = cvrbench("check", file, "--json").json()
        one = found["compared"][0]
        assert (one["metric"], one["outcome"], one["basis"]) == ("ctr_auc", outcome, "rows")
        assert one["tolerance"] == pytest.approx(allowed)


def test_a_given_tolerance_replaces_it(cvrbench, baseline):
    file = baseline(mmoe=USUAL)
    write("mmoe", [auc - 0.01 for auc in USUAL])
    assert cvrbench("check", file).code == 1
    assert cvrbench("check", file, "--tolerance", "0.011").code == 0
    assert cvrbench("check", file, "--tolerance", "0.009").code == 1
    assert cvrbench("check", file, "--tolerance", "-1").code == 2


def test_a_row_that_is_gone_is_named_and_a_new_one_only_mentioned(cvrbench, baseline):
    file = baseline(mmoe=USUAL, ple=USUAL)
    write("mmoe", USUAL)
    write("cgc", (0.1,))
    said = cvrbench("check", file)
    assert said.code == 1
    assert "log: ple" in said.out
    assert "missing" in said.out
    assert "New since, and not compared: log: cgc." in " ".join(said.out.split())
    write("ple", USUAL)
    assert cvrbench("check", file).code == 0


def test_a_dataset_that_is_gone_or_has_other_data_fails(cvrbench, baseline):
    file = baseline(mmoe=USUAL)
    said = cvrbench("check", file)
    assert (said.code, "missing" in said.out) == (1, True)
    write("mmoe", (0.9, 0.9, 0.9), fingerprint="another")
    said = cvrbench("check", file)
    assert said.code == 1
    assert "other data" in said.out
    assert "log f, now another" in said.out
    (found,) = cvrbench("check", file, "--json").json()
    assert [one["outcome"] for one in found["compared"]] == ["other data"]


def test_a_metric_that_is_undefined_today_fails(cvrbench, baseline):
    file = baseline(mmoe=USUAL)
    write("mmoe", USUAL)
    metrics = {f"{name}_auc": 0.8 for name in COUNTS} | {"cvr_auc": None}
    write("mmoe", USUAL, metrics={"valid": {}, "test": metrics})
    said = cvrbench("check", file)
    assert (said.code, said.out.count("undefined")) == (1, 1)


def test_a_row_is_found_again_when_new_neighbours_change_its_name(cvrbench, baseline):
    file = baseline(mmoe=USUAL)
    write("mmoe", USUAL)
    for density in (0.3, 0.4):
        write("mmoe", (0.2, 0.21, 0.22), density=density)
    said = cvrbench("check", file)
    assert said.code == 0
    assert "mmoe density=0.3" in said.out  # new
    labels = [one["strategy"] for one in json.loads(Path(file).read_text())["strategies"]]
    assert labels == ["mmoe"]


def test_a_baseline_without_settings_is_compared_by_name(cvrbench, baseline):
    file = Path(baseline(mmoe=USUAL))
    table = json.loads(file.read_text())
    del table["strategies"][0]["settings"]
    file.write_text(json.dumps(table))
    write("mmoe", USUAL, density=0.9)
    assert cvrbench("check", str(file)).code == 0


def test_new_defaults_are_compared_under_the_old_name(cvrbench, baseline):
    file = baseline(mmoe=USUAL)
    write("mmoe", [auc - 0.1 for auc in USUAL], density=0.9)
    said = cvrbench("check", file)
    assert (said.code, said.out.count("fell")) == (1, 3)


def test_lines_of_sweeps_are_no_part_of_it_and_unreadable_runs_are_named(cvrbench, baseline):
    file = Path(baseline(mmoe=USUAL))
    file.write_text(file.read_text() + '{"study": {"name": "x"}}\n\n')
    write("mmoe", USUAL)
    Path("results", "runs", "half").mkdir()
    Path("results", "runs", "half", "record.json").write_text("{")
    said = cvrbench("check", str(file))
    assert said.code == 0
    assert "left out" in said.err
    assert "half" in said.err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '"strategies"',
        '{"strategies": 3}',
        '{"study": {}}',
        '{"strategies": [], "test": {}, "dataset": "x"}',
        '{"strategies": [3], "test": {}, "dataset": "x", "fingerprint": "f"}',
    ],
)
def test_what_is_no_baseline_is_one_line_and_misuse(cvrbench, text):
    Path("b.json").write_text(text)
    said = cvrbench("check", "b.json")
    assert (said.code, said.err.count("\n"), said.out) == (2, 1, "")
    assert "cvrbench report --json" in said.err
    assert cvrbench("check", "absent.json").code == 2


@pytest.mark.parametrize("mean", [2, -1, float("nan"), float("inf"), "x", None, [1]])
def test_a_baseline_of_impossible_numbers_is_refused(cvrbench, baseline, mean):
    file = Path(baseline(mmoe=USUAL))
    table = json.loads(file.read_text())
    table["strategies"][0]["metrics"]["ctr_auc"]["mean"] = mean
    file.write_text(json.dumps(table))
    said = cvrbench("check", str(file))
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_names_from_elsewhere_command_nothing(cvrbench, baseline):
    file = Path(baseline(mmoe=USUAL))
    table = json.loads(file.read_text())
    table["strategies"][0]["strategy"] = HOSTILE
    gone = {**table, "dataset": HOSTILE, "fingerprint": HOSTILE}
    file.write_text(f"{json.dumps(table)}\n{json.dumps(gone)}\n")
    write("mmoe", USUAL, dataset=HOSTILE)
    write("ple", USUAL, dataset=f"other {HOSTILE}")
    said = cvrbench("check", str(file))
    assert said.code == 1
    assert "\x1b" not in said.out + said.err
    assert r"[bold]x[/bold][/red]\x1b[31m" in said.out
