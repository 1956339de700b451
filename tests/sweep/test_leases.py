"""Trials are given out once, and those of dead workers are taken over once."""

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from cvrbench.errors import StoreError
from cvrbench.sweep import leases as module
from cvrbench.sweep.leases import ATTEMPTS, MISSED, REASON, TRIES, WORKER, Leases
from cvrbench.sweep.storage import open_storage

HEARTBEAT = 0.05
ELSEWHERE = {"host": "other 1-2-3 pid:[1]", "pid": 1, "started": "1", "beat": 0}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def clock(monkeypatch):
    """Our own clock, moved by hand."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def one() -> Leases:
    """A worker of a study of two trials."""
    storage = InMemoryStorage()
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    return Leases(storage, study, limit=2, heartbeat=HEARTBEAT)


def another(leases: Leases, **signed) -> Leases:
    """A second worker of the same study."""
    other = replace(leases, seen={})
    other.me |= {"pid": os.getppid(), "started": module._started(os.getppid())} | signed
    return other


def finish(leases: Leases, trial) -> None:
    leases.storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])


def dead() -> int:
    """The number of a process that was."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


WORK = """
import os, sys, time
from pathlib import Path
from optuna.trial import TrialState
from cvrbench.sweep.leases import Leases
from cvrbench.sweep.storage import open_storage
url, journal, limit, log = sys.argv[1] or None, Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
storage = open_storage(url, journal)
leases = Leases(storage, storage.get_study_id_from_name("s"), limit, heartbeat=30)
print("ready", flush=True)
sys.stdin.readline()
while not leases.is_over(spent=False):
    if (trial := leases.next(spent=False)) is None:
        time.sleep(0.01)
        continue
    with open(log, "a") as file:
        file.write(f"{trial.number} {os.getpid()}\\n")
    with leases.alive(trial):
        time.sleep(0.002)
    storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
"""


def hammer(url: str | None, folder: Path, *, limit: int, processes: int = 4) -> None:
    """Let processes compete for every trial, and see that each was done once."""
    journal, log = folder / "journal.log", folder / "log"
    study = open_storage(url, journal).create_new_study([StudyDirection.MAXIMIZE], "s")
    command = [sys.executable, "-c", WORK, url or "", journal, str(limit), log]
    workers = [
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(processes)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    done = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert done == dict.fromkeys(range(limit), 1)
    trials = open_storage(url, journal).get_all_trials(study)
    assert [t.state for t in trials[:limit]] == [TrialState.COMPLETE] * limit
    assert {t.state for t in trials[limit:]} <= {TrialState.WAITING}
    assert len(trials) < limit + processes
    assert {t.user_attrs[ATTEMPTS] for t in trials[:limit]} == {1}


@pytest.mark.slow
def test_each_number_is_given_out_once_by_a_journal(tmp_path):
    hammer(None, tmp_path, limit=60)


@pytest.mark.slow
def test_each_number_is_given_out_once_by_sqlite(tmp_path):
    hammer(f"sqlite:///{tmp_path / 'study.db'}", tmp_path, limit=60)


def test_a_worker_takes_one_trial_after_another_until_there_are_enough(one):
    numbers = []
    while (trial := one.next(spent=False)) is not None:
        numbers.append(trial.number)
        assert not one.is_over(spent=False)
        finish(one, trial)
    assert numbers == [0, 1]
    assert one.is_over(spent=False)


def test_nothing_begins_once_the_budget_is_spent(one):
    trial = one.next(spent=False)
    assert another(one).next(spent=True) is None
    assert not one.is_over(spent=True)
    finish(one, trial)
    assert one.is_over(spent=True)
    assert not one.is_over(spent=False)


def test_a_trial_too_many_waits_for_ever(one):
    for _ in range(3):
        one.storage.create_new_trial(one.study_id, optuna.create_trial(state=TrialState.WAITING))
    for number in range(2):
        trial = one.next(spent=False)
        assert trial.number == number
        finish(one, trial)
    assert one.next(spent=False) is None
    assert one.is_over(spent=False)


def test_a_dead_workers_trial_is_taken_over_with_what_was_suggested(one):
    gone = another(one, pid=dead())
    lost = gone.next(spent=False)
    uniform = FloatDistribution(0, 1)
    one.storage.set_trial_param(lost._trial_id, "model.dropout", 0.25, uniform)
    taken = one.next(spent=True)  # even when nothing new may begin
    assert taken.number == lost.number == 0
    assert taken.params == {"model.dropout": 0.25}
    assert taken.user_attrs[ATTEMPTS] == 2


def test_a_worker_that_comes_too_late_leaves_no_sign(one):
    """Else it would take the trial for one that it had left itself."""
    late = another(one)
    one.storage.create_new_trial(one.study_id, optuna.create_trial(state=TrialState.WAITING))
    (waiting,) = late.trials(TrialState.WAITING)
    taken = one.next(spent=False)
    assert not late._start(waiting)
    assert one._is_mine(taken)
    assert late.next(spent=True) is None


def test_a_trial_whose_worker_died_before_it_signed_is_taken_over(one, clock):
    slow = replace(one, heartbeat=60.0, seen={})
    number = one.storage.create_new_trial(
        one.study_id, optuna.create_trial(state=TrialState.RUNNING)
    )
    assert slow.next(spent=True) is None
    clock.now += module.UNSIGNED / 2
    assert slow.next(spent=True) is None
    clock.now += module.UNSIGNED
    assert slow.next(spent=True)._trial_id == number


def test_a_worker_takes_up_what_it_left_itself(one):
    """After an error in a process that lives on, as a notebook's does."""
    left = one.next(spent=False)
    taken = one.next(spent=True)
    assert (taken.number, taken.user_attrs[ATTEMPTS]) == (left.number, 2)


def test_a_process_of_the_same_number_is_not_the_worker(one):
    gone = another(one, started="7")  # its number went to a process that began at another time
    lost = gone.next(spent=False)
    assert one.next(spent=True).number == lost.number


def test_a_trial_whose_workers_die_fails_with_a_reason(one):
    for death in range(TRIES):
        taken = another(one, pid=dead()).next(spent=False)
        assert taken.number == 0, death
    assert one.next(spent=True) is None
    (failed,) = one.trials(TrialState.FAIL)
    assert failed.number == 0
    assert failed.user_attrs[REASON] == f"its worker died {TRIES} times"
    assert one.next(spent=False).number == 1


def test_a_living_workers_trial_is_left_alone(one):
    busy = another(one)
    trial = busy.next(spent=False)
    for _ in range(2):
        assert one.next(spent=True) is None
    assert one.next(spent=False).number == trial.number + 1


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "died before it signed"])
def test_a_worker_elsewhere_is_dead_when_no_new_sign_comes(one, clock, signed):
    far = another(one, **ELSEWHERE)
    if signed:
        trial = far.next(spent=False)
    else:
        running = optuna.create_trial(state=TrialState.RUNNING)
        trial = one.storage.get_trial(one.storage.create_new_trial(one.study_id, running))
    assert one.next(spent=True) is None
    clock.now += MISSED * HEARTBEAT
    assert one.next(spent=True) is None
    if signed:
        far._sign(trial._trial_id, 1)
        clock.now += HEARTBEAT
        assert one.next(spent=True) is None
        clock.now += MISSED * HEARTBEAT
        assert one.next(spent=True) is None
    clock.now += HEARTBEAT
    taken = one.next(spent=True)
    assert taken.number == trial.number
    assert taken.user_attrs[ATTEMPTS] == (2 if signed else 1)


