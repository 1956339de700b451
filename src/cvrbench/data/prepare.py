"""Write a prepared dataset: checked, encoded, fingerprinted, and in place only when whole."""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import FORMAT_VERSION, SPLITS, Dataset, open_dataset, sha256_of
from cvrbench.data.encode import (
    Scale,
    Vocabulary,
    codes,
    encode_bags,
    learn_scale,
    learn_vocabulary,
)
from cvrbench.data.guards import check
from cvrbench.data.raw import RawField, RawSplits
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema
from cvrbench.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Encoders:
    """What the training rows taught: a vocabulary or a scale per field, in the model's order."""

    categorical: dict[str, Vocabulary]
    multivalued: dict[str, Vocabulary]
    numeric: dict[str, Scale]


def prepare(raw: RawSplits, *, name: str, target: Path, config: Mapping[str, Any]) -> Dataset:
    """Check, encode and write a dataset into the folder `target`, replacing an older one.

    The folder appears whole or not at all.

    Args:
        raw: The rows.
        name: What the user calls the dataset.
        target: Folder to write.
        config: The dataset's configuration, kept in the manifest.

    Raises:
        DataError: The rows fail a check, or the disk is full or not writable.
    """
    check(raw, name)
    encoders = _learn(raw)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=target.parent) as work:
            folder = Path(work) / "dataset"
            _write(raw, encoders, folder, name=name, config=config)
            if target.exists():
                target.rename(Path(work) / "old")
            folder.rename(target)
    except OSError as error:
        raise _disk_error(error, target) from None
    return open_dataset(target)


def _disk_error(error: OSError, target: Path) -> DataError:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(target.parent).free
        return DataError(
            f"no space left to write {target} ({free / 1e6:,.0f} MB free); nothing was kept: free "
            "some, or set data_dir=... to another disk"
        )
    return DataError(
        f"cannot write {target}: {error.strerror or error}; set data_dir=... elsewhere"
    )


def _learn(raw: RawSplits) -> _Encoders:
    def vocabulary(field: RawField) -> Vocabulary:
        values = raw.train[field.name]
        if field.kind == "multivalued":
            values = values.explode()
        return learn_vocabulary(values, field.min_count)

    kinds: dict[str, list[RawField]] = {"categorical": [], "multivalued": [], "numeric": []}
    for field in raw.fields:
        kinds[field.kind].append(field)
    return _Encoders(
        {field.name: vocabulary(field) for field in kinds["categorical"]},
        {field.name: vocabulary(field) for field in kinds["multivalued"]},
        {field.name: learn_scale(raw.train[field.name]) for field in kinds["numeric"]},
    )


def _write(
    raw: RawSplits, encoders: _Encoders, folder: Path, *, name: str, config: Mapping[str, Any]
) -> None:
    (folder / "vocabulary").mkdir(parents=True)
    for field, vocabulary in (encoders.categorical | encoders.multivalued).items():
        vocabulary.table.write_parquet(folder / "vocabulary" / f"{field}.parquet")
    frames = raw.splits()
    groups = [None] * 3 if raw.group is None else codes([f[raw.group] for f in frames.values()])
    for split, group in zip(SPLITS, groups, strict=True):
        (folder / split).mkdir()
        for file, array in _arrays(raw, encoders, frames[split], group).items():
            np.save(folder / split / f"{file}.npy", array)
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    schema = _schema(raw, encoders, name=name, files=files)
    manifest = {
        "format_version": FORMAT_VERSION,
        "schema": schema.to_json(),
        "config": dict(config),
        "accounting": raw.accounting,
        "sources": raw.sources,
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str) + "\n")


def _arrays(
    raw: RawSplits, encoders: _Encoders, frame: pl.DataFrame, groups: Array | None
) -> dict[str, Array]:
    """The files of one split: name -> array."""
    n = len(frame)
    ids = [vocabulary.encode(frame[f]) for f, vocabulary in encoders.categorical.items()]
    numbers = [scale.encode(frame[f]) for f, scale in encoders.numeric.items()]
    arrays: dict[str, Array] = {
        "ids": np.stack(ids, axis=1) if ids else np.empty((n, 0), np.int32),
        "numeric": np.concatenate(numbers, axis=1) if numbers else np.empty((n, 0), np.float32),
        "labels": frame.select(task.label for task in raw.tasks).to_numpy().astype(np.uint8),
    }
    if groups is not None:
        arrays["groups"] = groups
    if raw.truth is not None:
        arrays["truth"] = frame.select(raw.truth).to_numpy().astype(np.float64)
    for k, (field, vocabulary) in enumerate(encoders.multivalued.items()):
        weight = f"{field}__weight"
        weights = frame[weight] if weight in frame.columns else None
        bag = encode_bags(vocabulary, frame[field], weights)
        arrays |= {f"bag{k}_{part}": array for part, array in bag._asdict().items()}
    return arrays


def _schema(
    raw: RawSplits, encoders: _Encoders, *, name: str, files: dict[str, dict[str, Any]]
) -> Schema:
    numeric: list[Numeric] = []
    for field, scale in encoders.numeric.items():
        numeric.append(Numeric(name=field, mean=scale.mean, std=scale.std))
        if scale.has_gaps:
            numeric.append(Numeric(name=f"{field} is missing", mean=0.0, std=1.0))
    parts = [f"{file} {entry['sha256']}" for file, entry in files.items()]
    parts += [repr((field.name, field.kind)) for field in raw.fields]
    parts += [repr(task) for task in raw.tasks]
    return Schema(
        name=name,
        categorical=tuple(
            Categorical(name=f, size=v.size) for f, v in encoders.categorical.items()
        ),
        multivalued=tuple(
            MultiValued(name=f, size=v.size) for f, v in encoders.multivalued.items()
        ),
        numeric=tuple(numeric),
        tasks=raw.tasks,
        group=raw.group,
        rows={split: len(frame) for split, frame in raw.splits().items()},
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
    )
