"""`cvrbench diff`: what differs between two runs, and whether their test rows tell them apart."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from cvrbench.cli.console import out
from cvrbench.report.pairs import pair
from cvrbench.stats.difference import Estimate, row_difference, t_interval, welch_half_width
from tests.report.test_comparison import run

ROWS = 60
HOSTILE = "a-[bold]b[/bold]-[/red]-\x1b[31m-s0"


def write(folder: Path, name: str, noise: float = 1.0, *, users: bool = False, **changes) -> Path:
    """A finished run of planted predictions; `noise` spoils them."""
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(ROWS)
    click = merit + rng.standard_normal(ROWS) > 0
    conversion = click & (merit + rng.standard_normal(ROWS) > 0.5)
    own = np.random.default_rng(len(name))
    p = np.round(1 / (1 + np.exp(-merit - noise * own.standard_normal(ROWS))), 1)  # has ties
    columns = {
        "label_ctr": click.astype(np.uint8),
        "p_ctr": p,
        "label_cvr": conversion.astype(np.uint8),
        "p_cvr": p,
        "p_ctcvr": p * p,
    }
    if users:
        columns["group"] = np.arange(ROWS) % 7
    aucs = {
        "ctr_auc": roc_auc_score(click, p),
        "cvr_auc": roc_auc_score(conversion[click], p[click]),
        "ctcvr_auc": roc_auc_score(conversion, p * p),
        "ctr_logloss": 0.5,
    }
    environment = {"versions": {"torch": "2.1", "numpy": "2"}, "threads": 2, "device": "cpu"}
    usual = {"metrics": {"valid": aucs, "test": aucs}, "environment": environment}
    name = name.replace("/", "_")
    record = replace(run("mmoe", 0, None), **{"run_id": name, **usual, **changes})
    path = folder / "runs" / name
    path.mkdir(parents=True)
    saved = {"config": record.config, "choices": record.choices}
    (path / "config.json").write_text(json.dumps(saved))
    (path / "record.json").write_text(json.dumps(record.to_json()))
    pl.DataFrame(columns).write_parquet(path / "predictions.parquet")
    return path


def by_hand(first: Path, second: Path, *, users: bool) -> tuple[float, float, float]:
    """Difference, half-width of its interval and p by all pairs of rows: no ranks, no sorting."""
    frames = [pl.read_parquet(path / "predictions.parquet") for path in (first, second)]
    labels = frames[0]["label_ctr"].to_numpy()
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    wins = np.zeros((2, len(positive), len(negative)))
    for which, frame in enumerate(frames):
        p = frame["p_ctr"].to_numpy()
        for (i, row), (j, other) in product(enumerate(positive), enumerate(negative)):
            wins[which, i, j] = 1.0 if p[row] > p[other] else 0.5 if p[row] == p[other] else 0.0
    gain = wins[1] - wins[0]
    v10, v01 = gain.mean(axis=1), gain.mean(axis=0)
    if users:
        sums = np.zeros(7)
        for rows, values in ((positive, v10), (negative, v01)):
            for row, value in zip(rows, values, strict=True):
                share = (rows % 7 == row % 7).mean()  # CR2: a heavy user pulls the mean
                sums[row % 7] += (value - gain.mean()) / len(rows) / np.sqrt(1 - share)
        variance = (sums**2).sum()
    else:
        variance = v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)
    sizes = np.bincount(np.arange(len(labels)) % 7)
    law = scipy_stats.t(sizes.sum() ** 2 / (sizes**2).sum() - 1) if users else scipy_stats.norm
    z = gain.mean() / np.sqrt(variance)
    return gain.mean(), law.ppf(0.975) * np.sqrt(variance), 2 * law.sf(abs(z))


@pytest.mark.parametrize("users", [False, True])
def test_the_paired_test_is_delongs_counted_pair_by_pair(tmp_path, users):
    first = write(tmp_path, "one", users=users)
    second = write(tmp_path, "two-more", noise=2.0, users=users)
    found = pair(first, second)
    mean, half_width, p = by_hand(first, second, users=users)
    assert found.clustered == users
    assert found.tests["ctr_auc"] == pytest.approx((mean, half_width, p), abs=1e-9)


def test_rows_without_doubt_leave_none():
    assert row_difference(0.0, 0.0).p == 1
    assert row_difference(0.1, 0.0) == (0.1, 0.0, 0.0)


def test_welchs_interval_is_scipys():
    first, second = [0.7, 0.72, 0.75, 0.71], [0.69, 0.74, 0.7]
    low, high = scipy_stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = welch_half_width(t_interval(first), t_interval(second))
    assert found == pytest.approx((high - low) / 2, abs=1e-9)
    assert welch_half_width(Estimate(0.7, 0.0, 2), Estimate(0.7, 0.0, 3)) == 0
    with pytest.raises(ValueError, match="two values"):
        welch_half_width(t_interval([0.7]), t_interval(second))


def test_only_keys_that_differ_are_told(cvrbench, monkeypatch):
    monkeypatch.setattr(out, "width", 100)
    write(Path("results"), "one")
    config = {"model": {"kind": "mmoe", "density": 0.3, "hidden": [8]}, "seed": 1}
    new = {"versions": {"torch": "2.2", "numpy": "2"}, "threads": 4, "device": "cpu"}
    write(Path("results"), "two", 2.0, config={**config, "results_dir": "x"}, environment=new)
    said = cvrbench("diff", "one", "two")
    assert said.code == 0
    assert "model.density" in said.out
    assert "model.hidden" in said.out
    assert "model.kind" not in said.out
    assert "results_dir" not in said.out
    assert "The same versions of numpy 2." in said.out
    assert "version of torch" in said.out
    assert "Seeds are not in it" in " ".join(said.out.split())
    (found,) = cvrbench("diff", "one", "two", "--json").json()
    assert found["config"] == {
        "model.density": {"first": 0.2, "second": 0.3},
        "model.hidden": {"second": [8]},
        "seed": {"first": 0, "second": 1},
    }
    assert found["origin"]["threads"] == {"first": 2, "second": 4}
    ctr = found["metrics"]["ctr_auc"]
    assert ctr["difference"] == ctr["second"] - ctr["first"] == ctr["paired"]["mean"]
    loss = found["metrics"]["ctr_logloss"]
    assert loss["difference"] == loss["paired"]["mean"]
    assert found["untested"] is None


def test_a_run_does_not_differ_from_itself(cvrbench):
    write(Path("results"), "one")
    said = cvrbench("diff", "one", "one")
    assert "no key differs" in said.out
    assert "p=1.000" in said.out


def spoil(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(label_ctr=1 - pl.col("label_ctr"))


@pytest.mark.parametrize(
    ("changes", "write_predictions", "words"),
    [
        ({"fingerprint": "other"}, None, "tested on other rows: log with fingerprint f"),
        ({"metrics": {"valid": {"ctr_auc": 0.7}}}, None, "two never scored its test rows"),
        ({"tasks": []}, None, "their tasks are not the same"),
        ({}, spoil, "not of the same test rows"),
        ({}, lambda frame: frame.head(10), "not of the same test rows"),
        ({}, lambda frame: frame.drop("p_ctr"), "lack the column p_ctr"),
        ({}, lambda _: None, "predictions.parquet cannot be read"),
    ],
)
def test_without_a_paired_test_it_is_said_why(cvrbench, changes, write_predictions, words):
    write(Path("results"), "one")
    file = write(Path("results"), "two", **changes) / "predictions.parquet"
    if write_predictions is not None:
        frame = write_predictions(pl.read_parquet(file))
        file.unlink()
        if frame is not None:
            frame.write_parquet(file)
    said = cvrbench("diff", "one", "two")
    assert said.code == 0
    told = " ".join(said.out.split())
    assert "No paired test: " in told
    assert words in told
    assert "±" not in told
    (found,) = cvrbench("diff", "one", "two", "--json").json()
    assert words in found["untested"]


def test_runs_of_two_results_folders_are_compared_by_path(cvrbench):
    first = write(Path("here"), "same")
    second = write(Path("there"), "same")
    said = cvrbench("diff", str(first), str(second), "--json")
    assert said.json()[0]["metrics"]["ctr_auc"]["difference"] == 0


def test_a_run_that_is_not_there_or_broken_is_one_line(cvrbench):
    path = write(Path("results"), "one")
    said = cvrbench("diff", "one", "absent")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "cvrbench ls" in said.err
    (path / "record.json").write_text("{")
    said = cvrbench("diff", "one", "one")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "cannot be read" in said.err


def test_the_record_of_another_run_is_refused(cvrbench):
    one, other = (write(Path("results"), name) for name in ("one", "other"))
    (other / "record.json").write_bytes((one / "record.json").read_bytes())
    said = cvrbench("diff", "one", "other")
    assert said.code == 1
    assert "is the record of one, in a folder of another name" in said.err


def test_names_from_elsewhere_command_nothing(cvrbench, monkeypatch):
    monkeypatch.setattr(out, "width", 200)
    environment = {"versions": {HOSTILE: HOSTILE}, "git": {"commit": HOSTILE}, "device": HOSTILE}
    write(Path("results"), "one")
    config = {"model": {HOSTILE: HOSTILE}, "seed": 1}
    path = write(Path("results"), HOSTILE, config=config, environment=environment)
    said = cvrbench("diff", "one", str(path))
    assert said.code == 0
    assert "\x1b" not in said.out
    assert r"a-[bold]b[_bold]-[_red]-\x1b[31m-s0" in said.out


@pytest.mark.parametrize(("others", "words"), [(3, "does not compare"), (1, "-50.0 %")])
def test_seconds_of_seeds_trained_together_are_not_compared_with_those_of_one(
    cvrbench, others, words
):
    write(Path("results"), "a", environment={"together": 1}, seconds={"train": 20.0})
    write(Path("results"), "b", environment={"together": others}, seconds={"train": 10.0})
    said = cvrbench("diff", "a", "b").out
    line = next(line for line in said.splitlines() if "seconds, train" in line)
    assert words in line
    assert ("-50.0 %" in line) == (others == 1)
    (found,) = cvrbench("diff", "a", "b", "--json").json()
    assert found["cost"]["seeds trained as one program"] == {"first": "1", "second": str(others)}
