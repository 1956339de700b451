"""Runs of one plan that go the same way at the same time, and train together.

Every run has a thread of its own and does in it what it would do alone, but one at a time: a run
goes on until it wants to train, then the next; when all that are left want to, they are trained as
one program and go on one after another with their results. So strategies need not know of it, and
draws from torch's global generator, all seeded where they are made, do not mix.

Every training sees the batches, draws the dropout and takes the decisions that it would alone; only
the last bits of its weights may differ, since sums may be taken in another order. One that ends
leaves the stack.

A step of a small network spends more time on starting operations than on computing; of several at
once they start once. A step of a large one computes all the time, and several take as long as one
after another: then only memory is lost (`most_that_pay`).
"""

import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.config.schema import Config
from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Split
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system import machine
from cvrbench.system.rng import derive
from cvrbench.training.callbacks import StopRequested
from cvrbench.training.device import resolve_device
from cvrbench.training.loop import FitResult, TrainingJob, TrainingState, fit, get_rng
from cvrbench.training.stacked_step import StackedStep, can_stack

Ended = FitResult | BaseException
"""How a training ended: with a result, or why there is none."""


class Trained(NamedTuple):
    """One of the trainings asked for."""

    ended: Ended
    """Its result, or what `fit` would have raised."""
    n_together: int = 1
    """How many trainings began in one program with it, itself included."""


def fit_stacked(jobs: Sequence[TrainingJob]) -> list[Trained]:
    """Train as `fit` would each; those that allow it in one program.

    Args:
        jobs: Trainings of runs that differ in nothing but their seed, so that networks of one
            type whose weights have the same names and shapes compute the same.

    Returns:
        What became of each, in their order.
    """
    kinds: dict[Hashable, list[Replica]] = {}
    for job in jobs:
        if is_stackable(job) and not job.callbacks.files.finished_file.is_file():
            replica = Replica(job, job.callbacks.files.under_way())
            kinds.setdefault(replica.kind, []).append(replica)
    trained: dict[int, Trained] = {}
    for replicas in kinds.values():
        if len(replicas) > 1:
            _StackedFit(list(replicas)).run()
            for replica in replicas:
                assert replica.ended is not None
                trained[id(replica.job)] = Trained(replica.ended, len(replicas))
    return [trained.get(id(job)) or Trained(_attempt(job)) for job in jobs]


def is_stackable(job: TrainingJob) -> bool:
    """Whether a training can be part of a program of several."""
    in_memory, config = isinstance(job.train, SplitTensors), job.config
    plain = in_memory and config.precision == "fp32" and not config.compile
    balancing = job.task.balancing
    together = balancing.stackable and not balancing.compares_gradients
    return plain and together and can_stack(job.network)


def _attempt(job: TrainingJob) -> Ended:
    try:
        return fit(job)
    except BaseException as error:
        return error


class Replica(TrainingState):
    """A training under way in a stack, with rows and random numbers of its own."""

    def __init__(self, job: TrainingJob, saved: Mapping[str, Any] | None) -> None:
        super().__init__(job, saved)
        assert isinstance(job.train, SplitTensors)
        self.ended: Ended | None = None
        self.device = job.train.device
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(derive(job.seed, "fit", job.callbacks.stage))
        if self.rng is not None:
            on_gpu, index = self.device.type == "cuda", self.device.index or 0
            self.generator.set_state(self.rng["cuda"][index] if on_gpu else self.rng["cpu"])
        place = {"epoch": self.state.epoch, "step": self.state.step_in_epoch}
        self.indices = job.train.indices(job.config.batch_size, job.seed, **place)
        job.network.train()

    @property
    def kind(self) -> Hashable:
        """What replicas of one program have in common, beside their run's configuration."""
        job = self.job
        weights = job.network.state_dict().items()
        shapes = tuple((name, tuple(t.shape), t.dtype) for name, t in weights)
        code = type(job.network), type(job.task.objective), type(job.task.balancing)
        return code, shapes, job.epochs, len(job.train), self.state.step

    def after_step(self, loss_sum: Tensor, *, examples: int, seconds: float) -> bool:
        """Do what is due after a step; return whether the training is over."""
        self.state.seconds += seconds
        try:
            if not self.count(examples):
                return False
            self.check_finite(loss_sum)
            return self.evaluate()
        except Exception as error:  # its own end, not that of the others
            self.ended = error
            return True

    def leave(self) -> None:
        """End, now that the weights are in the network."""
        self.indices.close()
        if self.ended is None:
            try:
                self.ended = self.finish()
            except Exception as error:
                self.ended = error

    def get_rng(self) -> dict[str, Any]:
        """Return the random state with which it goes on, alone or in another stack."""
        rng = get_rng()
        if self.device.type == "cuda":
            rng["cuda"][self.device.index or 0] = self.generator.get_state()
        else:
            rng["cpu"] = self.generator.get_state()
        return rng


class _StackedFit:
    """The steps of a stack until every replica has ended.

    Args:
        replicas: Those that have not ended; all of one kind.
    """

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas

    def run(self) -> None:
        """Train; an error of the stack, such as too little memory, ends every replica."""
        try:
            self._run()
        except BaseException as error:
            for replica in self.replicas:
                replica.ended = error

    def _run(self) -> None:
        self.loss_sums = torch.zeros(len(self.replicas), device=self.replicas[0].device)
        self._stack()
        while self.replicas:
            self._step()
            if self.replicas:
                self.replicas[0].report()
                self._save()

    def _stack(self) -> None:
        self.program = StackedStep(
            [replica.job for replica in self.replicas],
            [replica.generator for replica in self.replicas],
            [replica.optimizers for replica in self.replicas],
        )

    def _step(self) -> None:
        """Take a step and do what is due after it; replicas that have ended leave the stack."""
        begun = time.monotonic()
        index = torch.stack([next(replica.indices) for replica in self.replicas])
        self.replicas[0].set_rate(self.program.optimizers)
        self.loss_sums += self.program.step(index)
        seconds = (time.monotonic() - begun) / len(self.replicas)
        over = [
            replica.after_step(loss_sum, examples=index.shape[1], seconds=seconds)
            for replica, loss_sum in zip(self.replicas, self.loss_sums, strict=True)
        ]
        if not any(over):
            return
        if not all(over):
            self.program.write_back()
        self.program.release()
        for replica, ends in zip(self.replicas, over, strict=True):
            if ends:
                replica.leave()
        self.replicas = [r for r, ends in zip(self.replicas, over, strict=True) if not ends]
        if self.replicas:
            self.loss_sums = self.loss_sums[[not ends for ends in over]]
            self._stack()

    def _save(self) -> None:
        """Save those for which it is time, and all where the user wants to stop."""
        stop = self.replicas[0].job.callbacks.stop_requested()
        due = [replica for replica in self.replicas if stop or replica.pace.is_due()]
        if due:
            self.program.write_back()
        for replica in due:
            replica.save(replica.get_rng(), at_once=stop)
        if stop:
            for replica in self.replicas:
                replica.ended = replica.interrupted()
            self.replicas = []


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
