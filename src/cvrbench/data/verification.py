"""The arrays of a dataset, compared with their checksums while a run already trains on them.

Hashing takes a second per gigabyte, too long to wait for and short beside a training. A thread does
it; a run asks for the thread's findings before it keeps anything: a checkpoint, a shared training,
a record. Afterwards the files' sizes and times are compared for as long as the run lasts, and a
file that changed is hashed again.
"""

import hashlib
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from cvrbench.data.array_reader import FORGET
from cvrbench.data.dataset import Dataset, mend
from cvrbench.errors import DataError, RunInterrupted
from cvrbench.system.machine import available_memory

PIECE_BYTES = 2**20
LOOK_SECONDS = 1.0
"""Least time between two looks at the files' sizes and times."""

Signature = tuple[int, int, int, int]
"""Device, number, size and time of change of a file; equal ones mean equal contents."""


class Verification:
    """Comparison of a dataset's arrays with their checksums in a thread; a context manager."""

    def __init__(self, dataset: Dataset) -> None:
        """Begin to hash the arrays; the vocabularies were compared when the dataset was opened."""
        files = dataset.manifest["files"].items()
        self._wanted: dict[Path, str] = {
            dataset.path / name: entry["sha256"]
            for name, entry in files
            if not name.startswith("vocabulary/")
        }
        self._mend = mend(dataset.schema.name)
        self._digests: dict[Signature, str] = {}
        self._ended = threading.Event()
        n_bytes = sum(entry["bytes"] for _, entry in files)
        # What does not fit in the system's cache of files would push out what others have there.
        self._forget = n_bytes > available_memory().n_bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verification")
        self._work = self._pool.submit(self._look)
        self._begun = self._looked = time.monotonic()

    def __enter__(self) -> Self:
        """Return the verification."""
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """End the thread; after an error of the run, wait whether damaged data explain it.

        Raises:
            DataError: A file was changed, cut short or removed, which explains the error.
        """
        try:
            if isinstance(error, Exception) and not isinstance(error, DataError | RunInterrupted):
                self._work.result()
        finally:
            self._ended.set()
            self._pool.shutdown(cancel_futures=True)

    def check(self, patience: float = math.inf) -> None:
        """Raise what was found so far; cheap enough for every step.

        Args:
            patience: Seconds since the beginning after which to wait for the rest of the files.

        Raises:
            DataError: A file was changed, cut short or removed.
        """
        now = time.monotonic()
        if now - self._begun > patience:
            self._work.result()
        if self._work.done() and now - self._looked >= LOOK_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Wait until every file was compared, and compare those that changed since.

        Raises:
            DataError: A file was changed, cut short or removed.
        """
        self._work.result()
        self._look()
        self._looked = time.monotonic()

    def _look(self) -> None:
        for path, wanted in self._wanted.items():
            try:
                found = self._digest(path)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}; {self._mend}") from None
            if found != wanted and not self._ended.is_set():
                raise DataError(f"{path} was changed after it was prepared; {self._mend}")

    def _digest(self, path: Path) -> str:
        """Return a file's hash, a known one if its signature did not change."""
        known = self._digests.get(_signature(path.stat()))
        if known is not None:
            return known
        digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
        with path.open("rb", buffering=0) as file:
            before = _signature(os.fstat(file.fileno()))
            while (n_read := file.readinto(buffer)) and not self._ended.is_set():
                digest.update(buffer[:n_read])
                if self._forget and FORGET is not None:
                    os.posix_fadvise(file.fileno(), 0, file.tell(), FORGET)
            if _signature(os.fstat(file.fileno())) == before:
                self._digests[before] = digest.hexdigest()
        return digest.hexdigest()


class Trust:
    """No verification, for runs that keep nothing."""

    def check(self, patience: float = math.inf) -> None:
        """Compare no file."""

    def finish(self) -> None:
        """Compare no file."""


def _signature(status: os.stat_result) -> Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
