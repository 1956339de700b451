"""Folders of datasets that were laid out to do harm, and values that nothing can hold."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from cvrbench.config.compose import compose
from cvrbench.data import archives
from cvrbench.data.archives import locate
from cvrbench.data.downloads import Download, Public, fetch
from cvrbench.data.encode import ScaleCounter, as_text
from cvrbench.data.registry import ensure
from cvrbench.data.sources import synthetic, table, table_files
from cvrbench.errors import CvrbenchError, DataError
from tests.data.test_table import described, log


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder of somebody else's, which must stay as it is."""
    folder = tmp_path / "elsewhere"
    (folder / "inner").mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    (folder / ".preparing-x").mkdir()
    return folder


@pytest.fixture
def untouched(elsewhere):
    def state() -> dict[str, tuple[int, bytes]]:
        paths = sorted(elsewhere.rglob("*"))
        return {str(p): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in paths}

    before = state()
    yield
    assert state() == before


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("where", ["prepared", ".locks", "lock", ".preparing-"])
def test_preparing_follows_no_link(where, elsewhere, tmp_path):
    log().write_csv(tmp_path / "log.csv")
    config, data_dir = described(tmp_path / "log.csv"), tmp_path / "data"
    name = ensure(config, "table", tmp_path / "other").path.name
    prepared = data_dir / "prepared"
    places = {
        "prepared": (prepared, elsewhere),
        ".locks": (prepared / ".locks", elsewhere / "inner"),
        "lock": (prepared / ".locks" / name, elsewhere / "thesis.tex"),
        ".preparing-": (prepared / f".preparing-{name}", elsewhere),
    }
    link(*places[where])
    if where == ".preparing-":  # a leftover of ours, which goes away as a link
        ensure(config, "table", data_dir)
        assert not places[where][0].is_symlink()
        return
    with pytest.raises(CvrbenchError, match="is a link, which may lead anywhere"):
        ensure(config, "table", data_dir)


def source(name: str = "x.bin") -> dict[str, Public]:
    # Nothing listens there: what is refused is refused before.
    download = Download(url="http://127.0.0.1:9/x.bin", file_name=name, checksum=None)
    return {"mine": Public(licence="ours", page="here", downloads=(download,))}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("where", ["raw", "raw/mine", "raw/mine/x.bin.part", "raw/mine/x.bin"])
def test_fetching_follows_no_link(where, elsewhere, tmp_path):
    is_file = where.endswith((".part", ".bin"))
    target = (
        elsewhere / ("thesis.tex" if where.endswith(".part") else "gone") if is_file else elsewhere
    )
    link(tmp_path / "data" / where, target)
    with pytest.raises(CvrbenchError, match="is a link, which may lead anywhere"):
        fetch("mine", tmp_path / "data" / "raw" / "mine", sources=source())


def test_a_pipe_is_waited_for_nowhere(tmp_path):
    folder = tmp_path / "raw" / "mine"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "x.bin.part")
    with pytest.raises(DataError, match="it is no regular file"):
        fetch("mine", folder, sources=source())
    os.mkfifo(folder / "log.csv")
    with pytest.raises(DataError, match=r"has no file log\.csv"):
        locate(folder, ["log.csv"], dataset="mine")
    for path in (folder / "log.csv", Path("/dev/zero")):
        with pytest.raises(DataError, match="is neither a file nor a folder"):
            locate(path, ["log.csv"], dataset="mine")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_that_is_unpacked_without_a_bound_is_refused(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("log.csv", bytes(1000))
    with pytest.raises(DataError, match="unusual way: unpack it yourself"):
        locate(tmp_path, ["log.csv"], dataset="mine")


def test_a_zip_that_says_less_than_it_holds_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "PIECE", 1 << 10)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", bytes(1 << 20))
        archive.getinfo("log.csv").file_size = 100
    asked: list[int] = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda f, n=-1: asked.append(n) or read(f, n))
    with pytest.raises(DataError, match="damaged or truncated"):
        locate(tmp_path, ["log.csv"], dataset="mine")["log.csv"].read()
    assert set(asked) == {1 << 10}


def test_a_table_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    frame = pl.select(pl.repeat(1, 3_000_000).alias("user"))
    frame.write_parquet(tmp_path / "log.parquet")
    assert (tmp_path / "log.parquet").stat().st_size < 100_000
    free = type(table_files.available_memory())(n_bytes=1 << 20, limit="this test")
    monkeypatch.setattr(table_files, "available_memory", lambda: free)
    with pytest.raises(DataError, match=r"log.parquet unpacks to up to 0\.\d GB, and 0\.0 GB"):
        table.load(described(tmp_path / "log.parquet"))


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_a_number_that_nothing_can_hold_is_named(value):
    with pytest.raises(DataError, match=r"'price' holds -?1e\+.*logarithm"):
        ScaleCounter("price").add(pl.Series("price", [0.0, 1.0, value]))
    narrow = ScaleCounter("price")
    narrow.add(pl.Series("price", [0.0, 1e-30]))
    with pytest.raises(DataError, match=r"'price' holds 1e\+15.*logarithm"):
        narrow.learn().encode(pl.Series("price", [0.0, 1e15]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rows": 99_999_999_999}, "GB of memory"), ({"signal": 1e6}, "give a smaller signal")],
)
def test_a_log_that_cannot_be_drawn_is_told_in_a_sentence(changes, words):
    config = compose(["dataset=synthetic", "dataset.rows=1000"]).config.dataset
    with pytest.raises(DataError, match=words):
        synthetic.load(replace(config, **changes))


def test_a_whole_number_that_no_integer_holds_is_an_id_like_any_other():
    values = pl.Series([1.0, 1e300, None, float("inf")])
    assert as_text(values).cast(pl.Float64).equals(values)
    assert as_text(values.head(1)).to_list() == ["1"]
