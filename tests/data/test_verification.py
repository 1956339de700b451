"""Prepared arrays are compared with their checksums while a run goes on."""

import os
import shutil
import time
from pathlib import Path

import pytest

from cvrbench.config.compose import compose
from cvrbench.data.dataset import Dataset, Verification, open_dataset
from cvrbench.data.registry import ensure
from cvrbench.errors import DataError, RunInterrupted


@pytest.fixture
def dataset(quick_data, tmp_path) -> Dataset:
    """A copy of the small planted log that a test may damage."""
    config = compose(["experiment=quick_check"]).config
    whole = ensure(config.dataset, "synthetic", quick_data)
    return open_dataset(Path(shutil.copytree(whole.path, tmp_path / "copy")))


def flip(file: Path, byte: int, bit: int = 0) -> None:
    """Damage one bit as a disk would: neither size nor time of the file changes."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_undamaged_dataset_passes_and_is_read_once(dataset, monkeypatch):
    opened: list[Path] = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda p, *a, **k: opened.append(p) or original(p, *a, **k))
    with Verification(dataset) as verifying:
        for _ in range(3):
            verifying.finish()
    arrays = [name for name in dataset.manifest["files"] if name.endswith(".npy")]
    names = [p.relative_to(dataset.path).as_posix() for p in opened if p.suffix == ".npy"]
    assert sorted(names) == sorted(arrays)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("array", ["ids", "labels"])
def test_one_flipped_bit_is_found_and_its_file_named(dataset, split, array):
    file = dataset.path / split / f"{array}.npy"
    flip(file, file.stat().st_size // 2, bit=5)
    open_dataset(dataset.path)  # sees nothing
    with (
        Verification(dataset) as verifying,
        pytest.raises(DataError, match=rf"{split}/{array}\.npy was changed.*prepare synthetic"),
    ):
        verifying.finish()


def test_a_damaged_header_is_found_before_anything_is_read(dataset):
    flip(dataset.path / "valid" / "numeric.npy", 100, bit=5)
    with pytest.raises(DataError, match=r"valid/numeric\.npy was changed.*data prepare synthetic"):
        open_dataset(dataset.path)


def change(file: Path) -> None:
    flip(file, 200)
    os.utime(file)


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, 1000)


@pytest.mark.parametrize("harm", [change, remove, cut])
def test_what_happens_to_a_file_later_is_found_too(dataset, harm, monkeypatch):
    monkeypatch.setattr("cvrbench.data.dataset.LOOK_SECONDS", 0.05)
    with Verification(dataset) as verifying:
        verifying.finish()
        harm(dataset.path / "test" / "ids.npy")
        time.sleep(0.1)
        with pytest.raises(DataError, match=r"test/ids\.npy"):
            verifying.check()


def test_a_file_that_was_only_touched_is_as_good_as_before(dataset):
    with Verification(dataset) as verifying:
        verifying.finish()
        (dataset.path / "test" / "ids.npy").touch()
        verifying.finish()


def test_asking_at_every_step_looks_at_the_disk_once_a_second(dataset, monkeypatch):
    with Verification(dataset) as verifying:
        verifying.finish()
        looks: list[Path] = []
        original = Path.stat
        monkeypatch.setattr(Path, "stat", lambda p, **k: looks.append(p) or original(p, **k))
        for _ in range(1000):
            verifying.check()
    assert len(looks) <= 2 * len(dataset.manifest["files"])


def test_leaving_ends_the_thread_before_it_is_through(dataset, monkeypatch):
    monkeypatch.setattr("cvrbench.data.dataset.PIECE_BYTES", 1)
    begun = time.monotonic()
    with Verification(dataset):
        pass
    assert time.monotonic() - begun < 0.5


def test_an_error_that_damaged_data_explain_is_explained(dataset):
    flip(dataset.path / "train" / "ids.npy", 5000, bit=7)
    with pytest.raises(DataError, match=r"train/ids\.npy was changed"), Verification(dataset):
        raise IndexError("index 1073741830 is out of bounds")


@pytest.mark.parametrize("error", [IndexError("of our own making"), RunInterrupted("stopped")])
def test_an_error_with_another_cause_stays_what_it_is(dataset, error):
    with pytest.raises(type(error), match=str(error)), Verification(dataset):
        raise error
