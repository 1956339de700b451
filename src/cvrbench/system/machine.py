"""What this process may use of its machine: cores and memory, under every limit that is set.

psutil knows the machine and the process. It does not read control groups (`man 7 cgroups`, either
version), by which containers and batch systems allow less than the machine has.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path("/")
UNLIMITED = 1 << 60
"""Version 1 has the largest number of pages where there is no limit."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""


@dataclass(frozen=True, kw_only=True)
class AvailableMemory:
    """How much more memory this process, or a device, can provide."""

    n_bytes: int
    limit: str
    """Whose limit it is: `the machine`, `its control group`, `ulimit -v`, `cuda:0`."""


def cores(root: Path = ROOT) -> int:
    """Return how many cores this process may keep busy: its affinity, or less under a quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def available_memory(root: Path = ROOT) -> AvailableMemory:
    """Return how much more memory this process can get: the least that any limit leaves."""
    n_bytes = psutil.virtual_memory().available + psutil.swap_memory().free
    machine = AvailableMemory(n_bytes=n_bytes, limit="the machine")
    return min([machine, *_group_limits(root), *_shell_limits()], key=lambda found: found.n_bytes)


def keep_freed_memory() -> None:
    """Have the C library reuse freed blocks rather than hand them back to the system.

    By default glibc maps every large array afresh and unmaps it when it is freed, so that each
    training step, or block of text, pays a page fault per 4 KB again: up to half of a step's time.
    Elsewhere than on Linux with glibc nothing is done. For the whole process, and harmless to
    repeat.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _group_limits(root: Path) -> Iterator[AvailableMemory]:
    """Yield what is left in each control group around this process."""
    for folder in _control_groups(root, "memory"):
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        cached = _field(folder / "memory.stat", "inactive_file")
        if limit is None or used is None:
            limit = _number(folder / "memory.limit_in_bytes")
            used = _number(folder / "memory.usage_in_bytes")
            cached = _field(folder / "memory.stat", "total_inactive_file")
        if limit is not None and used is not None and limit < UNLIMITED:
            # Pages of files that nobody has used lately make room when it is needed.
            left = max(0, limit - used + cached)
            yield AvailableMemory(n_bytes=left, limit="its control group")


def _shell_limits() -> Iterator[AvailableMemory]:
    """Yield what `ulimit` leaves to this process."""
    try:
        import resource
    except ImportError:  # Windows
        return
    held = psutil.Process().memory_info()
    for kind, used, option in (
        (resource.RLIMIT_AS, held.vms, "ulimit -v"),
        (resource.RLIMIT_DATA, getattr(held, "data", 0), "ulimit -d"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield AvailableMemory(n_bytes=max(0, soft - used), limit=option)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores' worth of time that each control group around this process may take."""
    for folder in _control_groups(root, "cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            yield int(words[0]) / max(1, int(words[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period:
            yield quota / period


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's control group, and of every group around it.

    A container may be told its group's place outside of it; the folders of that place are not
    there, and the limit is found at the top, which is the container's own group.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = top / path.lstrip("/")
        yield from (f for f in (folder, *folder.parents) if f.is_relative_to(top))


def _field(file: Path, name: str) -> int:
    pairs = [line.split() for line in _text(file).splitlines()]
    return next((int(pair[1]) for pair in pairs if pair[:1] == [name] and len(pair) == 2), 0)


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):  # absent, as on other systems than Linux, or no text
        return ""
