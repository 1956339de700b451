"""`cvrbench compare` and `data inspect`: from a file to an answer."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cvrbench.runs import planning
from cvrbench.runs.planning import Pace, afford

SMALL = ("model.hidden=[8]", "model.embedding_dim=4", "trainer.threads=1")


@pytest.fixture
def log(cvrbench) -> Path:
    draw = np.random.default_rng(0)
    click = draw.random(800) < 0.5
    bought = click & (draw.random(800) < 0.5)
    path = Path("my log.csv")  # in the folder that `cvrbench` is called in
    columns = {"user": draw.integers(0, 60, 800), "item": draw.integers(0, 30, 800)}
    pl.DataFrame(
        {**columns, "click": click.astype(int), "bought": bought.astype(int), "t": range(800)}
    ).write_csv(path)
    return path


def test_a_dry_run_says_what_it_guessed_how_long_it_takes_and_how_to_go_on(
    cvrbench, log, monkeypatch
):
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    words = ("compare", str(log), "model=shared_bottom,mmoe", *SMALL, "trainer.patience=40")
    said = cvrbench(*words, "--dry-run")
    assert (said.code, list(Path("results").iterdir())) == (0, [])
    assert "{name: cvr, label: bought, parent: ctr, joint: ctcvr}" in said.err
    assert "2 strategies x 5 seeds x at most 12 epochs: at most 0." in said.out
    command = f"cvrbench run -m dataset=my_log {' '.join(words[2:])} seed=0..4"
    assert command.replace("[8]", "[8]'").replace("model.h", "'model.h") in said.out
    assert "  - {name: cvr" in Path("conf/dataset/my_log.yaml").read_text()
    other = cvrbench(*words, "--dry-run", "--click", "bought")
    assert other.code == 2
    assert "my_log.yaml is there already, and is not what this command would write" in other.err
    only = cvrbench("compare", str(log), "--task", "ctr=click", "--name", "one")
    assert only.code == 2
    assert "click is the only label, and a single task shares with none" in only.err
    wrong = cvrbench("compare", str(log), "--click", "clik", "--name", "two")
    assert wrong.code == 2
    assert "has no column 'clik'. Did you mean 'click'?" in wrong.err


@pytest.mark.slow
def test_one_line_leads_from_a_file_to_a_report(cvrbench, log):
    said = cvrbench("compare", str(log), "seed=0,1", "trainer.epochs=2", *SMALL)
    assert said.code == 0, said.err
    assert "my_log: difference to shared_bottom" in said.out
    assert Path("results/report/index.html").is_file()
    assert len(list(Path("results/runs").iterdir())) == 10


def test_inspect_prints_a_table_and_a_yaml_and_overwrites_nothing(cvrbench, log):
    said = cvrbench("data", "inspect", str(log))
    lines = [line.split()[:2] for line in said.out.partition("\n\n")[0].splitlines()[1:]]
    assert dict(lines) == {
        "user": "group", "item": "id", "click": "label", "bought": "label", "t": "time"
    }  # fmt: skip
    written = cvrbench("data", "inspect", str(log), "--yaml", "-o", "conf/dataset/mine.yaml")
    assert Path("conf/dataset/mine.yaml").read_text() == written.out
    assert cvrbench("config", "dataset=mine").code == 0
    twice = cvrbench("data", "inspect", str(log), "--click", "click", "-o", "my log.csv")
    assert (twice.code, "my log.csv is there already" in twice.err) == (2, True)


def test_seeds_then_epochs_are_what_the_time_allows():
    pace = Pace(model="m", rate=1000.0, train=10_000, valid=0, test=0, searched=0.0, evaluations=4)
    run = pace.seconds(12)
    assert run == planning.START_SECONDS + 120
    assert afford([pace, pace], 12, 10 * run) == (5, 12, 10 * run)
    assert afford([pace, pace], 12, 9.9 * run) == (4, 12, 8 * run)
    assert afford([pace, pace], 12, 5.9 * run)[:2] == (3, 11)
    assert afford([pace, pace], 12, 4 * pace.seconds(1))[:2] == (2, 1)
    seeds, epochs, seconds = afford([pace, pace], 12, 1.0)
    assert (seeds, epochs) == (2, 1)
    assert seconds > 1.0
