"""One run, end to end, on the small planted log."""

import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from cvrbench.config.validate import config_to_dict
from cvrbench.errors import ConfigError, RunError, RunInterrupted, StoreError
from cvrbench.runs import experiment, planning
from cvrbench.runs.record import run_id
from cvrbench.runs.store import ResultStore
from cvrbench.training import session
from tests.choices import MODELS

OBJECTIVES = ("click_space", "entire_space", "exposure_space")


def folder(record, composed) -> Path:
    return Path(composed.config.results_dir) / "runs" / record.run_id


@pytest.mark.parametrize("model", MODELS)
def test_every_strategy_runs_and_records_every_metric(quick, model):
    cell = quick(f"model={model}")
    record = experiment.run(cell)
    for space in ("ctr", "cvr", "ctcvr"):
        for kind in ("auc", "logloss", "gauc", "pcoc", "ece", "best_auc", "regret"):
            assert record.metrics["test"][f"{space}_{kind}"] is not None
    for kind in ("auc", "pcoc", "regret"):
        assert record.metrics["test"][f"cvr_{kind}_unclicked"] is not None
    assert record.model == model
    assert record.test_scored == 1
    written = json.loads((folder(record, cell) / "record.json").read_text())
    assert len(written.pop("checksum")) == 64
    assert written == json.loads(json.dumps(record.to_json()))


@pytest.mark.parametrize(
    ("model", "objective"), [("single_task", "escm2_dr"), *(("ncs", o) for o in OBJECTIVES)]
)
def test_any_strategy_goes_with_any_objective(quick, model, objective):
    record = experiment.run(quick(f"model={model}", f"objective={objective}", "model.hidden=[8]"))
    assert 0 < record.metrics["test"]["ctr_auc"] < 1


def test_recorded_aucs_are_those_of_the_recorded_predictions(quick):
    cell = quick("model=shared_bottom")
    record = experiment.run(cell)
    rows = pl.read_parquet(folder(record, cell) / "predictions.parquet")
    clicked = rows.filter(pl.col("label_ctr") == 1)
    both = (rows["label_ctr"] * rows["label_cvr"]).to_numpy()
    expected = {
        "ctr_auc": roc_auc_score(rows["label_ctr"], rows["p_ctr"]),
        "cvr_auc": roc_auc_score(clicked["label_cvr"], clicked["p_cvr"]),
        "ctcvr_auc": roc_auc_score(both, rows["p_ctcvr"]),
    }
    for name, value in expected.items():
        assert record.metrics["test"][name] == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(rows["p_ctcvr"], rows["p_ctr"] * rows["p_cvr"], rtol=1e-12)


def test_parameters_and_multiply_adds_are_those_of_the_closed_form(quick):
    record = experiment.run(quick("model=shared_bottom", "model.hidden=[16,8]", "model.tower=[5]"))
    width = 8 * 4  # eight fields, embeddings of 4
    trunk = width * 16 + 16 * 8
    towers = 2 * (8 * 5 + 5 * 1)
    biases = 16 + 8 + 2 * (5 + 1)
    assert record.multiply_adds == trunk + towers
    assert record.parameters - record.embedding_parameters == trunk + towers + biases


def test_a_finished_cell_is_only_read(quick, monkeypatch):
    cell = quick("model=shared_bottom")
    first = experiment.run(cell)
    assert planning.state_of(cell) == "finished"
    monkeypatch.setattr(
        session.TrainingSession, "_fit", lambda *_, **__: pytest.fail("trained again")
    )
    assert experiment.run(cell) == first


def test_force_runs_a_finished_cell_again_and_counts_the_second_look_at_the_test(quick):
    cell = quick("model=shared_bottom")
    first = experiment.run(cell)
    again = experiment.run(cell, force=True)
    assert again.metrics == first.metrics
    assert (first.test_scored, again.test_scored) == (1, 2)


