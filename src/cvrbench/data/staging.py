"""A folder for what is being prepared: beside the target, with one owner, gone when it is done.

prepared/.preparing-<name>/    what a preparation needs while it runs
prepared/<name>/               appears by one rename
prepared/.locks/<name>         empty, held by the process that prepares; it stays, since a lock
that is removed can be held by two
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from cvrbench.errors import DataError
from cvrbench.system.files import NO_SPACE, system_number

PREFIX, LOCKS = ".preparing-", ".locks"


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yield an empty folder in which `target` is prepared, for this process alone.

    Waits while another process prepares the same target. The folder is removed when the work
    succeeds or fails; what a killed process leaves in it is never read, and removed by `tidy`.

    Raises:
        DataError: The disk is full or not writable.
    """
    work = target.with_name(PREFIX + target.name)
    lock = target.parent / LOCKS / target.name
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            shutil.rmtree(work, ignore_errors=True)
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

    The folder of a preparation that is under way stays: its lock is held.
    """
    for work in prepared.glob(f"{PREFIX}*"):
        lock = prepared / LOCKS / work.name.removeprefix(PREFIX)
        with suppress(OSError), FileLock(lock, timeout=0):  # Timeout is an OSError, too
            shutil.rmtree(work, ignore_errors=True)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Stop before work that would fill the disk.

    Raises:
        DataError: Less than `needed` bytes are free.
    """
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DataError(
            f"{what} needs about {needed / 1e9:,.1f} GB in {folder}, where {free / 1e9:,.1f} GB "
            "are free; free some, or set data_dir=... to another disk"
        )


def disk_error(error: Exception, target: Path) -> DataError:
    """Return an error that says why `target` cannot be written."""
    number = system_number(error)
    if number in NO_SPACE:
        free = shutil.disk_usage(target.parent).free
        return DataError(
            f"no space left to write {target} ({free / 1e6:,.0f} MB free); nothing was kept: free "
            "some, or set data_dir=... to another disk"
        )
    why = str(error) if number is None else os.strerror(number)
    return DataError(f"cannot write {target}: {why}; set data_dir=... elsewhere")
