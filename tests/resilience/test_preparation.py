"""What is left of a preparation that was killed at its end, and two that want the same dataset."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from cvrbench.config.compose import compose
from cvrbench.data.registry import ensure, prepared_folder
from cvrbench.data.staging import INSTALLING, tidy

CONFIG = compose(["experiment=quick_check"]).config.dataset


@pytest.fixture
def prepared(quick_data, tmp_path) -> Path:
    """A folder in which a dataset lies prepared, as links to one that does."""
    target = prepared_folder(CONFIG, "synthetic", tmp_path)
    original = prepared_folder(CONFIG, "synthetic", quick_data)
    for file in original.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(original)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
    (target.parent / ".locks").mkdir()
    return target


def left_behind(target: Path, *names: str) -> Path:
    work = target.parent / f".preparing-{target.name}"
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("dataset")
    return work


def test_what_is_left_of_a_finished_preparation_goes_when_the_dataset_is_opened(prepared, tmp_path):
    work = left_behind(prepared, INSTALLING, "old/manifest.json")
    half_gone = left_behind(prepared.with_name(f"{prepared.name}.gone"), "old/manifest.json")
    assert half_gone.is_dir()
    ensure(CONFIG, "synthetic", tmp_path)
    assert not work.exists()
    assert not half_gone.exists()


def test_what_can_be_gone_on_with_stays(prepared):
    for names in (["journal.json"], [INSTALLING, "dataset/manifest.json"]):
        work = left_behind(prepared, *names)
        tidy(prepared)
        assert work.is_dir()


def test_what_another_process_works_in_stays(prepared):
    work = left_behind(prepared, INSTALLING)
    with FileLock(prepared.parent / ".locks" / prepared.name):
        tidy(prepared)
        assert work.is_dir()
    tidy(prepared)
    assert not work.exists()


def test_who_waited_for_a_dataset_takes_what_the_other_made(tmp_path, monkeypatch):
    """The other process is played by a second call, made when the first has seen nothing there."""
    from cvrbench.data import registry

    load, made = registry.load_raw, []

    def load_while_another_prepares(config, raw):
        rows = load(config, raw)
        if not made:
            made.append(None)
            made[0] = ensure(CONFIG, "synthetic", tmp_path).path.stat().st_ino
        return rows

    monkeypatch.setattr(registry, "load_raw", load_while_another_prepares)
    taken = ensure(CONFIG, "synthetic", tmp_path)
    assert taken.path.stat().st_ino == made[0]
    assert ensure(CONFIG, "synthetic", tmp_path, force=True).path.stat().st_ino != made[0]
