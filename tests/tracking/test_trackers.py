"""Each tracker, read back: what a run tells it, once, and what it must not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvrbench.errors import ConfigError, RunInterrupted
from cvrbench.runs import experiment, planning
from cvrbench.runs.store import ResultStore
from tests.tracking import readers

ROOT = Path(__file__).parents[2]
LOGGERS = {
    "tensorboard": ("logger=tensorboard",),
    "mlflow": ("logger=mlflow",),
    "wandb": ("logger=wandb", "logger.mode=offline"),
}
SMALL = ("model.hidden=[8]", "model.tower=[]", "trainer.threads=1")
APART = ("model=ncs", "model.search=imp", "model.together=false", "model.rounds=2")
every_tracker = pytest.mark.parametrize("kind", LOGGERS)
pytestmark = [
    # MLflow's own tables, under SQLAlchemy 2.1.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


@pytest.fixture(autouse=True)
def no_server_of_the_developers(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)


def read(kind: str, folder: Path) -> list[readers.Kept]:
    return getattr(readers, kind)(folder)


def searched(stage: str) -> str:
    return "valid" if stage == "train" else stage.rpartition(" ")[0].replace(" ", "_")


@every_tracker
def test_a_tracker_holds_every_look_the_results_and_the_record(quick, tmp_path, kind):
    cell = quick(*APART, *SMALL, "trainer.evaluations_per_epoch=2", *LOGGERS[kind])
    record = experiment.run(cell)
    (kept,) = read(kind, tmp_path)
    looks = ResultStore(tmp_path).history(record.run_id)
    told = {}
    for look in looks:
        for name, value in look["metrics"].items():
            told.setdefault(f"{searched(look['stage'])}/{name}", []).append(value)
    assert {"valid/ctr_auc", "search_ctr/ctr_auc", "search_cvr/cvr_auc"} <= set(told)
    for name, values in told.items():
        steps, found = zip(*kept.points[name], strict=True)
        assert found == pytest.approx(values, rel=1e-6)
        assert sorted(set(steps)) == list(steps)
    # The last look's step is what the whole run computed gradients on.
    assert kept.points["valid/ctr_auc"][-1][0] == sum(record.examples.values())
    results = {f"test/{name}": v for name, v in record.metrics["test"].items() if v is not None}
    results["cost/parameters"] = record.parameters
    results["cost/examples_search"] = record.examples["search"]
    for name, value in results.items():
        ((_, found),) = kept.points[name]
        assert found == pytest.approx(value, rel=1e-6)
    assert kept.record == json.loads(json.dumps(record.to_json()))
    assert kept.config["model.hidden"] == "[8]"
    assert not any("dir" in key or "logger" in key for key in kept.config)


@every_tracker
def test_a_run_that_died_goes_on_in_the_same_place_and_tells_nothing_twice(quick, tmp_path, kind):
    words = (*SMALL, "trainer.evaluations_per_epoch=4", *LOGGERS[kind])
    straight = quick("model=mmoe", *words, f"results_dir={tmp_path / 'straight'}")
    died = quick("model=mmoe", *words, f"results_dir={tmp_path / 'died'}")
    experiment.run(straight)

    def die(look):
        if look.number == 3:
            raise RunInterrupted("no checkpoint was written since the run began")

    with pytest.raises(RunInterrupted):
        experiment.run(died, on_evaluation=die)
    (before,) = read(kind, tmp_path / "died")
    assert len(before.points["valid/ctr_auc"]) == 3
    assert before.record is None
    experiment.resume(planning.folder_of(died))
    (after,) = read(kind, tmp_path / "died")
    (expected,) = read(kind, tmp_path / "straight")
    assert len(expected.points["valid/ctr_auc"]) == 4
    timed = ("cost/seconds", "cost/examples_per_second")
    assert {k: v for k, v in after.points.items() if not k.startswith(timed)} == {
        k: v for k, v in expected.points.items() if not k.startswith(timed)
    }
    assert after.config == expected.config


@every_tracker
def test_a_forced_run_is_told_anew(quick, tmp_path, kind):
    cell = quick("model=shared_bottom", *SMALL, *LOGGERS[kind])
    experiment.run(cell)
    again = experiment.run(cell, force=True)
    kept = max(read(kind, tmp_path), key=lambda one: one.record["test_scored"])
    assert again.test_scored == 2
    assert kept.record == json.loads(json.dumps(again.to_json()))
    assert len(kept.points["valid/ctr_auc"]) == 2
    assert len(read(kind, tmp_path)) == (1 if kind == "tensorboard" else 2)


def test_tensorboard_has_a_row_of_settings_and_results(quick, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    record = experiment.run(quick("model=shared_bottom", *SMALL, "logger=tensorboard"))
    read = EventAccumulator(str(tmp_path / "tensorboard" / record.run_id)).Reload()
    told = read.PluginTagToContent("hparams")
    begun = metadata.parse_session_start_info_plugin_data(told[metadata.SESSION_START_INFO_TAG])
    assert begun.hparams["model.kind"].string_value == "shared_bottom"
    assert (
        begun.hparams["trainer.batch_size"].number_value == record.config["trainer"]["batch_size"]
    )
    shown = metadata.parse_experiment_plugin_data(told[metadata.EXPERIMENT_TAG])
    assert "test/cvr_auc" in {info.name.tag for info in shown.metric_infos}


def test_mlflow_knows_the_run_by_name_and_data(quick, tmp_path):
    from mlflow import MlflowClient

    record = experiment.run(quick("model=shared_bottom", *SMALL, "logger=mlflow"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs(["1"], f"tags.`cvrbench.run_id` = '{record.run_id}'")
    assert run.info.run_name == record.run_id
    assert run.data.tags["cvrbench.fingerprint"] == record.fingerprint
    told = record.environment["versions"]["torch"]
    assert run.data.tags["cvrbench.version.torch"] == told


def test_wandb_keeps_nothing_of_the_machine(quick, tmp_path, monkeypatch):
    # Of two processes of tests each is `python -c`, two letters that any file may hold.
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program-of-somebody.py")])
    experiment.run(quick("model=shared_bottom", *SMALL, *LOGGERS["wandb"]))
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    text = file.read_bytes()
    for secret in (os.uname().nodename, str(tmp_path / "runs"), sys.argv[0]):
        assert secret.encode() not in text
    assert {path.name for path in (file.parent / "files").iterdir()} == {"record.json"}


@pytest.mark.slow
@every_tracker
def test_every_trial_of_a_sweep_is_a_run_of_the_tracker(cvrbench, tmp_path, kind):
    words = ("sweep", "sweep=equal_budget", "experiment=quick_check", "model=shared_bottom", *SMALL)
    said = cvrbench(*words, "trials=2", "final_seeds=[0]", *LOGGERS[kind])
    assert said.code == 0, said.err
    kept = read(kind, tmp_path / "results")
    assert len(kept) == 3
    assert sum("test/ctr_auc" in one.points for one in kept) == 1
    assert len({one.config["model.dropout"] for one in kept}) == 2


@pytest.mark.slow
@every_tracker
def test_runs_of_several_processes_are_all_told(cvrbench, tmp_path, kind):
    words = ("run", "-m", "experiment=quick_check", "model=shared_bottom", *SMALL, *LOGGERS[kind])
    said = cvrbench(*words, "seed=0,1,2", "workers=3")
    assert (said.code, said.err) == (0, "")
    kept = read(kind, tmp_path / "results")
    assert {one.config["seed"] for one in kept} == {"0", "1", "2"}
    assert all(one.record is not None for one in kept)


@every_tracker
def test_without_the_package_one_line_names_the_extra(cvrbench, monkeypatch, tmp_path, kind):
    monkeypatch.setattr("cvrbench.tracking.find_spec", lambda _: None)
    said = cvrbench("run", "experiment=quick_check", "model=shared_bottom", *LOGGERS[kind])
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if line]
    assert f"pip install 'cvrbench[{kind}]'" in line
    assert not (tmp_path / "results" / "runs").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hush-hush@host:5000",
        "postgresql://me:hush-hush@host/db",
        "https://host/?password=hush-hush",
    ],
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(quick, tmp_path, uri):
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as refused:
        quick("logger=mlflow", f"logger.tracking_uri='{uri}'")
    assert "hush" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_password_of_the_environment_is_written_nowhere(quick, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush-hush@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    experiment.run(quick("model=shared_bottom", *SMALL, "logger=mlflow"))
    assert len(caplog.records) == 1
    assert "hush" not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"hush-hush" in path.read_bytes()] == []


def test_nothing_of_a_tracker_is_loaded_unless_it_is_asked_for(quick, quick_data, tmp_path):
    code = f"""
import sys
from cvrbench import run
run("experiment=quick_check", model="shared_bottom", data_dir="{quick_data}",
    results_dir="{tmp_path}")
print(*sorted({{"tensorboard", "wandb", "mlflow"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CVRBENCH_CONF": str(ROOT / "conf")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "vocabularies"]
