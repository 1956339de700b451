"""One holder of a run's folder at a time, however many processes ask for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from cvrbench.errors import CellBusy
from cvrbench.runs.store import ResultStore

CONTENDER = """
import os, sys, time
from pathlib import Path
from cvrbench.errors import StoreError
from cvrbench.runs.store import ResultStore

store, mark = ResultStore(Path(sys.argv[1])), Path(sys.argv[1]) / "held"
print("ready", flush=True)
sys.stdin.readline()
end, held = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    try:
        with store.open("a-b-s0-c", config={}, choices={}, fresh=False):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails if another holds it too
            held += 1
            mark.unlink()
    except StoreError:
        continue
print(held)
"""


HOLD = """
with store.open("a-b-s0-c", config={}, choices={}, fresh=False):
    print("held", flush=True)
    time.sleep(60)
"""


def contend(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CONTENDER, str(folder), str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_no_two_processes_ever_hold_one_run(tmp_path):
    contenders = [contend(tmp_path, 2.0) for _ in range(4)]
    for contender in contenders:
        assert contender.stdout.readline() == "ready\n"
    for contender in contenders:
        contender.stdin.write("go\n")
        contender.stdin.flush()
    said = [contender.communicate(timeout=60) for contender in contenders]
    assert [err for _, err in said if err] == []
    assert sum(int(out) for out, _ in said) > 20


def test_a_run_is_busy_while_its_process_lives_and_free_when_it_is_killed(tmp_path):
    store = ResultStore(tmp_path)
    assert not store.is_busy("a-b-s0-c")
    script = CONTENDER.split("print")[0] + HOLD
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert store.is_busy("a-b-s0-c")
    with (
        pytest.raises(CellBusy, match="another process is running this cell"),
        store.open("a-b-s0-c", config={}, choices={}, fresh=False),
    ):
        pytest.fail("entered")
    holder.kill()
    holder.communicate()
    assert not store.is_busy("a-b-s0-c")
    with store.open("a-b-s0-c", config={}, choices={}, fresh=False):
        assert store.state("a-b-s0-c") == "unfinished"


def test_what_another_has_finished_meanwhile_is_left_as_it_is(tmp_path):
    store = ResultStore(tmp_path)
    with store.open("a-b-s0-c", config={"seed": 1}, choices={}, fresh=False) as folder:
        (folder.path / "record.json").touch()
        folder.checkpoints.rmdir()
    for fresh, state in ((False, "finished"), (True, "unfinished")):
        with store.open("a-b-s0-c", config={}, choices={}, fresh=fresh):
            assert store.state("a-b-s0-c") == state
