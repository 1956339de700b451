"""Files that may be somebody else's: nothing hangs, nothing is written or deleted behind a link."""

import os
import stat

import polars as pl
import pytest
from safetensors.torch import save_file
from torch import zeros

from cvrbench.errors import StoreError
from cvrbench.system import files
from cvrbench.system.parquet import parquet_size


def odd_files(folder):
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    for name, target in (("device", "/dev/zero"), ("to-fifo", "fifo"), ("to-nothing", "nothing")):
        (folder / name).symlink_to(target)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("read", [files.read_bytes, files.read_json, parquet_size])
def test_only_a_regular_file_is_read(read, tmp_path):
    for path in odd_files(tmp_path):
        with pytest.raises(OSError, match=r"no regular file|No such file"):
            read(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(files.TEXT_BYTES + 1)
    with pytest.raises(OSError, match="67,108,864 is the most"):
        files.read_json(tmp_path / "large")


def test_the_size_of_a_table_is_read_from_its_footer(tmp_path):
    frame = pl.DataFrame({"zeros": ["0" * 10**7] * 3, "lists": [[1, 2], [], [3]]})
    frame.write_parquet(tmp_path / "t.parquet")
    size = parquet_size(tmp_path / "t.parquet")
    assert (size.rows, size.columns) == frame.shape
    assert 10**7 <= size.n_bytes <= 1.1 * 10**7  # equal values are stored, and held, once
    assert (tmp_path / "t.parquet").stat().st_size < 10_000
    whole = (tmp_path / "t.parquet").read_bytes()
    for damaged in (whole[:-9], whole[:-60] + b"\xff" * 52 + whole[-8:], b"PAR1", b""):
        (tmp_path / "t.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"Parquet|footer"):
            parquet_size(tmp_path / "t.parquet")


def test_nothing_is_made_or_removed_behind_a_link(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "results"
    (outside / "kept").mkdir(parents=True)
    inside.mkdir()
    (inside / "runs").symlink_to(outside)
    for path in (inside / "runs", inside / "runs" / "kept"):
        with pytest.raises(StoreError, match="runs is a link"):
            files.make_folder(path, within=inside)
    with pytest.raises(StoreError, match="runs is a link"):
        files.remove(inside / "runs" / "kept", within=inside)
    files.remove(inside / "runs", within=inside)  # the link, and not what it leads to
    assert not (inside / "runs").is_symlink()
    assert (outside / "kept").is_dir()
    named = tmp_path / "named"  # the user's own word
    named.symlink_to(outside)
    assert files.make_folder(named / "new", within=named).is_dir()
    (inside / "lock").symlink_to(outside / "text")
    (outside / "text").write_text("text")
    with pytest.raises(StoreError, match="lock is a link"), files.lock(inside / "lock"):
        pass
    (inside / "file.json").symlink_to(outside / "text")
    files.write_text(inside / "file.json", "new")
    assert (outside / "text").read_text() == "text"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_what_is_written_may_be_read_by_whom_the_umask_lets(umask, tmp_path):
    before = os.umask(umask)
    try:
        with files.atomic_write(tmp_path / "weights.safetensors") as temporary:
            save_file({"a": zeros(1)}, temporary)
        files.write_text(tmp_path / "text", "text")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}
