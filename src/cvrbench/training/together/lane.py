"""Stacks that take their steps: one in each thread.

On a CPU with several threads each has a stack of its own, with a part of the trainings: threads
that had to meet at every small operation would mostly wait.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import torch

from cvrbench.threads import compute_alone
from cvrbench.training.schedule import count_steps, evaluation_steps
from cvrbench.training.together.member import Member
from cvrbench.training.together.program import Program
from cvrbench.training.together.saving import Saving

POLL_SECONDS = 0.2
"""How long a Ctrl-C may go unnoticed."""


def n_lanes_of(n_members: int, device: torch.device) -> int:
    """Say over how many lanes to spread members: the threads of a CPU."""
    return min(torch.get_num_threads() if device.type == "cpu" else 1, n_members)


def run_lanes(lanes: Sequence["Lane"], *, of: int) -> None:
    """Train the members of all lanes until every one has ended.

    Args:
        lanes: Those with something left to do.
        of: How many there were to begin with; of several each has one thread, also the last.
    """
    if of == 1:
        lanes[0].run()
        return
    halt = threading.Event()
    for lane in lanes:
        lane.halt = halt
    _share(lanes)

    def run_alone(lane: Lane) -> None:
        compute_alone()
        lane.run()

    with ThreadPoolExecutor(len(lanes)) as pool:
        left = {pool.submit(run_alone, lane): lane for lane in lanes}
        try:
            while left:  # the system may give a Ctrl-C to another thread than this
                done, _ = wait(left, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for one in done:
                    del left[one]
                    one.result()
                _share([*left.values()])
        except BaseException:  # a second Ctrl-C
            halt.set()
            raise


def _share(lanes: Sequence["Lane"]) -> None:
    """Have each count its part of the time that passes, and the first one tell how far it is."""
    for number, lane in enumerate(lanes):
        lane.n_lanes, lane.tells = len(lanes), number == 0


class Lane:
    """Members that take every step together.

    Args:
        members: Those that have not ended; all of one kind.
        saving: How they are kept.
    """

    def __init__(self, members: list[Member], saving: Saving) -> None:
        self.members, self.saving = members, saving
        self.n_lanes = 1
        """How many the machine's time is shared by."""
        self.halt = threading.Event()
        """Asks to stop, because another lane's failure has ended all."""
        self.tells = True
        """Whether it is this lane that tells how far all are."""
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
            if self.saving.fails_whole:
                self.halt.set()

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
            if self.tells:
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
                self.saving.fail(member, error)
                ends = True
            over += [number] if ends else []
        if over:
            self._dismiss(over)

    def _dismiss(self, over: Sequence[int]) -> None:
        stay = [number for number in range(len(self.members)) if number not in over]
        if stay:
            self.program.write_back()
        self.program.stack.release()
        for number in over:
            member = self.members[number]
            member.indices.close()
            if member.ended is None:
                self.saving.end(member)
        self.members = [self.members[number] for number in stay]
        if stay:
            self.loss_sums = self.loss_sums[stay]
            self._stack()

    def _is_stopped(self) -> bool:
        """Save those for which it is time, and all where the user wants to stop."""
        stop, halted = self.outside.stop_requested(), self.halt.is_set()
        due = self.members if stop else self.saving.due(self.members)
        if due and not halted:  # what has failed may be the data or the disk
            self.program.write_back()
            self.saving.save(due, at_once=stop)
        if stop or halted:
            for member in self.members:
                member.stop()
        return stop or halted
