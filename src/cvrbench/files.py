"""Files written whole or not at all, and failed writes explained."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvrbench.errors import StoreError


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
    temporary = path.with_name(f".{path.name}.tmp")
    with explain_write(path):
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


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
