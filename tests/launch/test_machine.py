"""What a process may use of its machine, read from made-up trees of the kernel's files."""

import os
import resource
import subprocess
import sys
from typing import NamedTuple

import psutil
import pytest

from cvrbench.system import machine
from cvrbench.system.machine import AvailableMemory

GB = 1 << 30


class Fields(NamedTuple):
    available: int = 0
    free: int = 0


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A root folder with 32 GB available; the process has 8 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Fields(available=31 * GB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: Fields(free=GB))

    def write(**files):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


def version_2(path: str = "/job/step") -> dict[str, str]:
    return {"proc/self/cgroup": f"0::{path}\n"}


def version_1() -> dict[str, str]:
    return {"proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job\n"}


def test_without_a_limit_the_machine_is_the_limit(tree):
    root = tree()
    assert machine.available_memory(root) == AvailableMemory(n_bytes=32 * GB, limit="the machine")
    assert machine.cores(root) == 8


def test_the_narrowest_group_around_the_process_counts(tree):
    root = tree(
        **version_2(),
        **{
            "sys/fs/cgroup/job/memory.max": str(6 * GB),
            "sys/fs/cgroup/job/memory.current": str(5 * GB),
            "sys/fs/cgroup/job/memory.stat": f"anon 1\ninactive_file {2 * GB}\n",
            "sys/fs/cgroup/job/step/memory.max": "max",
            "sys/fs/cgroup/job/step/memory.current": "7",
            "sys/fs/cgroup/job/cpu.max": "250000 100000",
            "sys/fs/cgroup/job/step/cpu.max": "max 100000",
        },
    )
    # 5 of 6 GB are used, 2 of them by pages of files that nobody has used lately.
    assert machine.available_memory(root) == AvailableMemory(
        n_bytes=3 * GB, limit="its control group"
    )
    assert machine.cores(root) == 3


def test_a_container_sees_its_own_group_at_the_top_of_the_mount(tree):
    root = tree(
        **version_2("/docker/abc"),
        **{"sys/fs/cgroup/memory.max": str(GB), "sys/fs/cgroup/memory.current": "0"},
    )
    assert machine.available_memory(root).n_bytes == GB


def test_version_1_is_read_too(tree):
    root = tree(
        **version_1(),
        **{
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(4 * GB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(GB),
            "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 0\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GB),
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert machine.available_memory(root).n_bytes == 3 * GB
    assert machine.cores(root) == 1


@pytest.mark.parametrize("text", ["", "garbage", "0::\n::::\n", "\x00\n4:memory\n"])
def test_files_that_say_nothing_are_no_limit(tree, text):
    root = tree(**{"proc/self/cgroup": text})
    assert machine.available_memory(root).n_bytes == 32 * GB
    assert machine.cores(root) == 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("kind", "option"), [("AS", "ulimit -v"), ("DATA", "ulimit -d")])
def test_a_limit_of_the_shell_is_what_the_system_then_enforces(kind, option):
    code = (
        "from cvrbench.system import machine\n"
        "free = machine.available_memory()\n"
        "kept = bytearray(int(free.n_bytes * 0.9))\n"
        "try:\n"
        "    more = bytearray(int(free.n_bytes * 0.2))\n"
        "except MemoryError:\n"
        "    print(free.limit)\n"
    )
    limit = 400 << 20

    def narrow():
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=narrow, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == option
