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
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system.rng import derive
from cvrbench.training.loop import TrainingJob, get_rng
from cvrbench.training.schedule import count_steps, evaluation_steps, rate_factor
from cvrbench.training.stacked.stack import StackedStep, can_stack
from cvrbench.training.state import FitResult, TrainingState

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
    replicas = {
        n: Replica(job, job.callbacks.files.under_way())
        for n, job in enumerate(jobs)
        if is_stackable(job) and not job.callbacks.files.finished_file.is_file()
    }
    kinds: dict[Hashable, list[int]] = {}
    for number, replica in replicas.items():
        kinds.setdefault(replica.kind, []).append(number)
    trained: dict[int, Trained] = {}
    for alike in kinds.values():
        if len(alike) > 1:
            _StackedFit([replicas[number] for number in alike]).run()
            for number in alike:
                ended = replicas[number].ended
                assert ended is not None
                trained[number] = Trained(ended, len(alike))
    return [trained.get(n) or Trained(_attempt(job)) for n, job in enumerate(jobs)]


def is_stackable(job: TrainingJob) -> bool:
    """Whether a training can be part of a program of several."""
    in_memory, config = isinstance(job.train, SplitTensors), job.config
    plain = in_memory and config.precision == "fp32" and not config.compile
    balancing = job.task.balancing
    together = balancing.stackable and not balancing.compares_gradients
    return plain and together and can_stack(job.network)


def _attempt(job: TrainingJob) -> Ended:
    try:
        return job.alone()
    except BaseException as error:
        return error


class Replica:
    """A training under way in a stack: everything about it that is its own.

    Args:
        job: What to train.
        saved: Where it was, as `TrainingState.saved` returns it; None: it begins.
    """

    def __init__(self, job: TrainingJob, saved: Mapping[str, Any] | None) -> None:
        network, train, valid, task, config, _, seed, callbacks = job
        self.job = job
        self.ended: Ended | None = None
        assert isinstance(train, SplitTensors)
        self.train, device = train, train.device
        self.training, rng = TrainingState.begin(
            network, train, valid, task, config, callbacks, saved
        )
        state = self.training.state
        self.generator = torch.Generator(device)
        self.generator.manual_seed(derive(seed, "fit", callbacks.stage))
        if rng is not None:
            self.generator.set_state(_drawn_from(rng, device))
        epoch, step = state.epoch, state.step_in_epoch
        self.indices = train.indices(config.batch_size, seed, epoch=epoch, step=step)
        self.settles = type(network).after_step is not SharingStrategy.after_step
        network.train()

    @property
    def kind(self) -> Hashable:
        """What replicas of one program have in common, beside their run's configuration."""
        job = self.job
        weights = job.network.state_dict().items()
        shapes = tuple((name, tuple(t.shape), t.dtype) for name, t in weights)
        code = type(job.network), type(job.task.objective), type(job.task.balancing)
        return code, shapes, job.epochs, len(job.train), self.training.state.step

    def count(self, step: int, place: tuple[int, int], *, n_rows: int, seconds: float) -> None:
        """Note a step that was taken, `place` being its epoch and its number in it."""
        state = self.training.state
        state.step, (state.epoch, state.step_in_epoch) = step, place
        state.examples += n_rows
        state.seconds += seconds

    def look(self, loss_sum: Tensor, *, is_due: bool, is_last: bool) -> bool:
        """Do what is due after a step; return whether the training is over."""
        training = self.training
        settled = self.settles and training.network.after_step(training.state.step)
        if not (is_due or is_last or settled):
            return False
        training.check_finite(loss_sum)
        training.evaluate()
        patience = training.config.patience
        return is_last or settled or training.state.evaluations_since_best >= patience

    def rng(self) -> dict[str, Any]:
        """Return the random state with which it goes on, alone or in another stack."""
        rng, device = get_rng(), self.generator.device
        if device.type == "cuda":
            rng["cuda"][device.index or 0] = self.generator.get_state()
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
        job = replicas[0].job
        self.config, self.train, self.callbacks = job.config, job.train, job.callbacks
        self.n_steps = count_steps(len(self.train), self.config.batch_size, 1)
        self.total_steps = count_steps(len(self.train), self.config.batch_size, job.epochs)
        self.evaluate_at = evaluation_steps(self.n_steps, self.config.evaluations_per_epoch)

    def run(self) -> None:
        """Train; an error of the stack, such as too little memory, ends every replica."""
        try:
            self._run()
        except BaseException as error:
            for replica in self.replicas:
                replica.ended = error

    def _run(self) -> None:
        first = self.replicas[0].training.state.step + 1
        self.loss_sums = torch.zeros(len(self.replicas), device=self.train.device)
        self._stack()
        for step in range(first, self.total_steps + 1):
            epoch, place = divmod(step - 1, self.n_steps)
            self._step(step, epoch, place)
            self._look(is_due=place + 1 in self.evaluate_at, is_last=step == self.total_steps)
            if not self.replicas:
                return
            self.replicas[0].training.report(self.total_steps)
            if self._is_stopped():
                return

    def _stack(self) -> None:
        self.program = StackedStep(
            [replica.job for replica in self.replicas],
            [replica.train for replica in self.replicas],
            [replica.generator for replica in self.replicas],
            [replica.training.optimizers for replica in self.replicas],
        )

    def _step(self, step: int, epoch: int, place: int) -> None:
        begun = time.monotonic()
        index = torch.stack([next(replica.indices) for replica in self.replicas])
        factor = rate_factor(self.config.schedule, step, self.total_steps)
        self.program.optimizers.set_rate(factor)
        self.loss_sums += self.program.step(index)
        seconds = (time.monotonic() - begun) / len(self.replicas)
        for replica in self.replicas:
            replica.count(step, (epoch, place + 1), n_rows=index.shape[1], seconds=seconds)

    def _look(self, *, is_due: bool, is_last: bool) -> None:
        """Do what is due after a step; replicas that have ended leave the stack."""
        over = []
        for number, replica in enumerate(self.replicas):
            try:
                ends = replica.look(self.loss_sums[number], is_due=is_due, is_last=is_last)
            except Exception as error:  # its own end, not that of the others
                replica.ended = error
                ends = True
            over += [number] if ends else []
        if over:
            self._dismiss(over)

    def _dismiss(self, over: Sequence[int]) -> None:
        stay = [number for number in range(len(self.replicas)) if number not in over]
        if stay:
            self.program.write_back()
        self.program.release()
        for number in over:
            replica = self.replicas[number]
            replica.indices.close()
            if replica.ended is None:
                try:
                    replica.ended = replica.training.finish()
                except Exception as error:
                    replica.ended = error
        self.replicas = [self.replicas[number] for number in stay]
        if stay:
            self.loss_sums = self.loss_sums[stay]
            self._stack()

    def _is_stopped(self) -> bool:
        """Save those for which it is time, and all where the user wants to stop."""
        stop = self.callbacks.stop_requested()
        due = [m for m in self.replicas if stop or m.training.pace.is_due()]
        if due:
            self.program.write_back()
            for replica in due:
                replica.training.save(replica.rng(), at_once=stop)
        if stop:
            for replica in self.replicas:
                replica.ended = replica.training.interrupted()
        return stop


def _drawn_from(rng: dict[str, Tensor | list[Tensor]], device: torch.device) -> Tensor:
    """The state of the generator that a training on a device draws from."""
    state = rng["cuda"][device.index or 0] if device.type == "cuda" else rng["cpu"]
    assert isinstance(state, Tensor)
    return state
