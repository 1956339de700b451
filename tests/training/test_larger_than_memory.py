"""Runs whose rows stay on disk, and runs whose data turn out damaged."""

import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvrbench.config.compose import compose
from cvrbench.data import sampler, streaming
from cvrbench.data.registry import ensure
from cvrbench.data.streaming import Placement
from cvrbench.errors import DataError, RunInterrupted
from cvrbench.runs import experiment, planning
from cvrbench.training import session
from tests.data.stores import write_store

CPU = torch.device("cpu")
FILES = ("best.safetensors", "predictions.parquet", "history.jsonl")


@pytest.fixture
def small_windows(monkeypatch):
    """As if the 4200 training rows were too many to be permuted at once: 66 blocks, 8 a window."""
    monkeypatch.setattr(sampler.Shape, "block", 64)
    monkeypatch.setattr(sampler, "WINDOW_BLOCKS", 8)


def at(composed, place: Path):
    return replace(composed, config=replace(composed.config, results_dir=str(place)))


def contents(record, composed) -> list[bytes]:
    folder = Path(composed.config.results_dir) / "runs" / record.run_id
    return [(folder / file).read_bytes() for file in FILES]


@pytest.mark.parametrize("options", [("model=mmoe",), ("model=ncs", "model.search=snip")])
@pytest.mark.parametrize("windows", ["one window", "many windows"])
def test_a_run_from_disk_is_the_run_from_memory_bit_for_bit(
    quick, tmp_path, request, options, windows
):
    if windows == "many windows":
        request.getfixturevalue("small_windows")
    options = (*options, "trainer.epochs=2", "trainer.batch_size=100")
    cells = {
        where: at(quick(*options, f"trainer.data={where}"), tmp_path / where)
        for where in ("memory", "disk")
    }
    records = {where: experiment.run(cell) for where, cell in cells.items()}
    for where, record in records.items():
        assert record.environment["data"] == where
    assert records["memory"].run_id == records["disk"].run_id
    assert records["memory"].metrics == records["disk"].metrics
    mine, theirs = (contents(records[where], cells[where]) for where in cells)
    assert mine == theirs


@pytest.mark.parametrize("stop_after", [3, 10, 42, 60])
def test_a_run_begun_on_disk_ends_in_memory_to_the_same_bits(
    quick, tmp_path, small_windows, stop_after
):
    options = ("model=shared_bottom", "trainer.epochs=2", "trainer.batch_size=100")
    straight = at(quick(*options, "trainer.data=memory"), tmp_path / "straight")
    expected = experiment.run(straight)
    cell = quick(*options, "trainer.data=disk")
    steps = iter(range(10**6))

    def on_progress(_now) -> None:
        if next(steps) == stop_after:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunInterrupted):
        experiment.run(cell, on_progress=on_progress)
    resumed = experiment.run(quick(*options, "trainer.data=memory"))
    assert contents(resumed, cell) == contents(expected, straight)


