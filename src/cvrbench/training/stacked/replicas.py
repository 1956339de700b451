"""Several trainings of one structure at once: what `fit` does, for all in one program.

Every training sees the batches, draws the dropout and takes the decisions that it would alone; only
the last bits of its weights may differ, since sums may be taken in another order. One that ends
leaves the stack.
"""

import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cvrbench.data.batches import SplitTensors
from cvrbench.system.rng import derive
from cvrbench.training.loop import FitResult, TrainingJob, TrainingState, fit, get_rng
from cvrbench.training.stacked.stack import StackedStep, can_stack

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
