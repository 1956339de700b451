"""What killed preparations leave behind, and two processes that want the same dataset."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from cvrbench.config.compose import compose
from cvrbench.data.registry import ensure, prepared_folder

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


def left_behind(target: Path) -> Path:
    """The folder of a preparation of `target` that was killed."""
    work = target.parent / f".preparing-{target.name}"
    (work / "dataset").mkdir(parents=True)
    (work / "dataset" / "ids.npy").write_text("half of it")
    return work


def test_what_any_killed_preparation_left_goes_when_a_dataset_is_opened(prepared, tmp_path):
    own, other = left_behind(prepared), left_behind(prepared.with_name("aliccp-0123456789"))
    ensure(CONFIG, "synthetic", tmp_path)
    assert not own.exists()
    assert not other.exists()
    assert prepared.is_dir()


def test_what_another_process_works_in_stays(prepared, tmp_path):
    work = left_behind(prepared)
    with FileLock(prepared.parent / ".locks" / prepared.name):
        ensure(CONFIG, "synthetic", tmp_path)
        assert work.is_dir()
    ensure(CONFIG, "synthetic", tmp_path)
    assert not work.exists()


def test_a_preparation_begins_anew_whatever_was_left(prepared, tmp_path):
    before = {p.name for p in prepared.rglob("*.npy")}
    left_behind(prepared)
    ensure(CONFIG, "synthetic", tmp_path, force=True)
    assert {p.name for p in prepared.rglob("*.npy")} == before
    assert sorted(p.name for p in prepared.parent.iterdir()) == [".locks", prepared.name]


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
