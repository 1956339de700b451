"""Several trainings of one structure at once: what `training.fit` does, for all in one program.

Every training sees the batches, draws the dropout and takes the decisions that it would alone; only
the last bits of its weights may differ, since sums may be taken in another order. One that ends
leaves the stack.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from cvrbench.training.together.lane import Lane, n_lanes_of, run_lanes
from cvrbench.training.together.member import Ended, Member, is_stackable
from cvrbench.training.together.request import FitRequest
from cvrbench.training.together.saving import Apart


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
    members = {
        n: Member(request, request.outside.files.under_way())
        for n, request in enumerate(requests)
        if is_stackable(request.network, request.train, request.config)
        and not request.outside.files.finished_file.is_file()
    }
    kinds: dict[Hashable, list[int]] = {}
    for number, member in members.items():
        kinds.setdefault(member.kind, []).append(number)
    trained: dict[int, Trained] = {}
    for alike in kinds.values():
        if len(alike) > 1:
            _train([members[number] for number in alike])
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


def _train(members: Sequence[Member]) -> None:
    """Train members of one kind, on as many stacks as there are threads."""
    n = n_lanes_of(len(members), members[0].generator.device)
    run_lanes([Lane(list(members[lane::n]), Apart()) for lane in range(n)], of=n)
