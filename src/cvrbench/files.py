"""Files written whole or not at all, failed writes explained, and locks between processes."""

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cvrbench.errors import StoreError

LOOK_SECONDS = 0.2
"""How long to try for a lock at least: `is_held` of another process has it for an instant."""


def check_writable(results_dir: Path) -> None:
    """Make the results folder, and try to write into it.

    Raises:
        StoreError: It is not writable; better known before hours of training than after.
    """
    with explain_write(results_dir):
        results_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results_dir):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StoreError: The disk is full or the folder not writable.
    """
    # Another process may be writing the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with explain_write(path):
        try:
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Turn a failed write into a `StoreError` that says where and why."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"no space left to write {path}; free some and resume") from None
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; set results_dir=... to a folder that "
            "is writable"
        ) from None


@contextmanager
def hold(file: Path, *, seconds: float = LOOK_SECONDS) -> Iterator[bool]:
    """Hold a lock while the block runs, against all processes that see the file.

    The system lets go of it when its process dies. The file stays: one who waits for a lock whose
    file is removed would hold it beside the next, who makes a new file.

    Args:
        file: Made where it is not there.
        seconds: How long to try.

    Yields:
        Whether the lock is held.

    Raises:
        StoreError: The file cannot be written.
    """
    lock = FileLock(file, timeout=seconds)
    held = True
    with explain_write(file):
        try:
            lock.acquire()
        except Timeout:  # an OSError, too
            held = False
    try:
        yield held
    finally:
        lock.release()


def is_held(file: Path) -> bool:
    """Say whether some process holds a lock."""
    if not file.is_file():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
