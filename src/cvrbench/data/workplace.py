"""A folder for what is being prepared: beside the target, with one owner, gone when it is done.

prepared/.preparing-<name>/    whatever a preparation needs to go on after a kill
prepared/<name>/               appears by one rename
prepared/.locks/<name>         empty, held by the process that prepares; it stays, since a lock
that is removed can be held by two
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from cvrbench.errors import DataError, RunInterrupted


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Give the folder in which `target` is prepared, for this process alone.

    Waits while another process prepares the same target. The folder is removed when the work
    succeeds or fails; a killed process leaves it, as does `RunInterrupted`, and the next one finds
    it as it was.

    Raises:
        DataError: The disk is full or not writable.
    """
    work = target.parent / f".preparing-{target.name}"
    locks = target.parent / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / target.name):
            work.mkdir(exist_ok=True)
            try:
                yield work
            except RunInterrupted:
                raise  # who says so can go on with what is there
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, target) from None


def install(folder: Path, target: Path, work: Path) -> None:
    """Put a finished folder in the target's place, by renaming."""
    old = work / "old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)


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


def disk_error(error: OSError, target: Path) -> DataError:
    """Say why `target` cannot be written."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(target.parent).free
        return DataError(
            f"no space left to write {target} ({free / 1e6:,.0f} MB free); nothing was kept: free "
            "some, or set data_dir=... to another disk"
        )
    return DataError(
        f"cannot write {target}: {error.strerror or error}; set data_dir=... elsewhere"
    )
