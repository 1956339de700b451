"""Several trainings of one structure at once: what `training.fit` does, for all in one program.

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
from cvrbench.rng import derive
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.fit import get_rng
from cvrbench.training.schedule import count_steps, evaluation_steps, rate_factor
from cvrbench.training.together.program import Program
from cvrbench.training.together.request import FitRequest
from cvrbench.training.together.stack import can_stack
from cvrbench.training.under_way import FitResult, UnderWay

Ended = FitResult | BaseException
"""How a training ended: with a result, or why there is none."""


class Trained(NamedTuple):
    """One of the trainings asked for."""

    ended: Ended
    """Its result, or what `fit` would have raised."""
    n_together: int = 1
    """How many trainings began in one program with it, itself included."""


def fit_together(requests: Sequence[FitRequest]) -> list[Trained]:
    """Train as `fit` would each; those that allow it in one program.

    Args:
        requests: Trainings of runs that differ in nothing but their seed, so that networks of one
            type whose weights have the same names and shapes compute the same.

    Returns:
        What became of each, in their order.
    """
    members = {
        n: Member(request, request.outside.files.under_way())
        for n, request in enumerate(requests)
        if is_stackable(request) and not request.outside.files.finished_file.is_file()
    }
    kinds: dict[Hashable, list[int]] = {}
    for number, member in members.items():
        kinds.setdefault(member.kind, []).append(number)
    trained: dict[int, Trained] = {}
    for alike in kinds.values():
        if len(alike) > 1:
            _StackedFit([members[number] for number in alike]).run()
            for number in alike:
                ended = members[number].ended
                assert ended is not None
                trained[number] = Trained(ended, len(alike))
    return [trained.get(n) or Trained(_attempt(request)) for n, request in enumerate(requests)]


def is_stackable(request: FitRequest) -> bool:
    """Whether a training can be part of a program of several."""
    in_memory, config = isinstance(request.train, SplitTensors), request.config
    plain = in_memory and config.precision == "fp32" and not config.compile
    return plain and request.task.balancing.stackable and can_stack(request.network)


def _attempt(request: FitRequest) -> Ended:
    try:
        return request.alone()
    except BaseException as error:
        return error


class Member:
    """A training under way in a stack: everything about it that is its own.

    Args:
        request: What to train.
        saved: Where it was, as `UnderWay.saved` returns it; None: it begins.
    """

    def __init__(self, request: FitRequest, saved: Mapping[str, Any] | None) -> None:
        network, train, valid, task, config, _, seed, outside = request
        self.request = request
        self.ended: Ended | None = None
        assert isinstance(train, SplitTensors)
        self.train, device = train, train.device
        self.training, rng = UnderWay.begin(network, train, valid, task, config, outside, saved)
        state = self.training.state
        self.generator = torch.Generator(device)
        self.generator.manual_seed(derive(seed, "fit", outside.stage))
        if rng is not None:
            self.generator.set_state(_drawn_from(rng, device))
        epoch, step = state.epoch, state.step_in_epoch
        self.indices = train.indices(config.batch_size, seed, epoch=epoch, step=step)
        self.settles = type(network).after_step is not SharingStrategy.after_step
        network.train()

    @property
    def kind(self) -> Hashable:
        """What members of one program have in common, beside their run's configuration."""
        request = self.request
        weights = request.network.state_dict().items()
        shapes = tuple((name, tuple(t.shape), t.dtype) for name, t in weights)
        code = type(request.network), type(request.task.objective), type(request.task.balancing)
        return code, shapes, request.epochs, len(request.train), self.training.state.step

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
    """The steps of a stack until every member has ended.

    Args:
        members: Those that have not ended; all of one kind.
    """

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        request = members[0].request
        self.config, self.train, self.outside = request.config, request.train, request.outside
        self.n_steps = count_steps(len(self.train), self.config.batch_size, 1)
        self.total_steps = count_steps(len(self.train), self.config.batch_size, request.epochs)
        self.evaluate_at = evaluation_steps(self.n_steps, self.config.evaluations_per_epoch)

    def run(self) -> None:
        """Train; an error of the program, such as too little memory, is the end of every member."""
        try:
            self._run()
        except BaseException as error:
            for member in self.members:
                member.ended = error

    def _run(self) -> None:
        first = self.members[0].training.state.step + 1
        self.loss_sums = torch.zeros(len(self.members), device=self.train.device)
        self._stack()
        for step in range(first, self.total_steps + 1):
            epoch, place = divmod(step - 1, self.n_steps)
            self._step(step, epoch, place)
            self._look(is_due=place + 1 in self.evaluate_at, is_last=step == self.total_steps)
            if not self.members:
                return
            self.members[0].training.report(self.total_steps)
            if self._is_stopped():
                return

    def _stack(self) -> None:
        self.program = Program(
            [member.request for member in self.members],
            [member.train for member in self.members],
            [member.generator for member in self.members],
            [member.training.optimizers for member in self.members],
        )

    def _step(self, step: int, epoch: int, place: int) -> None:
        begun = time.monotonic()
        index = torch.stack([next(member.indices) for member in self.members])
        factor = rate_factor(self.config.schedule, step, self.total_steps)
        self.program.optimizers.set_rate(factor)
        self.loss_sums += self.program.step(index)
        seconds = (time.monotonic() - begun) / len(self.members)
        for member in self.members:
            member.count(step, (epoch, place + 1), n_rows=index.shape[1], seconds=seconds)

    def _look(self, *, is_due: bool, is_last: bool) -> None:
        """Do what is due after a step; members that have ended leave the stack."""
        over = []
        for number, member in enumerate(self.members):
            try:
                ends = member.look(self.loss_sums[number], is_due=is_due, is_last=is_last)
            except Exception as error:  # its own end, not that of the others
                member.ended = error
                ends = True
            over += [number] if ends else []
        if over:
            self._dismiss(over)

    def _dismiss(self, over: Sequence[int]) -> None:
        stay = [number for number in range(len(self.members)) if number not in over]
        if stay:
            self.program.write_back()
        self.program.release()
        for number in over:
            member = self.members[number]
            member.indices.close()
            if member.ended is None:
                try:
                    member.ended = member.training.finish()
                except Exception as error:
                    member.ended = error
        self.members = [self.members[number] for number in stay]
        if stay:
            self.loss_sums = self.loss_sums[stay]
            self._stack()

    def _is_stopped(self) -> bool:
        """Save those for which it is time, and all where the user wants to stop."""
        stop = self.outside.stop_requested()
        due = [m for m in self.members if stop or m.training.pace.is_due()]
        if due:
            self.program.write_back()
            for member in due:
                member.training.save(member.rng(), at_once=stop)
        if stop:
            for member in self.members:
                member.ended = member.training.interrupted()
        return stop


def _drawn_from(rng: dict[str, Tensor | list[Tensor]], device: torch.device) -> Tensor:
    """The state of the generator that a training on a device draws from."""
    state = rng["cuda"][device.index or 0] if device.type == "cuda" else rng["cpu"]
    assert isinstance(state, Tensor)
    return state
