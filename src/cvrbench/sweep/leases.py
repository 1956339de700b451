"""Leases of trials: which trial a worker does next, so that none is lost and none is done twice.

A trial's number is given out once, by the storage. A worker takes a waiting trial, or a new one
while trials and budget last, and signs it with a heartbeat; a trial whose worker is gone is taken
over under its number and with what was suggested for it, once. Two workers that should take over
the same trial would compute the same run, which its folder's lock and the storage, in which a trial
ends once, reduce to one.

Optuna's own heartbeat and `RetryHeartbeatStaleTrialCallback` are not used: a journal and a gRPC
proxy have neither, and a retried trial gets a new number, after which a resumed study would not
propose what an uninterrupted one had proposed.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from cvrbench.errors import StoreError
from cvrbench.system.files import process_scope

WORKER, ATTEMPTS, REASON = "worker", "attempts", "reason"
FURTHER = "further"
"""Names of a trial's user attributes; `further`: the last attempt that got further than before."""
MISSED = 5
"""Heartbeats in a row that a worker may miss."""
UNSIGNED = 5.0
"""Seconds after which a running trial that nobody has signed has lost its worker, at most."""
TRIES = 2
"""A trial whose worker dies is tried once more from where it last got further."""


@dataclass
class Leases:
    """The trials of one study, as one worker sees them."""

    storage: BaseStorage
    study_id: int
    limit: int | None
    """Number of trials that there may be; None: as many as the budget lets."""
    heartbeat: float
    """Seconds between two heartbeats."""
    seen: dict[int, tuple[Any, float]] = field(default_factory=dict)
    """Trial -> the last heartbeat of its worker, and when it was first seen, by our clock."""

    def __post_init__(self) -> None:
        """Sign as this process."""
        self.me = {"host": process_scope(), "pid": os.getpid(), "started": _started(os.getpid())}

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials that count, by number."""
        found = self.storage.get_all_trials(self.study_id, deepcopy=False, states=states or None)
        return [t for t in found if self.limit is None or t.number < self.limit]

    def next(self, *, spent: bool) -> FrozenTrial | None:
        """Lease a trial; None where there is nothing to do now.

        Args:
            spent: Whether the budget is spent, so that no trial may begin.
        """
        for trial in self.trials(TrialState.RUNNING):
            if self._is_orphan(trial) and self._take_over(trial):
                return self.storage.get_trial(trial._trial_id)
        if spent:
            return None
        if not self.trials(TrialState.WAITING) and (
            self.limit is None or len(self.trials()) < self.limit
        ):
            self.storage.create_new_trial(self.study_id, create_trial(state=TrialState.WAITING))
        for trial in self.trials(TrialState.WAITING):
            if self._start(trial):
                return self.storage.get_trial(trial._trial_id)
        return None

    def is_over(self, *, spent: bool) -> bool:
        """Whether nothing is left to do, for anybody."""
        if self.trials(TrialState.RUNNING):
            return False
        return spent or (
            self.limit is not None
            and len(self.trials()) >= self.limit
            and not self.trials(TrialState.WAITING)
        )

    @contextmanager
    def alive(self, trial: FrozenTrial) -> Iterator[None]:
        """Sign a trial while it is computed, unless another worker has taken it over."""
        done = threading.Event()

        def beat() -> None:
            number = 1
            with suppress(StoreError):  # the worker meets the same trouble and says so
                while not done.wait(self.heartbeat) and self._is_mine(trial):
                    self._sign(trial._trial_id, number)
                    number += 1

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def release(self, trial: FrozenTrial) -> None:
        """Return an unfinished trial to the queue; whoever goes on with it goes on where it was."""
        if not self._is_mine(trial):
            return
        attempts = trial.user_attrs.get(ATTEMPTS, 1)
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial._trial_id, ATTEMPTS, attempts - 1)
            self.storage.set_trial_user_attr(trial._trial_id, WORKER, None)

    def _start(self, trial: FrozenTrial) -> bool:
        # Not signed before it is ours: the sign could come after that of a faster worker.
        try:
            if not self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:
            return False
        self._sign(trial._trial_id, 0)
        self.storage.set_trial_user_attr(trial._trial_id, ATTEMPTS, 1)
        return True

    def _take_over(self, trial: FrozenTrial) -> bool:
        now = self.storage.get_trial(trial._trial_id)
        if now.user_attrs.get(WORKER) != trial.user_attrs.get(WORKER):
            return False  # another was faster
        attempts = now.user_attrs.get(ATTEMPTS, 0) + 1
        in_vain = attempts - max(now.user_attrs.get(FURTHER, 0) - 1, 0)
        try:
            if in_vain > TRIES:
                reason = f"its worker died {TRIES} times"
                self.storage.set_trial_user_attr(trial._trial_id, REASON, reason)
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                return False
            self._sign(trial._trial_id, 0)
            time.sleep(min(1.0, self.heartbeat / 10))  # for another who has seen the same
            if not self._is_mine(trial):
                return False
            self.storage.set_trial_user_attr(trial._trial_id, ATTEMPTS, attempts)
        except UpdateFinishedTrialError:
            return False
        return True

    def _sign(self, trial_id: int, beat: int) -> None:
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial_id, WORKER, {**self.me, "beat": beat})

    def _is_mine(self, trial: FrozenTrial) -> bool:
        """Whether the last sign on a trial is ours."""
        signed = self.storage.get_trial(trial._trial_id).user_attrs.get(WORKER) or {}
        return {key: signed.get(key) for key in self.me} == self.me

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Whether a running trial's worker is gone."""
        missing = object()
        worker = trial.user_attrs.get(WORKER, missing)
        if worker is None:
            return True
        if worker is not missing and worker["host"] == self.me["host"]:
            # One of our own is one that we left: who looks for work is at none.
            mine = worker["pid"] == self.me["pid"]
            return mine or not _is_running(worker["pid"], worker["started"])
        sign = None if worker is missing else worker
        last, since = self.seen.get(trial.number, (missing, 0.0))
        if last != sign:
            self.seen[trial.number] = (sign, time.monotonic())
            return False
        patience = MISSED * self.heartbeat
        patience = patience if sign is not None else min(patience, UNSIGNED)
        return time.monotonic() - since > patience


def _started(pid: int) -> str | None:
    """Return when a process began, in the kernel's ticks; None where that is not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _is_running(pid: int, started: str | None) -> bool:
    if Path("/proc/self/stat").exists():
        return _started(pid) == started
    return bool(psutil.pid_exists(pid))