def test_the_other_machines_clock_does_not_matter(one, clock):
    """A sign holds no time: only whether it is new counts, by the clock of who looks."""
    assert not {"time", "at"} & set(another(one, **ELSEWHERE).next(spent=False).user_attrs[WORKER])


def test_two_that_see_the_same_death_take_it_over_once(one, monkeypatch):
    lost = another(one, pid=dead()).next(spent=False)
    two = another(one)
    seen = one.storage.get_trial(lost._trial_id)

    def meanwhile(_seconds: float) -> None:
        monkeypatch.setattr(module.time, "sleep", lambda _s: None)
        assert not two._take_over(seen)  # it came later: somebody has signed already

    monkeypatch.setattr(module.time, "sleep", meanwhile)
    assert one._take_over(seen)
    assert one.storage.get_trial(lost._trial_id).user_attrs[ATTEMPTS] == 2


def test_two_that_sign_at_once_leave_it_to_the_last(one, monkeypatch):
    lost = another(one, pid=dead()).next(spent=False)
    two = another(one)
    monkeypatch.setattr(module.time, "sleep", lambda _s: two._sign(lost._trial_id, 0))
    assert not one._take_over(one.storage.get_trial(lost._trial_id))


def test_a_released_trial_is_taken_at_once_and_as_the_same_attempt(one):
    far = another(one, **ELSEWHERE)
    for _ in range(TRIES + 2):
        trial = far.next(spent=False)
        assert trial.number == 0
        assert trial.user_attrs[ATTEMPTS] == 1
        far.release(trial)
    taken = one.next(spent=True)
    assert (taken.number, taken.user_attrs[ATTEMPTS]) == (0, 1)


def test_releasing_what_another_has_taken_or_ended_changes_nothing(one):
    zombie = another(one, pid=dead())
    trial = zombie.next(spent=False)
    taken = one.next(spent=True)
    before = one.storage.get_trial(trial._trial_id).user_attrs
    zombie.release(trial)
    assert one.storage.get_trial(trial._trial_id).user_attrs == before
    finish(one, taken)
    one.release(taken)
    assert one.storage.get_trial(trial._trial_id).user_attrs == before


def test_a_worker_gives_signs_of_life_until_its_trial_ends(one):
    trial = one.next(spent=False)

    def sign():
        return one.storage.get_trial(trial._trial_id).user_attrs[WORKER]["beat"]

    with one.alive(trial):
        until(lambda: sign() >= 2)
        finish(one, trial)
        time.sleep(3 * HEARTBEAT)
    last = sign()
    time.sleep(3 * HEARTBEAT)
    assert sign() == last


def test_a_zombie_stops_signing_and_ends_the_trial_no_second_time(one):
    zombie = another(one, pid=dead())
    trial = zombie.next(spent=False)
    taken = one.next(spent=True)
    with zombie.alive(trial):
        time.sleep(4 * HEARTBEAT)
        signed = one.storage.get_trial(trial._trial_id).user_attrs[WORKER]
        assert signed["pid"] == one.me["pid"]
    finish(one, taken)
    with pytest.raises(UpdateFinishedTrialError):
        one.storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [2.0])
    assert one.storage.get_trial(trial._trial_id).values == [1.0]


def test_signs_of_life_end_quietly_where_the_storage_is_gone(one, monkeypatch):
    trial = one.next(spent=False)
    asked = []

    def away(*_arguments):
        asked.append(1)
        raise StoreError("gone")

    with one.alive(trial):
        monkeypatch.setattr(one.storage, "set_trial_user_attr", away)
        until(lambda: bool(asked))


def until(true, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
