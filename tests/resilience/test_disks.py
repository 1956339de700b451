"""Disks that run full or turn read-only while a run is under way, on a disk made for the test."""

import pytest

from cvrbench.config.compose import compose
from cvrbench.data.registry import ensure
from cvrbench.errors import CvrbenchError, DataError, StoreError
from cvrbench.runs import experiment, planning
from cvrbench.runs.store import read_record
from cvrbench.system import files
from cvrbench.training import checkpoint
from tests.resilience.bits import at_step, digests
from tests.resilience.disks import small_disk

OPTIONS = ("model=ncs", "model.search=imp", "model.rounds=2", "trainer.threads=1")
SAVED_OFTEN = "trainer.checkpoint_seconds=1e-9"
STAGES = ("search ctr cvr 1/2", "search ctr cvr 2/2", "train")
RESULTS = ("test-scored", "predictions", "best", "masks", "history")


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def expected(quick_data, tmp_path_factory):
    """What the cell comes to on a disk with room."""
    place = tmp_path_factory.mktemp("reference")
    record = experiment.run(composed(quick_data, place))
    return record.metrics, digests(place / "runs" / record.run_id)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=8) as made:
        yield made


@pytest.fixture
def cell(quick_data, disk, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    return composed(quick_data, disk.folder / "results", SAVED_OFTEN)


def composed(data, place, *words):
    places = (f"data_dir={data}", f"results_dir={place}")
    return compose(["experiment=quick_check", *OPTIONS, *places, *words])


def came_to(cell):
    folder = planning.folder_of(cell)
    return read_record(folder).metrics, digests(folder)


@pytest.mark.parametrize("stage", [*map(slow, STAGES[:2]), STAGES[2]])
@pytest.mark.parametrize("leave", [0, slow(60_000)])
def test_a_disk_that_runs_full_is_named_and_the_run_goes_on_when_there_is_room(
    cell, disk, expected, stage, leave
):
    with pytest.raises(StoreError, match=r"no space left to write .*stage.*free some"):
        experiment.run(cell, on_progress=at_step(stage, 2, lambda: disk.fill(leave)))
    folder = planning.folder_of(cell)
    assert not list(folder.rglob("*.tmp"))
    assert list((folder / "checkpoints").iterdir()) or stage == STAGES[0]
    disk.free()
    experiment.run(cell)
    assert came_to(cell) == expected


@pytest.mark.parametrize("name", [*map(slow, RESULTS), "record"])
def test_a_disk_that_is_full_when_the_results_are_written_is_named(
    cell, disk, expected, monkeypatch, name
):
    forget = files.forget_dead

    def fill_before(path):
        forget(path)
        if path.name.startswith(name) and path.parent == planning.folder_of(cell):
            disk.fill()

    monkeypatch.setattr(files, "forget_dead", fill_before)
    with pytest.raises(StoreError, match=rf"no space left to write .*{name}"):
        experiment.run(cell)
    monkeypatch.setattr(files, "forget_dead", forget)
    assert not list(planning.folder_of(cell).rglob("*.tmp"))
    disk.free()
    experiment.run(cell)
    assert came_to(cell) == expected


def test_the_older_save_makes_room_for_a_new_one(cell, disk, expected):
    """Three saves do not fit, two do; what is lost is the spare one."""
    sizes = []

    def fill_up():
        saves = list((planning.folder_of(cell) / "checkpoints").glob("*-partial*.pt"))
        sizes.append(len(saves))
        disk.fill(leave=saves[0].stat().st_size // 2)

    experiment.run(cell, on_progress=at_step("train", 4, fill_up))
    assert sizes == [2]
    disk.free()
    assert came_to(cell) == expected


@pytest.mark.parametrize("stage", [slow(STAGES[1]), STAGES[2]])
def test_a_folder_that_turns_read_only_is_named_and_the_run_goes_on_later(
    cell, disk, expected, stage
):
    with pytest.raises(StoreError, match=r"cannot write .*Read-only.*results_dir="):
        experiment.run(cell, on_progress=at_step(stage, 2, disk.lock))
    disk.unlock()
    experiment.run(cell)
    assert came_to(cell) == expected


def test_what_is_finished_is_read_from_a_read_only_folder(cell, disk, expected):
    experiment.run(cell)
    disk.lock()
    assert experiment.run(cell).metrics == expected[0]
    assert came_to(cell) == expected
    with pytest.raises(StoreError, match=r"cannot write .*Read-only"):
        experiment.run(cell, force=True)
    assert came_to(cell) == expected
    disk.unlock()


@pytest.mark.parametrize("leave", [slow(0), 20_000, slow(100_000), slow(200_000)])
def test_data_that_do_not_fit_are_named_and_prepared_when_there_is_room(disk, quick_data, leave):
    config = compose(["experiment=quick_check"]).config.dataset
    disk.fill(leave)
    with pytest.raises(DataError, match=r"no space left to write .*synthetic.*free some"):
        ensure(config, "synthetic", disk.folder)
    assert not list(disk.folder.glob("**/.preparing*"))
    disk.free()
    made = ensure(config, "synthetic", disk.folder)
    fingerprint = ensure(config, "synthetic", quick_data).schema.fingerprint
    assert made.schema.fingerprint == fingerprint


def test_a_read_only_data_folder_is_named_and_what_is_prepared_there_is_used(disk):
    config = compose(["experiment=quick_check"]).config.dataset
    disk.lock()
    with pytest.raises(CvrbenchError, match=r"Read-only.*data_dir="):
        ensure(config, "synthetic", disk.folder)
    disk.unlock()
    made = ensure(config, "synthetic", disk.folder)
    disk.lock()
    assert ensure(config, "synthetic", disk.folder).schema == made.schema
    disk.unlock()
