"""Writing of a prepared dataset: its arrays, and the folder in which they are made.

prepared/.preparing-<name>/    what a preparation needs while it runs
prepared/<name>/               appears by one rename
prepared/.locks/<name>         empty, held by the process that prepares; it stays, since a lock
that is removed can be held by two
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from cvrbench.data.dataset import FORMAT_VERSION, Array, Bag, fingerprint_of, sha256_of
from cvrbench.data.schema import Schema
from cvrbench.errors import DataError, StoreError
from cvrbench.system.files import (
    NO_SPACE,
    check_no_links,
    make_folder,
    remove,
    sealed,
    system_number,
)

PREFIX, LOCKS = ".preparing-", ".locks"


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield an empty folder in which `target` is prepared, for this process alone.

    Waits while another process prepares the same target. The folder is removed when the work
    succeeds or fails; what a killed process leaves in it is never read, and removed by `tidy`.

    Raises:
        DataError: The disk is full or not writable.
        StoreError: The folder of prepared datasets, or of their locks, is a link.
    """
    prepared = target.parent
    work = prepared / f"{PREFIX}{target.name}"
    lock = prepared / LOCKS / target.name
    try:
        make_folder(lock.parent, within=prepared.parent, key="data_dir")
        check_no_links(lock, within=prepared)
        with FileLock(lock):
            remove(work, within=prepared)
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except Exception as error:
        if not isinstance(error, OSError) and system_number(error) is None:
            raise
        raise disk_error(error, target) from None


def install(folder: Path, target: Path, work: Path) -> None:
    """Put a finished folder in the target's place, by renaming."""
    if target.exists():
        target.rename(work / "old")
    folder.rename(target)


def tidy(prepared: Path) -> None:
    """Remove what killed preparations left in the folder of prepared datasets.

    The folder of a preparation that is under way stays: its lock is held. Behind a link nothing is
    removed.
    """
    for work in prepared.glob(f"{PREFIX}*"):
        lock = prepared / LOCKS / work.name.removeprefix(PREFIX)
        with suppress(OSError, StoreError):  # Timeout is an OSError, too
            check_no_links(lock, within=prepared.parent)
            with FileLock(lock, timeout=0):
                remove(work, within=prepared.parent)


def remove_prepared(folder: Path) -> None:
    """Remove a prepared dataset; never its raw files.

    Raises:
        DataError: It is being prepared, or the system refuses.
        StoreError: It is a link.
    """
    prepared, lock = folder.parent, folder.parent / LOCKS / folder.name
    check_no_links(folder, within=prepared.parent)
    make_folder(lock.parent, within=prepared.parent, key="data_dir")
    try:
        with FileLock(lock, timeout=0):
            remove(folder, within=prepared.parent)
            remove(prepared / f"{folder.name}.png", within=prepared.parent)  # of `describe`
    except Timeout:
        raise DataError(f"{folder} is being prepared; nothing of it is removed") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be removed: {error}") from None


def check_space(
    folder: Path, needed: float, what: str, hint: str = "set data_dir=... to another disk"
) -> None:
    """Stop before work that would fill the disk.

    Raises:
        DataError: Less than `needed` bytes are free.
    """
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DataError(
            f"{what} needs about {needed / 1e9:,.1f} GB in {folder}, where {free / 1e9:,.1f} GB "
            f"are free: {hint}, or free some"
        )


def disk_error(
    error: Exception, target: Path, hint: str = "set data_dir=... to another disk"
) -> DataError:
    """Return an error that says why `target` cannot be written."""
    number = system_number(error)
    if number in NO_SPACE:
        free = shutil.disk_usage(target.parent).free
        return DataError(
            f"no space left to write {target} ({free / 1e6:,.0f} MB free); nothing was kept: free "
            f"some, or {hint}"
        )
    why = str(error) if number is None else os.strerror(number)
    return DataError(f"cannot write {target}: {why}; {hint}")


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
        schema = Schema.from_json(schema.to_json())  # 0 is 0.0 where it is read again
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
            "schema": replace(schema, fingerprint=fingerprint_of(schema, files)).to_json(),
            "config": dict(config),
            "accounting": dict(accounting),
            "sources": dict(sources),
            **(notes or {}),
            "files": files,
        }
        plain = json.loads(json.dumps(manifest, default=str))
        text = json.dumps(sealed(plain), indent=1) + "\n"
        (self.folder / "manifest.json").write_text(text)
