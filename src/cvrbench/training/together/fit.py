"""Several trainings of one structure at once: what `training.fit` does, for all in one program.

Every training sees the batches, draws the dropout and takes the decisions that it would alone; only
the last bits of its weights may differ, since sums may be taken in another order. One that ends
leaves the stack. On a CPU with several threads each has a stack of its own, with a part of the
trainings: threads that had to meet at every small operation would mostly wait.
"""

import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from cvrbench.training.schedule import count_steps, evaluation_steps
from cvrbench.training.together.member import Ended, Member, is_stackable
from cvrbench.training.together.program import Program
from cvrbench.training.together.request import FitRequest


class Trained(NamedTuple):
    """One of the trainings asked for."""

    ended: Ended
    """Its result, or what `fit` would have raised."""
    n_together: int = 1
    """How many trainings began in one program with it, itself included."""


def fit_together(requests: Sequence[FitRequest]) -> list[Trained]:
    """Train as `fit` would each; those that allow it in one program.

    Args:
        requests: Of runs that differ in nothing but their seed, so that networks of one type whose
            weights have the same names and shapes compute the same.

    Returns:
        What became of each, in their order.
    """
    members = {n: Member(request) for n, request in enumerate(requests) if is_stackable(request)}
    kinds: dict[Hashable, list[int]] = {}
    for number, member in members.items():
        kinds.setdefault(member.kind, []).append(number)
    trained: dict[int, Trained] = {}
    for alike in kinds.values():
        if len(alike) > 1:
            _train_all([members[number] for number in alike])
            for number in alike:
                ended = members[number].ended
                assert ended is not None
                trained[number] = Trained(ended, len(alike))
    return [trained.get(n) or Trained(_attempt(request)) for n, request in enumerate(requests)]


def _attempt(request: FitRequest) -> Ended:
    try:
        return request.alone()
    except BaseException as error:
        return error


def _train_all(members: Sequence[Member]) -> None:
    """Train members of one kind, on as many stacks as there are threads."""
    on_cpu = members[0].generator.device.type == "cpu"
    n_lanes = min(torch.get_num_threads() if on_cpu else 1, len(members))
    halt = threading.Event()
    lanes = [_Lane(list(members[n::n_lanes]), n_lanes, halt) for n in range(n_lanes)]
    if n_lanes == 1:
        lanes[0].run()
        return
    with ThreadPoolExecutor(n_lanes) as pool:
        try:
            list(pool.map(_run_alone, lanes))
        except BaseException:  # a second Ctrl-C
            halt.set()
            raise


def _run_alone(lane: "_Lane") -> None:
    """Run a lane in a thread that has no others to help it."""
    torch.set_num_threads(1)  # of this thread; the others keep theirs
    lane.run()


class _Lane:
    """Members that take every step together.

    Args:
        members: All of one kind.
        n_lanes: How many the machine's time is shared by.
        halt: Asks to stop, as the user's wish does.
    """

    def __init__(self, members: list[Member], n_lanes: int, halt: threading.Event) -> None:
        self.members, self.n_lanes, self.halt = members, n_lanes, halt
        request = members[0].request
        self.config, self.train, self.outside = request.config, request.train, request.outside
        self.n_steps = count_steps(len(self.train), self.config.batch_size, 1)
        self.total_steps = count_steps(len(self.train), self.config.batch_size, request.epochs)
        self.evaluate_at = evaluation_steps(self.n_steps, self.config.evaluations_per_epoch)

    def run(self) -> None:
        """Train until every member has ended."""
        try:
            self._run()
        except BaseException as error:  # out of memory, or a second Ctrl-C
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
        self.loss_sums += self.program.step(index)
        seconds = time.monotonic() - begun
        for member in self.members:
            member.count(
                step,
                (epoch, place + 1),
                n_rows=index.shape[1],
                seconds=seconds / (len(self.members) * self.n_lanes),
            )

    def _look(self, *, is_due: bool, is_last: bool) -> None:
        """Do what is due after a step; members that have ended leave the stack."""
        over = []
        for number, member in enumerate(self.members):
            try:
                ends = member.look(self.loss_sums[number], is_due=is_due, is_last=is_last)
            except Exception as error:
                member.ended, ends = error, True
            over += [number] if ends else []
        if over:
            self._dismiss(over)

    def _dismiss(self, over: Sequence[int]) -> None:
        stay = [number for number in range(len(self.members)) if number not in over]
        if stay:
            self.program.write_back()
        self.program.stack.release()
        for number in over:
            self.members[number].finish()
        self.members = [self.members[number] for number in stay]
        if stay:
            self.loss_sums = self.loss_sums[stay]
            self._stack()

    def _is_stopped(self) -> bool:
        """Save those for which it is time, and all where the user wants to stop."""
        stop = self.outside.stop_requested() or self.halt.is_set()
        if due := [member for member in self.members if stop or member.training.pace.is_due()]:
            self.program.write_back()
            for member in due:
                member.save(at_once=stop)
        if stop:
            for member in self.members:
                member.stop()
        return stop
