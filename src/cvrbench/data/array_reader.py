"""Rows of a prepared array, read from its file rather than through a mapping.

A file that is cut short is then an error with a name, where a mapping would end the process by a
signal; rows far apart cost the bytes asked for, not a page fault each; and other threads work on
while the disk does.
"""

import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cvrbench.data.dataset import Split, mend
from cvrbench.errors import DataError

Array = npt.NDArray[Any]
Span = tuple[int, int]
"""Rows from the first to before the second."""

EXACTLY = getattr(os, "POSIX_FADV_RANDOM", None)
READ_AHEAD = getattr(os, "POSIX_FADV_WILLNEED", None)
FORGET = getattr(os, "POSIX_FADV_DONTNEED", None)

PAGE_BYTES = mmap.PAGESIZE


class ArrayReader:
    """Reader of the rows of one array of a dataset; safe to be used by several threads."""

    def __init__(self, array: Array, dataset: str) -> None:
        """Open the array's file if it is a whole mapped one; otherwise rows come from memory.

        Args:
            array: An array of a `Split`, or any other.
            dataset: The dataset's name, for messages.

        Raises:
            DataError: The file is gone.
        """
        self.array, self.dataset = array, dataset
        self.dtype, self.shape = array.dtype, array.shape
        self._file: int | None = None
        self._path, self._start, self._row_bytes = Path(), 0, 0
        # The base of a mapping's part is the mapping.
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.size:
            self._path, self._start = Path(str(array.filename)), int(array.offset)
            self._row_bytes = array.nbytes // len(array)
            self._file = self._open()

    def read(self, start: int, stop: int) -> Array:
        """Return the rows `[start, stop)`.

        Raises:
            DataError: The file ended before them, or the disk failed.
        """
        if self._file is None:
            part: Array = self.array[start:stop]
            return part
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        left = rows.reshape(-1).view(np.uint8).data
        at = self._start + start * self._row_bytes
        while left:
            try:
                n_read = os.preadv(self._file, [left], at)
            except OSError as error:
                raise DataError(f"{self._path} cannot be read: {error.strerror}") from None
            if n_read == 0:
                raise DataError(
                    f"{self._path} was cut short while it was read; {mend(self.dataset)}"
                )
            left, at = left[n_read:], at + n_read
        return rows

    def damage(self) -> DataError:
        """Return the error of a file whose content makes no sense."""
        return DataError(f"{self._path} was changed after it was prepared; {mend(self.dataset)}")

    def read_exactly(self) -> None:
        """Switch off the system's reading ahead, for rows in no order."""
        if self._file is not None and EXACTLY is not None:
            os.posix_fadvise(self._file, 0, 0, EXACTLY)

    def expect(self, spans: Iterable[Span]) -> None:
        """Let the system begin to read rows that are needed soon."""
        self._advise(spans, READ_AHEAD)

    def forget(self, spans: Iterable[Span]) -> None:
        """Drop rows from the system's cache of files."""
        self._advise(spans, FORGET)

    def _advise(self, spans: Iterable[Span], advice: int | None) -> None:
        if self._file is None or advice is None:
            return
        for start, stop in spans:
            begin = self._start + start * self._row_bytes
            begin -= begin % PAGE_BYTES  # parts of pages would be kept
            end = self._start + stop * self._row_bytes
            os.posix_fadvise(self._file, begin, end - begin + -end % PAGE_BYTES, advice)

    def _open(self) -> int:
        try:
            file = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise DataError(
                f"{self._path} cannot be read: {error.strerror}; {mend(self.dataset)}"
            ) from None
        weakref.finalize(self, os.close, file)
        return file


def load_labels(split: Split, dataset: str) -> Split:
    """Return the split with labels, groups and truth, which predictions are scored by, in memory.

    Raises:
        DataError: A file is gone or was cut short.
    """

    def read(array: Array | None) -> Array | None:
        return None if array is None else ArrayReader(array, dataset).read(0, len(array))

    labels = ArrayReader(split.labels, dataset).read(0, len(split))
    return replace(split, labels=labels, groups=read(split.groups), truth=read(split.truth))


def spans_of(rows: npt.NDArray[np.int64]) -> list[Span]:
    """Return ascending row numbers as spans, neighbours joined."""
    if len(rows) == 0:
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    parts: Sequence[npt.NDArray[np.int64]] = np.split(rows, breaks)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]
