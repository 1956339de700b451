"""The arrays of a dataset, compared with their checksums while a run already trains on them.

Hashing takes a second per gigabyte, too long to wait for and short beside a training. A thread does
it; a run looks at what the thread found before it keeps anything: a checkpoint, a shared training,
a record. After that, files are looked at for as long as the run lasts, and one whose size or time
changed is hashed again.
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
from cvrbench.machine import room

PIECE_BYTES = 2**20
LOOK_SECONDS = 1.0
"""Least time between two looks at the files' sizes and times."""

Signature = tuple[int, int, int, int]
"""Device, number, size and time of change: of one content, short of ill will."""


class Verification:
    """Hashes the arrays of a dataset in a thread; a context, so that the thread ends."""

    def __init__(self, dataset: Dataset) -> None:
        """Begin. Vocabularies were compared when the dataset was opened."""
        files = dataset.manifest["files"].items()
        self._wanted: dict[Path, str] = {
            dataset.path / name: entry["sha256"]
            for name, entry in files
            if not name.startswith("vocabulary/")
        }
        self._mend = mend(dataset.schema.name)
        self._digests: dict[Signature, str] = {}
        self._ended = threading.Event()
        left = room()
        n_bytes = sum(entry["bytes"] for _, entry in files)
        # What does not fit in the system's cache of files would push out what others have there.
        self._forget = left is not None and n_bytes > left.n_bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verification")
        self._work = self._pool.submit(self._look)
        self._begun = self._looked = time.monotonic()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """End the thread; not before it has said whether damaged data explain an error.

        Raises:
            DataError: They do.
        """
        try:
            if isinstance(error, Exception) and not isinstance(error, DataError | RunInterrupted):
                self._work.result()
        finally:
            self._ended.set()
            self._pool.shutdown(cancel_futures=True)

    def check(self, patience: float = math.inf) -> None:
        """Say what is known by now; cheap enough for every step.

        Args:
            patience: Seconds since the beginning after which to wait for all that is to be known.

        Raises:
            DataError: A file was changed, cut short or removed.
        """
        now = time.monotonic()
        if now - self._begun > patience:
            self._work.result()
        if self._work.done() and now - self._looked >= LOOK_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Wait until every file was compared, and see that none has changed since.

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
        """Hash a file, unless one with its signature was."""
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
    """Takes data for what they should be, where nothing that follows from them is kept."""

    def check(self, patience: float = math.inf) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


def _signature(status: os.stat_result) -> Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
