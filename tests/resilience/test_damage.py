"""Files that are cut short, changed by a bit or gone: seen, named, and no harm to what is good."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch

from cvrbench.config.compose import compose
from cvrbench.errors import RunInterrupted, StoreError
from cvrbench.runs import experiment, planning
from cvrbench.runs.load import load_trained
from cvrbench.runs.store import (
    RESULTS,
    ResultStore,
    RunFolder,
    checked,
    read_predictions,
    read_record,
    read_run_config,
)
from cvrbench.system.files import is_intact, sealed
from cvrbench.training import checkpoint
from cvrbench.training.checkpoint import StageFiles, is_whole
from tests.resilience.bits import (
    at_step,
    digests,
    empty,
    flip,
    press_ctrl_c,
    truncate,
    vanish,
)

OPTIONS = ("model=ncs", "model.search=imp", "model.rounds=2", "trainer.threads=1")
damages = pytest.mark.parametrize(
    "damage", [flip, *(pytest.param(d, marks=pytest.mark.slow) for d in (truncate, empty, vanish))]
)
changes = pytest.mark.parametrize("damage", [truncate, empty, flip])
often = pytest.mark.parametrize(
    "damage", [truncate, *(pytest.param(d, marks=pytest.mark.slow) for d in (empty, flip))]
)


@pytest.fixture(scope="module")
def reference(quick_data, tmp_path_factory):
    """The cell's folder when nothing has happened, and its record."""
    place = tmp_path_factory.mktemp("reference")
    record = experiment.run(composed(quick_data, place))
    return place / "runs" / record.run_id, record


@pytest.fixture(scope="module")
def interrupted(quick_data, tmp_path_factory):
    """The cell's folder as Ctrl-C leaves it in the last training, with every step saved."""
    place = tmp_path_factory.mktemp("interrupted")
    cell = composed(quick_data, place, "trainer.checkpoint_seconds=1e-9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SHARE", float("inf"))
        stop = at_step("train", 4, press_ctrl_c)
        with pytest.raises(RunInterrupted):
            experiment.run(cell, on_progress=stop)
    return planning.folder_of(cell)


def composed(data, place, *words):
    places = (f"data_dir={data}", f"results_dir={place}")
    return compose(["experiment=quick_check", *OPTIONS, *places, *words])


@pytest.fixture
def cell(quick):
    return quick(*OPTIONS)


@pytest.fixture
def finished(reference, cell):
    """The folder of a finished run."""
    return Path(shutil.copytree(reference[0], planning.folder_of(cell)))


@pytest.fixture
def stopped(interrupted, cell):
    """The folder of an unfinished run."""
    return Path(shutil.copytree(interrupted, planning.folder_of(cell)))


