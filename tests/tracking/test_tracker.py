"""A run and a tracker that misbehaves, and that neither is a part of the other."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvrbench import tracking
from cvrbench.config.validate import config_to_dict
from cvrbench.report.comparison import compare
from cvrbench.runs import experiment, planning
from cvrbench.runs.record import run_id
from cvrbench.runs.store import ResultStore

ROOT = Path(__file__).parents[2]
LOGGERS = ("none", "tensorboard", "wandb", "mlflow")
SMALL = ("model=shared_bottom", "model.hidden=[8]", "model.tower=[]", "trainer.threads=1")


class Broken:
    """A sink that fails when one of its methods is called, and notes every call."""

    def __init__(self, where):
        self.where, self.calls = where, []

    def _do(self, method):
        self.calls.append(method)
        if method == self.where:
            raise OSError(28, "No space left on device\nand more lines")

    def begin(self, _about, _earlier):
        self._do("begin")
        return "there"

    def log(self, _values, _step):
        self._do("look")

    def end(self, _finished):
        self._do("end")


def numbers(record):
    return record.metrics, record.parameters, record.examples, record.best_step


@pytest.mark.parametrize("where", ["begin", "look", "end"])
def test_a_tracker_that_fails_costs_one_line_and_no_digit(quick, monkeypatch, caplog, where):
    expected = experiment.run(quick(*SMALL))
    sink = Broken(where)
    monkeypatch.setattr(tracking, "open_sink", lambda *_: sink)
    cell = quick(*SMALL, "logger=tensorboard")
    record = experiment.run(cell, force=True)
    assert numbers(record) == numbers(expected)
    assert planning.state_of(cell) == "finished"
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith("logger=tensorboard: ")
    assert "No space left" in line
    assert "\n" not in line
    assert sink.calls.count(where) == 1
    assert sink.calls[-1] == where  # a tracker that has failed is not called again


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_run_is_the_same_run_whoever_watches(quick, logger):
    plain, watched = quick(*SMALL), quick(*SMALL, f"logger={logger}")
    names = [run_id(config_to_dict(c.config), c.choices, "data") for c in (plain, watched)]
    assert names[0] == names[1]


def test_a_finished_run_is_only_read_and_its_record_knows_no_logger(quick, tmp_path):
    first = experiment.run(quick(*SMALL, "logger=tensorboard"))
    assert "logger" not in {*first.config, *first.choices}
    assert experiment.run(quick(*SMALL, "logger=mlflow")) == first
    assert not (tmp_path / "mlflow").exists()


def test_runs_that_were_watched_and_runs_that_were_not_share_a_row(quick, tmp_path):
    experiment.run(quick(*SMALL, "seed=0", "logger=tensorboard"))
    experiment.run(quick(*SMALL, "seed=1"))
    (comparison,) = compare(ResultStore(tmp_path).records())
    (variant,) = comparison.variants
    assert [run.seed for run in variant.runs] == [0, 1]


def test_a_run_that_goes_on_with_another_tracker_begins_anew_there(quick, monkeypatch):
    begun = []

    class Noting(Broken):
        def begin(self, _about, earlier):
            begun.append(earlier)
            return "there"

    def die(look):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "open_sink", lambda *_: Noting("nowhere"))
    for logger in ("tensorboard", "tensorboard", "mlflow"):
        with pytest.raises(KeyboardInterrupt):
            experiment.run(quick(*SMALL, f"logger={logger}"), on_evaluation=die)
    first, second, third = begun
    assert (first, third) == (None, None)
    assert second.run == "there"
    assert second.step > 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"logger": 3}', '{"run": 1}', "null"])
def test_a_damaged_memory_is_no_memory(quick, text):
    cell = quick(*SMALL, "logger=tensorboard")
    folder = planning.folder_of(cell)
    folder.mkdir(parents=True)
    (folder / "tracked.json").write_text(text)
    assert experiment.run(cell).test_scored == 1
    assert json.loads((folder / "tracked.json").read_text())["step"] > 0


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("train", "valid"),
        ("warm-up", "warm-up"),
        ("search ctr 3/5", "search_ctr"),
        ("search all tasks", "search_all_tasks"),
        ("choose density 0.30", "choose_density"),
    ],
)
def test_the_rounds_of_a_search_are_one_curve(stage, name):
    assert tracking._prefix(stage) == name


def test_names_and_values_are_such_as_every_tracker_takes():
    values = {"ctr_auc": 0.5, "no value": None, "é{} auc": 1, "nan": float("nan")}
    assert tracking.numbers("a b", values) == {"a_b/ctr_auc": 0.5, "a_b/____auc": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["mlflow", "wandb"])
def test_a_server_that_takes_connections_and_never_answers_stops_no_run(
    quick_data, tmp_path, logger
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
        server = {
            "MLFLOW_TRACKING_URI": address,
            "WANDB_BASE_URL": address,
            "WANDB_API_KEY": "0" * 40,
            "CVRBENCH_CONF": str(ROOT / "conf"),
        }
        places = [f"data_dir={quick_data}", f"results_dir={tmp_path}"]
        words = ["run", "experiment=quick_check", *SMALL, *places, f"logger={logger}", "--json"]
        clock = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "cvrbench", *words],
            env={**kept, **server},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["test"]
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith(f"logger={logger}: ")
    assert time.monotonic() - clock < 120
