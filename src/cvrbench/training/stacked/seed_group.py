"""Runs of one plan that go the same way at the same time, and train together.

Every run has a thread of its own and does in it what it would do alone, but one at a time: a run
goes on until it wants to train, then the next; when all that are left want to, they are trained as
one program and go on one after another with their results. So strategies need not know of it, and
draws from torch's global generator, all seeded where they are made, do not mix.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Split
from cvrbench.data.schema import Schema
from cvrbench.training.callbacks import StopRequested
from cvrbench.training.loop import TrainingJob
from cvrbench.training.stacked.replicas import Trained, fit_stacked
from cvrbench.training.state import FitResult

Result = TypeVar("Result")
POLL_SECONDS = 0.2
"""How long a Ctrl-C may go unnoticed."""


@dataclass
class SeedGroup:
    """What the runs of a group have in common.

    The runs differ in nothing but their seed, and read the same prepared dataset.
    """

    size: int
    """How many runs began; they share the time that passes."""
    stop_requested: StopRequested
    turn: threading.Condition = field(default_factory=threading.Condition)
    """Held by the run whose turn it is."""
    wanted: dict[int, TrainingJob] = field(default_factory=dict)
    """What the runs that wait want to train, by the number of their thread."""
    trained: dict[int, Trained] = field(default_factory=dict)
    loaded: dict[str, SplitTensors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """All are left."""
        self.n_left = self.size

    @contextmanager
    def attend(self) -> Iterator[None]:
        """Be one of the runs; enter it in a thread of its own, once for each."""
        with self.turn:
            try:
                yield
            finally:
                self.n_left -= 1
                self._train_if_all_wait()

    def fit(self, job: TrainingJob) -> tuple[FitResult, int]:
        """Train with the others; say how many trainings were one program.

        Raises:
            RunError, RunInterrupted: As `fit`.
        """
        me = threading.get_ident()
        self.wanted[me] = job
        self._train_if_all_wait()
        self.turn.wait_for(lambda: me in self.trained)
        ended, n_together = self.trained.pop(me)
        if isinstance(ended, BaseException):
            raise ended
        return ended, n_together

    def load(
        self,
        split: Split,
        schema: Schema,
        device: torch.device,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> SplitTensors:
        """As `SplitTensors.load`; rows whose labels count alike are in memory once for all runs."""
        if weights is not None:
            return SplitTensors.load(split, schema, device, weights)
        if split.name not in self.loaded:
            self.loaded[split.name] = SplitTensors.load(split, schema, device)
        return self.loaded[split.name]

    def _train_if_all_wait(self) -> None:
        if len(self.wanted) < self.n_left or not self.wanted:
            return
        wanted, self.wanted = self.wanted, {}
        try:
            trained = fit_stacked(list(wanted.values()))
        except BaseException as error:  # else they would wait for ever
            trained = [Trained(error)] * len(wanted)
        self.trained |= dict(zip(wanted, trained, strict=True))
        self.turn.notify_all()


def in_seed_group(
    runs: Sequence[Callable[[SeedGroup], Result]], stop_requested: StopRequested
) -> list[Result | BaseException]:
    """Call functions that train, each in a thread of its own, and let them train together.

    Args:
        runs: Called with their group; they differ in nothing but their seed.
        stop_requested: Asked after every step.

    Returns:
        What each gave or raised, in their order.
    """
    seed_group = SeedGroup(len(runs), stop_requested)
    ended: dict[int, Result | BaseException] = {}

    def call(number: int) -> None:
        try:
            with seed_group.attend():
                ended[number] = runs[number](seed_group)
        except BaseException as error:
            ended[number] = error

    threads = [
        # They would keep a process alive that a second Ctrl-C shall end at once.
        threading.Thread(target=call, args=(number,), daemon=True)
        for number in range(len(runs))
    ]
    with torch.random.fork_rng(), warnings.catch_warnings():  # of what each puts back, one remains
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # the system may give a Ctrl-C to another thread than this
                thread.join(POLL_SECONDS)
    return [ended[number] for number in range(len(runs))]