def test_any_bit_of_a_checkpoint_is_either_seen_or_of_no_consequence(tmp_path):
    state = {"state": {"step": 3}, "best": {"w": torch.arange(60.0)}, "rng": torch.get_rng_state()}
    files = StageFiles(tmp_path, 0)
    files.save_finished(state)
    whole = files.finished_file.read_bytes()
    dice, unseen = random.Random(0), 0
    for _ in range(400):
        content = bytearray(whole)
        content[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        files.finished_file.write_bytes(content)
        if (found := files.finished()) is not None:
            unseen += 1
            assert found["state"] == state["state"]
            assert torch.equal(found["best"]["w"], state["best"]["w"])
            assert torch.equal(found["rng"], state["rng"])
    assert unseen < 200  # padding and dates, of which a small file is half


def test_torch_itself_would_not_see_a_flipped_weight(tmp_path):
    files = StageFiles(tmp_path, 0)
    files.save_finished({"w": torch.arange(1000.0)})
    content = bytearray(files.finished_file.read_bytes())
    content[content.find(torch.tensor([500.0]).numpy().tobytes())] ^= 1
    files.finished_file.write_bytes(content)
    read = torch.load(files.finished_file, weights_only=True)["w"]
    assert not torch.equal(read, torch.arange(1000.0))
    assert files.finished() is None


@damages
def test_a_damaged_last_save_is_put_aside_and_the_run_goes_on_from_the_one_before(
    cell, stopped, reference, damage, caplog
):
    (last,) = (stopped / "checkpoints").glob("*-partial.pt")
    before = StageFiles(last.parent, int(last.name.split("-")[1])).before_file
    assert is_whole(before)
    damage(last)
    with caplog.at_level(logging.WARNING):
        record = experiment.run(cell)
    said = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert len(said) == (0 if damage is vanish else 1)
    assert all(str(last) in line and "the one before" in line for line in said)
    assert record.metrics == reference[1].metrics
    assert digests(stopped) == digests(reference[0])


@often
def test_a_damaged_finished_stage_is_computed_again(cell, stopped, reference, damage, caplog):
    damage(stopped / "checkpoints" / "stage-0.pt")
    with caplog.at_level(logging.WARNING):
        experiment.run(cell)
    assert "stage-0.pt is damaged" in caplog.text
    assert digests(stopped) == digests(reference[0])
    assert not list(stopped.glob("**/*.damaged"))


@pytest.mark.slow
def test_with_both_saves_damaged_the_stage_begins_anew(cell, stopped, reference):
    for file in (stopped / "checkpoints").glob("*-partial*.pt"):
        flip(file)
    experiment.run(cell)
    assert digests(stopped) == digests(reference[0])


@often
def test_a_damaged_config_of_a_run_under_way_is_named_and_the_same_command_mends_it(
    cell, stopped, reference, damage
):
    damage(stopped / "config.json")
    with pytest.raises(StoreError, match=r"config\.json"):
        experiment.resume(stopped)
    experiment.run(cell)
    assert digests(stopped) == digests(reference[0])


def test_a_changed_digit_of_a_config_is_seen(stopped):
    file = stopped / "config.json"
    file.write_text(file.read_text().replace('"batch_size": 512', '"batch_size": 513'))
    with pytest.raises(StoreError, match="checksum"):
        read_run_config(stopped)


@often
@pytest.mark.parametrize("name", RESULTS)
def test_a_damaged_result_is_named_when_it_is_read(finished, name, damage):
    read = {
        "predictions.parquet": lambda: read_predictions(finished),
        "history.jsonl": lambda: ResultStore(finished.parents[1]).history(finished.name),
    }.get(name, lambda: load_trained(finished))
    read()
    damage(finished / name)
    with pytest.raises(StoreError, match=rf"{name} cannot be read.*--force"):
        read()
    assert read_record(finished).test_scored == 1  # what is good stays readable


@changes
def test_a_damaged_record_is_named(finished, damage):
    damage(finished / "record.json")
    with pytest.raises(StoreError, match=r"record\.json"):
        read_record(finished)
    (left_out,) = ResultStore(finished.parents[1]).survey().unreadable
    assert "record.json" in left_out.why


def test_a_changed_digit_of_a_record_is_seen(finished):
    file = finished / "record.json"
    record = json.loads(file.read_text())
    record["metrics"]["test"]["cvr_auc"] += 0.01
    file.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"record\.json cannot be read.*checksum"):
        read_record(finished)


def test_every_result_has_its_checksum_in_the_record(finished, reference):
    record = read_record(finished)
    assert record.files == reference[1].files == digests(finished)


def test_a_record_of_before_there_were_checksums_is_read(finished):
    file = finished / "record.json"
    old = json.loads(file.read_text())
    del old["checksum"], old["files"]
    file.write_text(json.dumps(old))
    assert read_record(finished).files == {}
    assert checked(finished, "predictions.parquet").is_file()


def test_a_seal_breaks_with_any_change_and_with_nothing_else():
    values = {"a": [1, 2.5, None], "b": {"z": 1e-9, "y": "ü"}}
    whole = json.loads(json.dumps(sealed(values), indent=3))
    assert is_intact(dict(reversed(whole.items())))
    assert is_intact(values)  # an older file has none
    assert not is_intact({**whole, "a": [1, 2.5, 0]})
    assert not is_intact({**whole, "more": 1})
    assert not is_intact({k: v for k, v in whole.items() if k != "a"})


@pytest.mark.parametrize("text", ["", "one", "\udcff"])
def test_a_damaged_count_of_looks_at_the_test_is_named(tmp_path, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "test-scored").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match=r"test-scored cannot be read.*test_scored"):
        RunFolder(tmp_path).count_test()


def test_a_scoring_that_is_repeated_after_a_kill_is_one_and_a_forced_one_is_another(tmp_path):
    store = ResultStore(tmp_path)

    def score(*, fresh):
        with store.open("a", config={}, choices={}, fresh=fresh) as folder:
            return folder.count_test()

    assert [score(fresh=False), score(fresh=False)] == [1, 1]
    assert [score(fresh=True), score(fresh=False)] == [2, 2]


def test_a_finished_cell_without_its_record_is_run_again(cell, finished, reference):
    vanish(finished / "record.json")
    record = experiment.run(cell)
    assert digests(finished) == digests(reference[0])
    assert record.test_scored == 2


def test_temporaries_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    from cvrbench.system.files import process_scope, write_text

    file = tmp_path / "best.yaml"
    dead = tmp_path / f".best.yaml.{process_scope()}-4194305-1.tmp"  # no system numbers so high
    alive = tmp_path / f".best.yaml.{process_scope()}-1-1.tmp"
    elsewhere = tmp_path / ".best.yaml.0123456789ab-4194305-1.tmp"
    other = tmp_path / f".other.yaml.{process_scope()}-4194305-1.tmp"
    for left in (dead, alive, elsewhere, other):
        left.write_text("half")
    write_text(file, "whole")
    assert sorted(Path(tmp_path).iterdir()) == sorted([file, alive, elsewhere, other])
