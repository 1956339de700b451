"""A small disk of its own for a test, that can be filled, emptied and made read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all space but some bytes."""
        room = os.statvfs(self.folder)
        size = room.f_bavail * room.f_frsize - leave
        with self.filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), self.filler.stat().st_size, max(size, 1))

    def free(self) -> None:
        """Give it back."""
        self.filler.unlink(missing_ok=True)

    def lock(self) -> None:
        """Let nobody write any more: a read-only view of the disk is laid over it."""
        # As root, bits of permission keep nobody out; and a disk with open files stays writable.
        subprocess.run(["mount", "--bind", self.folder, self.folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", self.folder], check=True)

    def unlock(self) -> None:
        """Take the view away."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    """Mount one; the test is skipped where this process may not."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(options, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if done.returncode:
        pytest.skip(f"needs to mount a disk: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
