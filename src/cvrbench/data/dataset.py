"""A prepared dataset on disk, memory-mapped.

Layout of a dataset folder, written whole by `prepare` and never changed afterwards:

    manifest.json                 format version, schema, accounting, sources, sha256 of each file
    vocabulary/<field>.parquet    value, id, count (of the training split), sorted by id
    <split>/ids.npy               int32   [rows, categorical fields], ids local to the field
    <split>/numeric.npy           float32 [rows, numeric fields], standardised
    <split>/labels.npy            uint8   [rows, tasks]
    <split>/groups.npy            int64   [rows], codes; only with a group column
    <split>/truth.npy             float64 [rows, tasks], P(label | parent); only for planted data
    <split>/contexts.npy          int32   [rows], which shared bags a row has; only if some are
    <split>/bag<k>_offsets.npy    int64   [rows + 1], of the k-th multi-valued field;
                                          [contexts + 1] if its bags are shared
    <split>/bag<k>_ids.npy        int32   [values]
    <split>/bag<k>_weights.npy    float32 [values]

with `<split>` one of train, valid, test. The manifest is written last.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cvrbench.data.schema import Schema
from cvrbench.errors import DataError

FORMAT_VERSION = 2
SPLITS = ("train", "valid", "test")


class Bag(NamedTuple):
    """One multi-valued field: bag i holds `ids[offsets[i]:offsets[i + 1]]`.

    Row i has bag i, or, if the field's bags are shared, bag `contexts[i]`.
    """

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of one split; every array is memory-mapped and read-only."""

    name: str
    ids: npt.NDArray[np.int32]
    numeric: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    bags: tuple[Bag, ...]
    contexts: npt.NDArray[np.int32] | None
    groups: npt.NDArray[np.int64] | None
    truth: npt.NDArray[np.float64] | None

    def __len__(self) -> int:
        """Rows."""
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A prepared dataset: what it is and its three splits."""

    path: Path
    schema: Schema
    manifest: dict[str, Any]
    train: Split
    valid: Split
    test: Split

    def split(self, name: str) -> Split:
        """Return the split called `name`."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def open_dataset(path: Path) -> Dataset:
    """Open a prepared dataset, checking that it is whole and of the format this version reads.

    Every file must have the recorded size and every vocabulary the recorded content; `verify`
    also reads the arrays.

    Raises:
        DataError: The folder is missing, of another format version, or was changed.
    """
    manifest = read_manifest(path)
    how = mend(manifest["schema"]["name"])
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise DataError(f"{file} is missing; {how}")
        if file.stat().st_size != entry["bytes"]:
            raise DataError(
                f"{file} has {file.stat().st_size:,} bytes, its manifest says "
                f"{entry['bytes']:,}; {how}"
            )
        if name.startswith("vocabulary/") and sha256_of(file) != entry["sha256"]:
            raise DataError(f"{file} was changed after it was prepared; {how}")
    schema = Schema.from_json(manifest["schema"])
    splits = {name: _open_split(path, name, schema) for name in SPLITS}
    return Dataset(path=path, schema=schema, manifest=manifest, **splits)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a dataset's manifest.

    Raises:
        DataError: There is none, it is no JSON, or another format version wrote it.
    """
    file = path / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} holds no prepared dataset (no manifest.json)") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {manifest.get('format_version')}, this cvrbench reads "
            f"{FORMAT_VERSION}; delete the folder and prepare the dataset again"
        )
    return manifest


def verify(path: Path) -> int:
    """Compare the sha256 of every file with the manifest.

    Returns:
        How many files were compared.

    Raises:
        DataError: A file is missing or differs.
    """
    dataset = open_dataset(path)
    for name, entry in dataset.manifest["files"].items():
        if sha256_of(path / name) != entry["sha256"]:
            raise DataError(
                f"{path / name} was changed after it was prepared; {mend(dataset.schema.name)}"
            )
    return len(dataset.manifest["files"])


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mend(name: str) -> str:
    """Return the advice for a damaged dataset of that name."""
    return f"run `cvrbench data prepare {name} --force`"


def _open_split(path: Path, name: str, schema: Schema) -> Split:
    folder = path / name

    def load(file: str) -> npt.NDArray[Any]:
        try:
            mapped: npt.NDArray[Any] = np.load(folder / file, mmap_mode="r", allow_pickle=False)
        except ValueError:
            raise DataError(
                f"{folder / file} was changed after it was prepared; {mend(schema.name)}"
            ) from None
        return mapped

    return Split(
        name=name,
        ids=load("ids.npy"),
        numeric=load("numeric.npy"),
        labels=load("labels.npy"),
        bags=tuple(
            Bag(load(f"bag{k}_offsets.npy"), load(f"bag{k}_ids.npy"), load(f"bag{k}_weights.npy"))
            for k in range(len(schema.multivalued))
        ),
        contexts=load("contexts.npy") if any(f.shared for f in schema.multivalued) else None,
        groups=load("groups.npy") if schema.group is not None else None,
        truth=load("truth.npy") if (folder / "truth.npy").is_file() else None,
    )


Array = npt.NDArray[Any]
HEADER_BYTES = 128
RECODED_BYTES = 4 << 20
"""Bytes of an array that are held in memory while it is recoded."""
NPY_MAGIC = b"\x93NUMPY\x01\x00"


class _ArrayFile:
    """An .npy file that grows: its header is written when its length is known."""

    def __init__(self, path: Path, like: Array) -> None:
        self.dtype, self.row_shape, self.rows = like.dtype, like.shape[1:], 0
        self.file = path.open("w+b")
        self.file.write(bytes(HEADER_BYTES))

    def append(self, array: Array) -> None:
        assert (array.dtype, array.shape[1:]) == (self.dtype, self.row_shape), array.shape
        self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def recode(self, change: Callable[[Array], Array]) -> None:
        row_bytes = self.dtype.itemsize * math.prod(self.row_shape)
        rows = max(RECODED_BYTES // row_bytes, 1)
        for first in range(0, self.rows, rows):
            place = HEADER_BYTES + first * row_bytes
            self.file.seek(place)
            text = self.file.read(min(rows, self.rows - first) * row_bytes)
            before = np.frombuffer(text, self.dtype).reshape(-1, *self.row_shape)
            after = change(before)
            assert (after.dtype, after.shape) == (self.dtype, before.shape), after.shape
            self.file.seek(place)
            self.file.write(np.ascontiguousarray(after).data)
        self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        if self.file.closed:
            return
        shape = (self.rows, *self.row_shape)
        text = repr({"descr": self.dtype.str, "fortran_order": False, "shape": shape})
        length = HEADER_BYTES - len(NPY_MAGIC) - 2
        header = NPY_MAGIC + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"
        assert len(header) == HEADER_BYTES, "the shape is too long for the header"
        self.file.seek(0)
        self.file.write(header)
        self.file.close()


class StoreWriter:
    """The arrays of every split, appended to; see `data.dataset` for their names and types.

    A context manager, so that no file stays open when the work fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "vocabulary").mkdir(parents=True)
        self._files: dict[tuple[str, str], _ArrayFile] = {}
        self._values: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every file, also when closing one of them fails on a full disk."""
        with ExitStack() as closing:
            for file in self._files.values():
                closing.callback(file.file.close)

    def append(self, split: str, name: str, array: Array) -> None:
        """Append rows to the array `<split>/<name>.npy`."""
        if (split, name) not in self._files:
            (self.folder / split).mkdir(exist_ok=True)
            self._files[split, name] = _ArrayFile(self.folder / split / f"{name}.npy", array)
        self._files[split, name].append(array)

    def append_bags(self, split: str, k: int, bags: Bag) -> None:
        """Append bags of the k-th multi-valued field; `bags.offsets` begins with 0."""
        before = self._values.get((split, k))
        shifted = bags.offsets + (before or 0)
        self.append(split, f"bag{k}_offsets", shifted if before is None else shifted[1:])
        self.append(split, f"bag{k}_ids", bags.ids)
        self.append(split, f"bag{k}_weights", bags.weights)
        self._values[split, k] = int(shifted[-1])

    def recode(self, split: str, name: str, change: Callable[[Array], Array]) -> None:
        """Replace the rows of an array in place, some at a time, by what `change` returns."""
        self._files[split, name].recode(change)

    def copy_split(self, source: str, target: str) -> None:
        """Put the same rows into another split, as links where the system has links."""
        (self.folder / target).mkdir()
        for (split, name), file in self._files.items():
            if split == source:
                file.close()
                path = self.folder / source / f"{name}.npy"
                other = self.folder / target / path.name
                try:
                    os.link(path, other)
                except OSError:  # a file system without links
                    shutil.copyfile(path, other)

    def finish(
        self,
        schema: Schema,
        *,
        config: Mapping[str, Any],
        accounting: Mapping[str, int],
        sources: Mapping[str, Any],
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Close every array and write the manifest; the schema's fingerprint is filled in."""
        for file in self._files.values():
            file.close()
        files = {
            path.relative_to(self.folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "format_version": FORMAT_VERSION,
            "schema": replace(schema, fingerprint=_fingerprint(schema, files)).to_json(),
            "config": dict(config),
            "accounting": dict(accounting),
            "sources": dict(sources),
            **(notes or {}),
            "files": files,
        }
        text = json.dumps(manifest, indent=1, default=str) + "\n"
        (self.folder / "manifest.json").write_text(text)


def _fingerprint(schema: Schema, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a digest of all that a result depends on: every array's bytes, and their meaning."""
    parts = [f"{name} {entry['sha256']}" for name, entry in files.items()]
    parts += [repr(field) for field in (*schema.id_fields, *schema.numeric)]
    parts += [repr(task) for task in schema.tasks]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
