"""A folder for what is being prepared: beside the target, with one owner, gone when it is done.

prepared/.preparing-<name>/    whatever a preparation needs to go on after a kill
prepared/.preparing-<name>.gone/    the same on its way out
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

from cvrbench.errors import DataError, RunInterrupted
from cvrbench.files import NO_SPACE, system_number

INSTALLING = "installing"
"""Name of a file that says which folder is being put in the target's place."""


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give the folder in which `target` is prepared, for this process alone.

    Waits while another process prepares the same target. The folder is removed when the work
    succeeds or fails; a killed process leaves it, as does `RunInterrupted`, and the next one finds
    it as it was.

    Raises:
        DataError: The disk is full or not writable.
    """
    work, lock = _places(target)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            work.mkdir(exist_ok=True)
            (work / INSTALLING).unlink(missing_ok=True)
            try:
                yield work
            except RunInterrupted:
                raise  # who says so can go on with what is there
            except BaseException:
                _remove(work)
                raise
            _remove(work)
    except Exception as error:
        if not isinstance(error, OSError) and system_number(error) is None:
            raise
        raise disk_error(error, target) from None


def install(folder: Path, target: Path, work: Path) -> None:
    """Put a finished folder in the target's place, by renaming."""
    old = work / "old"
    shutil.rmtree(old, ignore_errors=True)
    (work / INSTALLING).write_text(folder.name)
    if target.exists():
        target.rename(old)
    folder.rename(target)


def tidy(target: Path) -> None:
    """Remove what is left of a process that was killed when `target` was in its place already.

    A preparation that is under way, or that can be gone on with, stays.
    """
    work, lock = _places(target)
    if not work.exists() and not _gone(work).exists():
        return
    with suppress(OSError), FileLock(lock, timeout=0):  # Timeout is an OSError, too
        shutil.rmtree(_gone(work), ignore_errors=True)
        installing = work / INSTALLING
        if installing.is_file() and not (work / installing.read_text()).exists():
            _remove(work)


def _places(target: Path) -> tuple[Path, Path]:
    """The folder to work in, and the lock on it."""
    return target.parent / f".preparing-{target.name}", target.parent / ".locks" / target.name


def _gone(work: Path) -> Path:
    return work.with_name(f"{work.name}.gone")


def _remove(work: Path) -> None:
    """Take a folder away at once, so that a kill leaves no half of it that looks like a whole."""
    gone = _gone(work)
    shutil.rmtree(gone, ignore_errors=True)
    if work.exists():
        work.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


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
    """Say why `target` cannot be written."""
    number = system_number(error)
    if number in NO_SPACE:
        free = shutil.disk_usage(target.parent).free
        return DataError(
            f"no space left to write {target} ({free / 1e6:,.0f} MB free); nothing was kept: free "
            "some, or set data_dir=... to another disk"
        )
    why = str(error) if number is None else os.strerror(number)
    return DataError(f"cannot write {target}: {why}; set data_dir=... elsewhere")
