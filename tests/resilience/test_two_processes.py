"""Processes that want the same cell: one works, the others say so or wait, a dead one is no bar."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from cvrbench.runs.store import ResultStore
from tests.resilience import child
from tests.resilience.harness import RUN, differences, outcome

SECONDS = 120.0
LONG = (*RUN, "trainer.epochs=12", "trainer.patience=100")


class Crowd:
    """Processes that stand in one folder and give the same command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.resilience.child"])
        self.members: list = []

    def start(self, arguments, folder=None):
        where = folder or self.folder
        where.mkdir(exist_ok=True)
        board = child.clear(where / f"board-{len(self.members)}")
        process = self.context.Process(
            target=child.run, args=(str(where), arguments, str(board), None)
        )
        process.start()
        self.members.append((process, board))
        return process

    def is_in(self, process, *phases) -> bool:
        return any(child.read(board) in phases for one, board in self.members if one is process)

    def until_in(self, process, *phases) -> None:
        """Wait until a process has come to one of some phases."""
        end = time.monotonic() + SECONDS
        while not self.is_in(process, *phases):
            assert process.is_alive(), self.said()
            assert time.monotonic() < end
            time.sleep(0.002)

    def end(self, process) -> int:
        process.join(SECONDS)
        assert not process.is_alive(), self.said()
        return process.exitcode

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def kill(self) -> None:
        for process, _ in self.members:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.join()


@pytest.fixture
def crowd(tmp_path):
    made = Crowd(tmp_path / "place")
    yield made
    made.kill()


TRAINING = ("warm-up", "search 1/2", "search 2/2", "joint training", "evaluation")


def test_of_two_processes_one_runs_the_cell_and_the_other_says_who_does(crowd):
    first = crowd.start(LONG)
    crowd.until_in(first, *TRAINING)
    os.kill(first.pid, signal.SIGSTOP)  # on a slow machine it could end before the second begins
    second = crowd.start(LONG)
    assert crowd.end(second) == 1
    assert "another process is running this cell" in crowd.said()
    os.kill(first.pid, signal.SIGCONT)
    assert crowd.end(first) == 0
    store = ResultStore(crowd.folder / "results")
    assert [record.test_scored for record in store.records()] == [1]


@pytest.mark.slow
def test_a_stopped_owner_stays_the_owner_and_a_killed_one_is_none_at_once(crowd, tmp_path):
    owner = crowd.start(LONG)
    crowd.until_in(owner, *TRAINING)
    os.kill(owner.pid, signal.SIGSTOP)
    assert crowd.end(crowd.start(LONG)) == 1
    assert "another process is running this cell" in crowd.said()
    owner.kill()
    assert crowd.end(owner) == -signal.SIGKILL
    begun = time.monotonic()
    heir = crowd.start(LONG)
    crowd.until_in(heir, *TRAINING)
    assert time.monotonic() - begun < SECONDS / 2
    assert crowd.end(heir) == 0
    alone = tmp_path / "alone"
    assert crowd.end(crowd.start(LONG, alone)) == 0
    assert differences(outcome(alone), outcome(crowd.folder)) == ()


@pytest.mark.slow
def test_many_processes_that_start_at_once_prepare_and_run_every_cell_once(crowd, tmp_path):
    """Each is given all cells; what another runs comes last, and is then only read."""
    plan = ("run", "-m", *RUN[1:], "seed=0,1,2")
    alone = tmp_path / "alone"
    assert crowd.end(crowd.start(plan, alone)) == 0
    for process in [crowd.start(plan) for _ in range(3)]:
        assert crowd.end(process) == 0
    assert "Traceback" not in crowd.said()
    records = ResultStore(crowd.folder / "results").records()
    assert Counter(record.seed for record in records) == {0: 1, 1: 1, 2: 1}
    assert {record.test_scored for record in records} == {1}
    assert differences(outcome(alone), outcome(crowd.folder)) == ()
