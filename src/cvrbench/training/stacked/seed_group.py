"""Runs of one plan that go the same way at the same time, and train together.

Every run has a thread of its own and does in it what it would do alone, but one at a time: a run
goes on until it wants to train, then the next; when all that are left want to, they are trained as
one program and go on one after another with their results. So strategies need not know of it, and
draws from torch's global generator, all seeded where they are made, do not mix.

A step of a small network spends more time on starting operations than on computing; of several at
once they start once. A step of a large one computes all the time, and several take as long as one
after another: then only memory is lost (`most_that_pay`).
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

from cvrbench.config.schema import Config
from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Split
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system import machine
from cvrbench.training.callbacks import StopRequested
from cvrbench.training.device import resolve_device
from cvrbench.training.loop import FitResult, TrainingJob
from cvrbench.training.stacked.replicas import Trained, fit_stacked

Result = TypeVar("Result")
Weights = npt.NDArray[np.float32]
POLL_SECONDS = 0.2
"""How long a Ctrl-C may go unnoticed."""
MOST = 8
"""More gain little: what starts once is then a small part of a step."""
MOST_WORK = 100_000_000
"""Multiply-adds of a step's forward pass above which it does not pay. Measured in processor time
of a step, eight seeds against one eight times: 0.6 at 15 million (`shared_bottom` as by default),
0.8 at 60 million (`mmoe`)."""
COPIES = 6
"""Copies of a run's weights while it is one of many: its own, the stack's, gradients and moments,
its best, and what an optimiser makes on the way."""
SHARE = 0.5
"""Share of the free memory that a group may take."""


def can_go_together(config: Config) -> bool:
    """Whether runs of a configuration can share a process and a program at all."""
    trainer = config.trainer
    untracked = config.logger.kind == "none"  # trackers know of one run in a process
    return untracked and trainer.precision == "fp32" and not trainer.compile


def most_that_pay(config: Config, build: Callable[[], SharingStrategy]) -> int:
    """Return how many runs of a configuration to train at once; 1 where it does not pay.

    Args:
        config: Of all of them, but for the seed.
        build: Gives their network, of which the sizes alone are wanted.
    """
    if not can_go_together(config) or resolve_device(config.trainer.device).type != "cpu":
        return 1
    with torch.device("meta"):
        network = build()
    tables = sum(m.table.numel() for m in network.modules() if isinstance(m, FeatureEncoder))
    weights = sum(parameter.numel() for parameter in network.parameters())
    if (weights - tables) * config.trainer.batch_size > MOST_WORK:
        return 1
    n_bytes = weights * COPIES * torch.float32.itemsize
    return max(1, min(MOST, int(SHARE * machine.available_memory().n_bytes / n_bytes)))


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
        """Train with the others; return the result and how many trainings were one program.

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
        self, split: Split, schema: Schema, device: torch.device, weights: Weights | None = None
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

    They are called with their group and differ in nothing but their seed. `stop_requested` is asked
    after every step. Returns what each returned or raised, in their order.
    """
    seed_group = SeedGroup(len(runs), stop_requested)
    ended: dict[int, Result | BaseException] = {}

    def call(number: int) -> None:
        try:
            with seed_group.attend():
                ended[number] = runs[number](seed_group)
        except BaseException as error:
            ended[number] = error

    # Daemons: else they would keep a process alive that a second Ctrl-C shall end at once.
    threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(len(runs))]
    with torch.random.fork_rng(), warnings.catch_warnings():  # of what each puts back, one remains
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # the system may give a Ctrl-C to another thread than this
                thread.join(POLL_SECONDS)
    return [ended[number] for number in range(len(runs))]
