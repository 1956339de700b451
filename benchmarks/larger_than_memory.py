"""Training on a store twice the size of a memory limit, beside the same training in memory.

    python -m benchmarks.larger_than_memory [--threads 2] [--folder DIR]

The store has rows of Ali-CCP's shape, 94 bytes each; the network is the small shared bottom of
`training.shapes`, the fastest there is and so the one that waits for its data first. One process
has the training split in memory. The other may have half of the split's bytes in all, interpreter,
torch, embedding table and optimisers included (RLIMIT_DATA, which counts private memory), and is
left to choose for itself; it must choose the disk. The system's cache of files does not help: the
store is dropped from it before, and every part of it after it was read.

A turn is one window of rows, so that in each turn the one on disk has one window to read. The
shorter form has a smaller store, and what the process holds before it opens the store is not
counted.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from benchmarks.figures import Figure, print_table
from benchmarks.training.ours import network_of, trainer_of
from benchmarks.training.shapes import ALICCP_SIZES, SMALL, schema_of
from benchmarks.turns import WARM_UP, Contender, compare, ratio

from cvrbench.data import sampler
from cvrbench.data.dataset import SPLITS, open_dataset
from cvrbench.data.streaming import DiskRows, Placement
from cvrbench.data.writer import StoreWriter
from cvrbench.system.machine import keep_freed_memory

BATCH, CHUNK_ROWS, ZIPF_POWER = SMALL.batch, 2**18, 4
CPU = torch.device("cpu")


def write_store(folder: Path, n_chunks: int) -> Path:
    """Write a dataset whose training split has `n_chunks` times 2**18 rows, the others one."""
    rng = np.random.default_rng(0)
    rows = {"train": n_chunks * CHUNK_ROWS, **dict.fromkeys(SPLITS[1:], 1)}
    schema = replace(schema_of(ALICCP_SIZES), rows=rows)
    skewed = rng.random((len(ALICCP_SIZES), CHUNK_ROWS)) ** ZIPF_POWER
    ids = (skewed * np.array(ALICCP_SIZES)[:, None]).astype(np.int32)
    with StoreWriter(folder) as writer:
        for split in chain.from_iterable([["train"] * n_chunks, SPLITS[1:]]):
            n = CHUNK_ROWS if split == "train" else 1
            # Drawing anew would take longer than training: other rows of the same columns.
            columns = [np.roll(column, rng.integers(CHUNK_ROWS))[:n] for column in ids]
            writer.append(split, "ids", np.stack(columns, axis=1))
            writer.append(split, "numeric", np.empty((n, 0), np.float32))
            writer.append(split, "labels", (rng.random((n, 2)) < 0.1).astype(np.uint8))
        writer.finish(schema, config={}, accounting={}, sources={})
    return folder


def build(folder: Path, asked: str, limit: int | None, block_bytes: int, note: Path) -> Callable:
    """Give a training step on rows in memory or on disk, once the memory is limited.

    Args:
        folder: The dataset.
        asked: `trainer.data`.
        limit: Most bytes of private memory; negative: so many more than are held by then.
        block_bytes: Most bytes of a block.
        note: Where to write what was chosen, and how long it took to the first batch.
    """
    keep_freed_memory()
    sampler.BLOCK_BYTES = block_bytes
    train = trainer_of(network_of("shared_bottom", SMALL), SMALL)
    dataset = open_dataset(folder)
    with closing(DiskRows(dataset.train, dataset.schema, CPU).in_order(BATCH)) as some:
        for batch in islice(some, WARM_UP):
            train(batch)
    drop_cache(folder)
    if limit is not None:
        limit_memory(limit)
    begun = time.perf_counter()
    keeping = Placement.choose(asked, [dataset.train], CPU)
    rows = keeping.open(dataset.train, dataset.schema, CPU)
    batches = rows.batches(BATCH, 0)
    first = next(batches)
    note.write_text(f"{keeping.where} {time.perf_counter() - begun}")
    # The turns begin where the window does.
    waiting = chain([first] * (WARM_UP + 1), batches)
    return lambda _number: train(next(waiting))


def limit_memory(n_bytes: int) -> None:
    import resource

    if n_bytes < 0:
        lines = Path("/proc/self/status").read_text().splitlines()
        held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
        n_bytes = held - n_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))


def drop_cache(folder: Path) -> None:
    """Have the system forget the store's files."""
    os.sync()
    for file in folder.rglob("*.npy"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    *, quick: bool, threads: int | None = None, folder: Path | None = None
) -> Iterator[Figure]:
    """Compare the two; `quick` takes a store of 74 MB."""
    threads = threads or torch.get_num_threads()
    n_chunks, block_bytes = (3, 2**16) if quick else (112, sampler.BLOCK_BYTES)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = write_store(Path(place) / "store", n_chunks)
        size = sum(file.stat().st_size for file in (store / "train").iterdir())
        limit = -size // 2 if quick else size // 2
        sampler.BLOCK_BYTES = block_bytes
        dataset = open_dataset(store)
        block = sampler.Shape.of(dataset.train, dataset.schema).block
        n_steps = sampler.WINDOW_BLOCKS * block // BATCH
        notes = {asked: Path(place) / asked for asked in ("memory", "auto")}
        limits = {"memory": None, "auto": limit}
        contenders = {
            asked: Contender(
                build, store, asked, limits[asked], block_bytes, note,
                n_steps=n_steps, threads=threads,
            )
            for asked, note in notes.items()
        }  # fmt: skip
        times = compare(contenders, 3)
        found = {asked: note.read_text().split() for asked, note in notes.items()}
        assert [chosen for chosen, _ in found.values()] == ["memory", "disk"]
        rate = {asked: BATCH / statistics.median(times[asked]) for asked in times}
        yield Figure(
            name="data/larger_than_memory/speed",
            value=ratio(times["memory"], times["auto"]),
            unit="of in memory",
            at_least=0.5,
            detail=f"{size / 1e9:.2f} GB under {abs(limit) / 1e9:.2f} GB"
            f"{' more' if quick else ''}, {rate['auto']:,.0f} of {rate['memory']:,.0f} examples/s",
        )
        yield Figure(
            name="data/larger_than_memory/first_batch",
            value=float(found["auto"][1]),
            unit="s",
            detail=f"from a cold disk; {float(found['memory'][1]):.2f} s to have all in memory",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print_table(list(measure(**vars(options))))


if __name__ == "__main__":
    main()