@pytest.fixture
def damaged(quick, quick_data, tmp_path):
    """Compose a cell on a copy of the data; flip a bit of a file of its."""

    def composed(*overrides: str, file: str | None, byte: int = 0):
        data = tmp_path / "data"
        config = compose(["experiment=quick_check"]).config.dataset
        whole = ensure(config, "synthetic", quick_data).path
        shutil.copytree(whole, data / "prepared" / whole.name)
        if file is not None:
            (path,) = data.glob(f"prepared/*/{file}")
            content = bytearray(path.read_bytes())
            content[len(content) // 8 * 4 + byte] ^= 1
            path.write_bytes(content)
        return quick(*overrides, f"data_dir={data}")

    return composed


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(
    ("file", "byte"),
    [("train/ids.npy", 0), ("train/ids.npy", 3), ("valid/labels.npy", 0), ("test/ids.npy", 0)],
)
def test_a_flipped_bit_stops_a_run_before_anything_is_kept(damaged, where, file, byte):
    cell = damaged("model=shared_bottom", f"trainer.data={where}", file=file, byte=byte)
    with pytest.raises(DataError, match=rf"{file} was changed.*data prepare synthetic --force"):
        experiment.run(cell)
    folder = planning.folder_of(cell)
    assert not (folder / "record.json").exists()
    assert not list(folder.glob("checkpoints/*"))


def test_a_user_who_stops_a_run_on_damaged_data_keeps_no_checkpoint_of_it(damaged, monkeypatch):
    cell = damaged("model=shared_bottom", file="train/ids.npy")
    # The thread has found nothing yet when the first step is through.
    monkeypatch.setattr(session.Verification, "check", lambda *_, **__: None)
    with pytest.raises(DataError, match="was changed"):
        experiment.run(cell, on_progress=lambda _: signal.raise_signal(signal.SIGINT))
    assert not list(planning.folder_of(cell).glob("checkpoints/*"))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_file_cut_short_while_a_run_goes_on_is_an_error_with_its_name(damaged, where):
    cell = damaged("model=shared_bottom", f"trainer.data={where}", file=None)
    (file,) = Path(cell.config.data_dir).glob("prepared/*/test/ids.npy")
    record = planning.folder_of(cell) / "record.json"

    def on_progress(now) -> None:
        if now.step == 3:
            with file.open("rb+") as opened:
                opened.truncate(1000)

    with pytest.raises(DataError, match=r"test/ids\.npy was (changed|cut short)"):
        experiment.run(cell, on_progress=on_progress)
    assert not record.exists()


SearchResult = namedtuple("SearchResult", "n_bytes")


@pytest.mark.parametrize(
    ("asked", "free", "where", "forget"),
    [
        ("auto", 100.0, "memory", None),
        ("auto", 2.1, "memory", None),
        ("auto", 1.9, "disk", True),
        ("memory", 0.5, "memory", None),
        ("disk", 100.0, "disk", False),
        ("disk", 0.5, "disk", True),
    ],
)
def test_memory_is_taken_where_it_has_room(quick_data, monkeypatch, asked, free, where, forget):
    dataset = ensure(compose(["experiment=quick_check"]).config.dataset, "synthetic", quick_data)
    files = (dataset.path / "train").glob("[inl]*.npy")  # ids, numeric, labels
    size = sum(file.stat().st_size - 128 for file in files)
    monkeypatch.setattr(streaming, "available_memory", lambda: SearchResult(int(free * size)))
    keeping = Placement.choose(asked, [dataset.train], CPU)
    assert keeping.where == where
    rows = keeping.open(dataset.train, dataset.schema, CPU)
    assert (rows.forget if where == "disk" else None) == forget


PROGRAM = """
import resource, sys
from contextlib import closing
from itertools import islice
from pathlib import Path
import torch
from cvrbench.data import sampler
from cvrbench.data.dataset import open_dataset
from cvrbench.data.streaming import Placement
from cvrbench.system.machine import keep_freed_memory

sampler.BLOCK_BYTES = 2**16
keep_freed_memory()
dataset, cpu = open_dataset(Path(sys.argv[1])), torch.device("cpu")
torch.randperm(10).sort()
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
if sys.argv[3] != "none":
    lines = Path("/proc/self/status").read_text().splitlines()
    data = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (data + int(sys.argv[3]),) * 2)
keeping = Placement.choose(sys.argv[2], [dataset.train], cpu)
before, total = peak(), 0
rows = keeping.open(dataset.train, dataset.schema, cpu)
with closing(rows.batches(4096, 0)) as batches:
    for batch in islice(batches, -(-len(rows) // 4096)):
        total += int(batch.features.rows.sum()) + int(batch.labels.sum())
print(keeping.where, total, peak() - before)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A training split of 85 MB."""
    folder = tmp_path_factory.mktemp("store") / "store"
    return write_store(folder, 1_000_000, n_items=11, splits=("train",))


def in_a_process(store: Path, asked: str, limit: int | None = None) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-c", PROGRAM, str(store), asked, str(limit or "none")]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def in_memory(store) -> list[str]:
    """What is said of a pass over the store in memory without a limit: where, sum, peak."""
    return in_a_process(store, "memory").stdout.split()


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.slow
@linux
def test_peak_memory_is_one_copy_in_memory_and_two_windows_on_disk(store, in_memory):
    size = sum(file.stat().st_size for file in (store / "train").iterdir())
    on_disk = in_a_process(store, "disk").stdout.split()
    assert in_memory[1] == on_disk[1]
    assert size < int(in_memory[2]) < 1.35 * size
    assert int(on_disk[2]) < 0.4 * size


@linux
@pytest.mark.slow
def test_a_limit_of_half_the_store_is_enough_on_disk_and_not_in_memory(store, in_memory):
    size = sum(file.stat().st_size for file in (store / "train").iterdir())
    limited = in_a_process(store, "auto", limit=size // 2)
    assert limited.returncode == 0, limited.stderr
    assert limited.stdout.split()[:2] == ["disk", in_memory[1]]
    refused = in_a_process(store, "memory", limit=size // 2)
    assert "allocate memory" in refused.stderr or "MemoryError" in refused.stderr
