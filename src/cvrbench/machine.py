"""What this process may use of its machine: cores and memory, under every limit that is set.

A container, a batch system or a shell may allow less than the machine has: a control group (either
version; `man 7 cgroups`), an affinity mask, `ulimit`. The least of them counts. Elsewhere than on
Linux only what the standard library knows is read.
"""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 1 << 60
"""Version 1 says the largest number of pages where there is no limit."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much more memory this process can get."""

    n_bytes: int
    limit: str
    """Whose limit it is: `the machine`, `its control group`, `ulimit -v`."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What this process has in memory, in bytes."""

    resident: int
    anonymous: int
    """Without pages of files, which the system can drop and read again."""


def cores(root: Path = ROOT) -> int:
    """Say how many cores this process may keep busy: its affinity, or less under a quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def room(root: Path = ROOT) -> Room | None:
    """Say how much more memory this process can get; None where the system does not tell."""
    found = [*_machine(root), *_groups_room(root), *_ulimits(root)]
    return min(found, key=lambda r: r.n_bytes, default=None)


def held(root: Path = ROOT) -> Held | None:
    """Say what this process has in memory; None where the system does not tell."""
    status = _sizes(root / "proc/self/status")
    if "VmRSS" not in status:
        return None
    return Held(resident=status["VmRSS"], anonymous=status.get("RssAnon", status["VmRSS"]))


def _machine(root: Path) -> Iterator[Room]:
    memory = _sizes(root / "proc/meminfo")
    if "MemAvailable" in memory:
        yield Room(n_bytes=memory["MemAvailable"] + memory.get("SwapFree", 0), limit="the machine")


def _groups_room(root: Path) -> Iterator[Room]:
    """What is left in each control group around this process."""
    for folder in _groups(root, "memory"):
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        cached = _fields(folder / "memory.stat").get("inactive_file", 0)
        if limit is None or used is None:
            limit = _number(folder / "memory.limit_in_bytes")
            used = _number(folder / "memory.usage_in_bytes")
            cached = _fields(folder / "memory.stat").get("total_inactive_file", 0)
        if limit is not None and used is not None and limit < UNLIMITED:
            # Pages of files that nobody has used lately make room when it is needed.
            yield Room(n_bytes=max(0, limit - used + cached), limit="its control group")


def _ulimits(root: Path) -> Iterator[Room]:
    try:
        import resource
    except ImportError:  # Windows
        return
    status = _sizes(root / "proc/self/status")
    for kind, used, option in (
        (resource.RLIMIT_AS, "VmSize", "ulimit -v"),
        (resource.RLIMIT_DATA, "VmData", "ulimit -d"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY and used in status:
            yield Room(n_bytes=max(0, soft - status[used]), limit=option)


def _quotas(root: Path) -> Iterator[float]:
    """Processor time per time that each control group around this process may take."""
    for folder in _groups(root, "cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            yield int(words[0]) / max(1, int(words[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period:
            yield quota / period


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folder of this process's control group, and of every group around it."""
    mounts = list(_mounts(root, controller))
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount_version, top, mount in mounts:
            if mount_version == version:
                inside = path.removeprefix(top) if path.startswith(top) else ""
                folder = mount / inside.lstrip("/")
                yield from (f for f in (folder, *folder.parents) if f.is_relative_to(mount))


def _mounts(root: Path, controller: str) -> Iterator[tuple[int, str, Path]]:
    """Version, group at the top, and folder of every hierarchy that has a controller."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        fields = before.split()
        if len(fields) < 5 or not kind.startswith("cgroup"):
            continue
        place = root / fields[4].lstrip("/")
        if kind == "cgroup2":
            yield 2, fields[3], place
        elif controller in options.split()[-1].split(","):
            yield 1, fields[3], place


def _sizes(file: Path) -> dict[str, int]:
    """`VmRSS:   1024 kB` of the kernel's files -> bytes by name."""
    found = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found


def _fields(file: Path) -> dict[str, int]:
    pairs = [line.split() for line in _text(file).splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    if not sys.platform.startswith("linux"):
        return ""
    try:
        return file.read_text()
    except OSError:
        return ""
