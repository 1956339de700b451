"""Write a prepared dataset in two passes: check and learn, then encode; in place only when whole.

Memory is bounded by a chunk and by what is learned, whatever the number of rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.checks import Inspection
from cvrbench.data.dataset import SPLITS, Dataset, StoreWriter, open_dataset
from cvrbench.data.encode import (
    GroupCodes,
    Scale,
    ScaleCounter,
    Vocabulary,
    VocabularyCounter,
    encode_bags,
)
from cvrbench.data.raw import Chunk, OnRows, RawStream, RowsProgress, silent
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema
from cvrbench.data.staging import install, staging
from cvrbench.errors import DataError

Array = npt.NDArray[Any]


class _Learned(NamedTuple):
    """What the first pass found: a vocabulary or a scale per field, groups, and rows per split."""

    categorical: dict[str, Vocabulary]
    multivalued: dict[str, Vocabulary]
    numeric: dict[str, Scale]
    groups: GroupCodes
    rows: dict[str, int]
    accounting: dict[str, int]


def prepare(
    raw: RawStream,
    *,
    name: str,
    target: Path,
    config: Mapping[str, Any],
    keep: bool = False,
    on_rows: OnRows = silent,
) -> Dataset:
    """Check, encode and write a dataset into the folder `target`, replacing an older one.

    The folder appears whole or not at all.

    Args:
        raw: The rows.
        name: What the user calls the dataset.
        target: Folder to write.
        config: The dataset's configuration, kept in the manifest.
        keep: Whether to take a dataset that another process wrote while this one waited.
        on_rows: Called with the progress after every chunk.

    Raises:
        DataError: The rows fail a check, or the disk is full or not writable.
    """
    with staging(target) as work:
        if keep and target.is_dir():
            return open_dataset(target)
        learned = _learn(raw, name, on_rows)
        folder = work / "dataset"
        _write(raw, learned, folder, name=name, config=config, on_rows=on_rows)
        install(folder, target, work)
    return open_dataset(target)


def _learn(raw: RawStream, name: str, on_rows: OnRows) -> _Learned:
    inspection = Inspection(raw, name)
    vocabularies = {f.name: VocabularyCounter() for f in raw.fields if f.kind != "numeric"}
    scales = {f.name: ScaleCounter(f.name) for f in raw.fields if f.kind == "numeric"}
    groups, rows, account = GroupCodes(), Counter[str](), Counter[str]()
    for split, frame in raw.chunks(account):
        rows[split] += len(frame)
        inspection.see(split, frame)
        if raw.group is not None:
            groups.add(frame[raw.group])
        if split == "train":
            for field, counter in (vocabularies | scales).items():
                counter.add(frame[field])
        on_rows(RowsProgress("counting values", rows.total(), 0.0))
    inspection.finish()

    def learn(kind: str) -> dict[str, Vocabulary]:
        fields = [field for field in raw.fields if field.kind == kind]
        return {field.name: vocabularies[field.name].learn(field.min_count) for field in fields}

    return _Learned(
        learn("categorical"),
        learn("multivalued"),
        {field: scale.learn() for field, scale in scales.items()},
        groups,
        {split: rows[split] for split in SPLITS},
        dict(account),
    )


def _write(
    raw: RawStream,
    learned: _Learned,
    folder: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    on_rows: OnRows,
) -> None:
    done, total = 0, sum(learned.rows.values())
    with StoreWriter(folder) as writer:
        for field, vocabulary in (learned.categorical | learned.multivalued).items():
            vocabulary.table.write_parquet(folder / "vocabulary" / f"{field}.parquet")
        for split, frame in _again(raw.chunks(Counter()), learned, name):
            for file, array in _arrays(raw, learned, frame).items():
                writer.append(split, file, array)
            for k, (field, vocabulary) in enumerate(learned.multivalued.items()):
                weight = f"{field}__weight"
                weights = frame[weight] if weight in frame.columns else None
                writer.append_bags(split, k, encode_bags(vocabulary, frame[field], weights))
            done += len(frame)
            on_rows(RowsProgress("writing", done, done / total))
        writer.finish(
            _schema(raw, learned, name),
            config=config,
            accounting=learned.accounting,
            sources=raw.sources,
        )


def _again(chunks: Iterator[Chunk], learned: _Learned, name: str) -> Iterator[Chunk]:
    """Return the chunks of the second reading.

    Raises:
        DataError: It has other rows than the first: the raw files changed in between.
    """
    rows = Counter[str]()
    for chunk in chunks:
        rows[chunk.split] += len(chunk.frame)
        yield chunk
    if {split: rows[split] for split in SPLITS} != learned.rows:
        raise DataError(f"{name}: the raw files changed while they were read; prepare them again")


def _arrays(raw: RawStream, learned: _Learned, frame: pl.DataFrame) -> dict[str, Array]:
    """Return the arrays of some rows, without bags: name -> array."""
    n = len(frame)
    ids = [vocabulary.encode(frame[f]) for f, vocabulary in learned.categorical.items()]
    numbers = [scale.encode(frame[f]) for f, scale in learned.numeric.items()]
    arrays: dict[str, Array] = {
        "ids": np.stack(ids, axis=1) if ids else np.empty((n, 0), np.int32),
        "numeric": np.concatenate(numbers, axis=1) if numbers else np.empty((n, 0), np.float32),
        "labels": frame.select(task.label for task in raw.tasks).to_numpy().astype(np.uint8),
    }
    if raw.group is not None:
        arrays["groups"] = learned.groups.encode(frame[raw.group])
    if raw.truth is not None:
        arrays["truth"] = frame.select(raw.truth).to_numpy().astype(np.float64)
    return arrays


def _schema(raw: RawStream, learned: _Learned, name: str) -> Schema:
    numeric: list[Numeric] = []
    for field, scale in learned.numeric.items():
        numeric.append(Numeric(name=field, mean=scale.mean, std=scale.std))
        if scale.has_gaps:
            numeric.append(Numeric(name=f"{field} is missing", mean=0.0, std=1.0))
    return Schema(
        name=name,
        categorical=tuple(Categorical(name=f, size=v.size) for f, v in learned.categorical.items()),
        multivalued=tuple(MultiValued(name=f, size=v.size) for f, v in learned.multivalued.items()),
        numeric=tuple(numeric),
        tasks=raw.tasks,
        group=raw.group,
        rows=learned.rows,
        fingerprint="",
    )