def test_the_test_split_is_scored_once_and_after_every_choice(quick, monkeypatch):
    order = []
    for module, name in ((session.TrainingSession, "_fit"), (experiment, "score")):
        original = getattr(module, name)

        def spy(*args, name=name, original=original, **kwargs):
            on_test = name == "score" and len(args[1]) == 1200
            order.append("test" if on_test else name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    experiment.run(
        quick("model=ncs", "model.search=imp", "model.together=false", "model.choice=validation")
    )
    assert order.count("test") == 1
    assert order[-1] == "test"
    assert order.count("_fit") == 2 * 5 + 1  # a search per task


def test_without_score_test_the_test_split_is_never_touched(quick):
    record = experiment.run(quick("model=shared_bottom", "protocol.score_test=false"))
    assert record.test_scored == 0
    assert set(record.metrics) == {"valid"}


def test_one_seed_fixes_every_number(quick, tmp_path):
    cell = quick("model=ncs")
    elsewhere = replace(cell, config=replace(cell.config, results_dir=str(tmp_path / "other")))
    one, other = experiment.run(cell), experiment.run(elsewhere)
    assert one.run_id == other.run_id
    assert one.metrics == other.metrics
    for file in ("best.safetensors", "masks.safetensors", "predictions.parquet"):
        assert (folder(one, cell) / file).read_bytes() == (
            folder(other, elsewhere) / file
        ).read_bytes()
    different = experiment.run(quick("model=ncs", "seed=1"))
    assert different.metrics != one.metrics


def interrupt_at(stage: str):
    """Press Ctrl-C once, when a stage has begun."""
    pressed = []

    def on_progress(now) -> None:
        if now.stage.startswith(stage) and not pressed:
            pressed.append(now)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    return on_progress


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("search ctr 2/5", ("model.search=imp", "model.together=false", "model.choice=validation")),
        ("search ctr 4/4", ("model.search=imp", "model.together=false", "model.step=alternate")),
        ("search ctr cvr 3/4", ("model.search=imp", "model.early_bird=0.5")),
        (
            "choose density 0.67",
            (
                "model.search=random",
                "model.rounds=4",
                "model.choice=joint",
                "model.search.epochs=2",
            ),
        ),
        ("warm-up", ("model.warmup_epochs=0.5", "model.search=snip")),
        ("search all tasks", ("model.search=gradient_conflict", "model.rewind=false")),
        ("train", ("model.search=unshared", "model.step=alternate")),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(quick, tmp_path, stage, options):
    cell = quick("model=ncs", *options)
    elsewhere = replace(cell, config=replace(cell.config, results_dir=str(tmp_path / "straight")))
    expected = experiment.run(elsewhere)
    with pytest.raises(RunInterrupted, match=stage.split()[0]):
        experiment.run(cell, on_progress=interrupt_at(stage))
    assert planning.state_of(cell) == "unfinished"
    assert ResultStore(tmp_path).find(expected.run_id) is None
    resumed = experiment.resume(planning.folder_of(cell))
    assert resumed.metrics == expected.metrics
    mine, theirs = folder(resumed, cell), folder(expected, elsewhere)
    for file in ("best.safetensors", "masks.safetensors", "predictions.parquet", "history.jsonl"):
        assert (mine / file).read_bytes() == (theirs / file).read_bytes()
    assert not (mine / "checkpoints").exists()


def test_masks_are_saved_with_the_density_that_the_record_tells(quick):
    cell = quick("model=ncs", "model.choice=last", "model.density=0.25")
    record = experiment.run(cell)
    masks = load_file(folder(record, cell) / "masks.safetensors")
    for task, name in enumerate(("ctr", "cvr")):
        kept = sum(int(layer[task].sum()) for layer in masks.values())
        total = sum(layer[task].size for layer in masks.values())
        assert kept == round(0.25 * total)
        assert record.diagnostics["density"][name] == pytest.approx(kept / total)


def test_only_what_can_change_a_number_changes_a_runs_name(quick):
    base = quick("model=mmoe")

    def name(composed) -> str:
        return run_id(config_to_dict(composed.config), composed.choices, "data")

    assert name(
        quick("model=mmoe", "results_dir=x", "trainer.checkpoint_seconds=1", "trainer.threads=2")
    ) == name(base)
    for change in ("seed=1", "model.dropout=0.2", "trainer.patience=2", "objective=entire_space"):
        assert name(quick("model=mmoe", change)) != name(base)
    assert run_id(config_to_dict(base.config), base.choices, "other data") != name(base)


def test_another_process_in_the_same_cell_is_kept_out(quick):
    cell = quick("model=shared_bottom")
    path = planning.folder_of(cell)
    store = ResultStore(Path(cell.config.results_dir))
    with (
        store.open(path.name, config={}, choices={}, fresh=False),
        pytest.raises(StoreError, match="another process"),
    ):
        experiment.run(cell)


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("trainer.device=cuda:7", RunError, "trainer.device=cpu"),
        ("trainer.device=tpu", ConfigError, "cpu, cuda"),
        ("protocol.selection=cvr_acu", ConfigError, "cvr_auc"),
        ("balancing.weights={cvx:1}", ConfigError, "cvx"),
        ("balancing=metabalance balancing.target=cvx", ConfigError, "target=cvx is no task"),
    ],
)
def test_a_plan_is_checked_before_its_first_run(quick, override, error, words):
    cell = quick("model=shared_bottom", "balancing=weighted", *override.split())
    with pytest.raises(error, match=words):
        planning.check_plan([cell])


def test_a_results_folder_that_cannot_be_made_is_refused_before_training(quick, tmp_path):
    (tmp_path / "file").write_text("")
    cell = quick("model=shared_bottom", f"results_dir={tmp_path}/file/results")
    with pytest.raises(StoreError, match="results_dir"):
        planning.check_plan([cell])


def test_a_task_of_weight_zero_is_neither_trained_nor_selected_by(quick):
    record = experiment.run(
        quick("model=shared_bottom", "balancing=weighted", "balancing.weights={cvr:0}")
    )
    history = Path(record.config["results_dir"], "runs", record.run_id, "history.jsonl")
    looks = [json.loads(line) for line in history.read_text().splitlines()]
    assert [look["score"] for look in looks] == [look["metrics"]["ctr_auc"] for look in looks]
