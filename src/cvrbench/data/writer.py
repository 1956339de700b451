"""Writes a dataset folder piece by piece, in memory that does not grow with the rows."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cvrbench.data.dataset import FORMAT_VERSION, Bag, sha256_of
from cvrbench.data.schema import Schema

Array = npt.NDArray[Any]
HEADER_BYTES = 128
NPY_MAGIC = b"\x93NUMPY\x01\x00"


class _ArrayFile:
    """An .npy file that grows: its header is written when its length is known."""

    def __init__(self, path: Path, like: Array) -> None:
        self.dtype, self.row_shape, self.rows = like.dtype, like.shape[1:], 0
        self.file = path.open("wb")
        self.file.write(bytes(HEADER_BYTES))

    def append(self, array: Array) -> None:
        assert (array.dtype, array.shape[1:]) == (self.dtype, self.row_shape), array.shape
        self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

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
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open; all of it, though a disk be full that one is still to go to."""
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

    def copy_split(self, source: str, target: str) -> None:
        """Let another split have the same rows, without writing them again where that can be."""
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
    """What a result depends on: every byte of the arrays, and what they mean."""
    parts = [f"{name} {entry['sha256']}" for name, entry in files.items()]
    parts += [repr(field) for field in (*schema.id_fields, *schema.numeric)]
    parts += [repr(task) for task in schema.tasks]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
