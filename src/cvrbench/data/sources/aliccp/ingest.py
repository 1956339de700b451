"""Ali-CCP from raw files to a prepared dataset: read both halves into parts, learn, write."""

import os
from collections.abc import Mapping, Sequence
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
from cvrbench.errors import DataError
from cvrbench.memory import keep_freed_memory

HALVES: tuple[Half, ...] = ("train", "test")
TRUTH_FILES: dict[Half, str] = {half: f"truth_{half}.csv" for half in HALVES}
SPACE_PER_RAW_BYTE = 1.1
"""Parts and arrays together, per byte of unpacked raw text; measured on generated files."""
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
    """
    keep_freed_memory()
    wanted = [file_name(k, h) for h in HALVES for k in KINDS]
    files = locate(raw, wanted, dataset="aliccp", optional=list(TRUTH_FILES.values()))
    log, layout, snapshot = FaultLog(tolerance), Layout(config), _snapshot(files)
    with staging(target) as work:
        if not force and _is_made_of(target, snapshot, tolerance):
            return open_dataset(target)
        size = sum(file.size for file in files.values())
        check_space(work, int(size * SPACE_PER_RAW_BYTE), "preparing aliccp")
        how = Reading(work, log, on_rows, threads or min(os.cpu_count() or 1, 4), block_bytes)
        halves = [read_half(half, layout, files, how) for half in HALVES]
        check_rows(halves, name)
        book = learn(layout, halves, on_rows)
        folder = work / "dataset"
        with StoreWriter(folder) as writer:
            _write_arrays(writer, book, halves, files, on_rows)
            _write_manifest(writer, book, halves, log, name=name, config=plain, raw=snapshot)
        install(folder, target, work)
    return open_dataset(target)


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
