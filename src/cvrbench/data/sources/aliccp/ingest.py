"""Ali-CCP from raw files to a prepared dataset: read both halves into parts, learn, write.

A killed preparation goes on where it was: parts that are whole are not made again, and the rest
does not depend on who made them.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cvrbench.config.aliccp import AliCCPConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.dataset import SPLITS, Dataset, StoreWriter, open_dataset, read_manifest
from cvrbench.data.raw import OnRows, Tolerance, silent
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema, Task
from cvrbench.data.sources.aliccp.common import USER
from cvrbench.data.sources.aliccp.encode import write_half
from cvrbench.data.sources.aliccp.faults import FaultLog
from cvrbench.data.sources.aliccp.grammar import Half, file_name
from cvrbench.data.sources.aliccp.half import HalfRead, Reading, read_half
from cvrbench.data.sources.aliccp.layout import CROSSED, TEST, VALID, Layout
from cvrbench.data.sources.aliccp.learn import Codebook, learn
from cvrbench.data.sources.aliccp.parts import BLOCK_BYTES, KINDS
from cvrbench.data.sources.aliccp.totals import account, check_rows, compare, remarks
from cvrbench.data.sources.aliccp.truth import TruthReader
from cvrbench.data.staging import check_space, install, staging
from cvrbench.errors import DataError, RunInterrupted
from cvrbench.memory import keep_freed_memory

HALVES: tuple[Half, ...] = ("train", "test")
TRUTH_FILES: dict[Half, str] = {half: f"truth_{half}.csv" for half in HALVES}
SPACE_PER_RAW_BYTE = 1.1
"""Parts and arrays together, per byte of unpacked raw text; measured on generated files."""
JOURNAL_VERSION = 1
TASKS = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
)


def prepare(
    config: AliCCPConfig,
    raw: Path,
    target: Path,
    *,
    name: str,
    plain: Mapping[str, Any],
    tolerance: Tolerance,
    force: bool = False,
    on_rows: OnRows = silent,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Dataset:
    """Prepare Ali-CCP into the folder `target`, replacing one that came from other files.

    Args:
        config: What is wanted of it.
        raw: Folder or archive with the four raw files, and maybe `truth_<half>.csv`.
        target: Folder to write; it appears whole or not at all.
        name: What the user calls the dataset.
        plain: The configuration as plain values, kept in the manifest.
        tolerance: What to do about faulty lines.
        force: Prepare again what came from the same files.
        on_rows: Told of progress.
        threads: Blocks parsed at a time; by default as many as there are cores, at most four.
        block_bytes: Raw bytes in a part.

    Raises:
        DataError: Files are missing, damaged or faulty, or the disk is too small.
        RunInterrupted: The user stopped it; the same call goes on.
    """
    keep_freed_memory()
    wanted = [file_name(k, h) for h in HALVES for k in KINDS]
    files = locate(raw, wanted, dataset="aliccp", optional=list(TRUTH_FILES.values()))
    log, layout, snapshot = FaultLog(tolerance), Layout(config), _snapshot(files)
    with staging(target) as work, _resumable(work):
        if not force and _is_made_of(target, snapshot, tolerance):
            return open_dataset(target)
        _keep_or_clear(work, snapshot, block_bytes)
        size = sum(file.size for file in files.values())
        check_space(work, int(size * SPACE_PER_RAW_BYTE) - _size_of(work), "preparing aliccp")
        how = Reading(work, log, on_rows, threads or min(os.cpu_count() or 1, 4), block_bytes)
        halves = [read_half(half, layout, files, how) for half in HALVES]
        check_rows(halves, name)
        book = learn(layout, halves, on_rows)
        folder = work / "dataset"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        with StoreWriter(folder) as writer:
            _write_arrays(writer, book, halves, files, on_rows)
            _write_manifest(writer, book, halves, log, name=name, config=plain, raw=snapshot)
        install(folder, target, work)
    return open_dataset(target)


@contextmanager
def _resumable(work: Path) -> Iterator[None]:
    """Let Ctrl-C keep the parts that were read."""
    try:
        yield
    except KeyboardInterrupt:
        gb = _size_of(work) / 1e9
        raise RunInterrupted(
            f"stopped; what was read is kept ({gb:.1f} GB in {work}), and the same command goes on"
        ) from None


def _write_arrays(
    writer: StoreWriter,
    book: Codebook,
    halves: Sequence[HalfRead],
    files: Mapping[str, RawFile],
    on_rows: OnRows,
) -> None:
    for field, codes in book.fields.items():
        path = writer.folder / "vocabulary" / f"{field}.parquet"
        codes.vocabulary.table.write_parquet(path)
    # Half a truth would leave one split without; it is both or none.
    has_truth = all(name in files for name in TRUTH_FILES.values())
    for half in halves:
        truth = TruthReader(files[TRUTH_FILES[half.half]]) if has_truth else None
        write_half(writer, book, half, truth, on_rows)
    if book.layout.config.validation == "test":
        writer.copy_split("test", "valid")


def _write_manifest(
    writer: StoreWriter,
    book: Codebook,
    halves: Sequence[HalfRead],
    log: FaultLog,
    *,
    name: str,
    config: Mapping[str, Any],
    raw: Mapping[str, Any],
) -> None:
    found = compare(halves, book.distinct)
    notes = {
        "raw": raw,
        "totals": found,
        "remarks": remarks(book.layout.config, found),
        "faults": log.examples,
    }
    writer.finish(
        _schema(book.layout, book, halves, name),
        config=config,
        accounting=account(halves, log, book.layout.config),
        sources={file.raw.name: file.sha256 for half in halves for file in half.files()},
        notes=notes,
    )


def _snapshot(files: Mapping[str, RawFile]) -> dict[str, Any]:
    """What tells raw files from others of the same names, without reading them."""
    return {name: [file.where, file.size, file.changed] for name, file in files.items()}


def _is_made_of(target: Path, snapshot: Mapping[str, Any], tolerance: Tolerance) -> bool:
    """Whether the dataset is there, of these files, and has no faults left out unasked."""
    try:
        manifest = read_manifest(target)
    except DataError:
        return False
    strict = tolerance.on_error == "stop"
    return manifest.get("raw") == snapshot and not (strict and manifest["faults"])


def _keep_or_clear(work: Path, snapshot: Mapping[str, Any], block_bytes: int) -> None:
    """Keep parts of the same raw files, cut the same way; clear away any others."""
    journal = work / "journal.json"
    now = {"version": JOURNAL_VERSION, "block_bytes": block_bytes, "files": snapshot}
    try:
        same = json.loads(journal.read_text()) == now
    except (OSError, ValueError):
        same = False
    if not same:
        for path in work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        journal.write_text(json.dumps(now))


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _schema(layout: Layout, book: Codebook, halves: Sequence[HalfRead], name: str) -> Schema:
    rows = np.sum([half.used.sum(axis=1) for half in halves], axis=0).tolist()
    if layout.config.validation == "test":
        rows[VALID] = rows[TEST]
    sizes = {field: codes.vocabulary.size for field, codes in book.fields.items()}
    return Schema(
        name=name,
        categorical=tuple(Categorical(name=f.name, size=sizes[f.name]) for f in layout.categorical),
        multivalued=tuple(
            MultiValued(
                name=f.name,
                size=sizes[f.name],
                pool="sum" if f.name in CROSSED else "mean",
                shared=f.kind == "common",
            )
            for f in layout.multivalued
        ),
        numeric=tuple(
            Numeric(name=f"D{name}", mean=low, std=(high - low) or 1.0)
            for name, (low, high) in book.spans.items()
        ),
        tasks=TASKS,
        group=USER,
        rows=dict(zip(SPLITS, rows, strict=True)),
        fingerprint="",
    )
