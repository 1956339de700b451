"""Several trainings of one run as one program: candidates of a mask search, the tasks' searches.

A crew is what one thread trains: one stack, and one stage of the run, whose files hold all of it.
So a run that was stopped goes on with the same stacks at the same steps, and ends bit for bit where
it would have. With another number of threads the crews are others, and begin anew.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Rows
from cvrbench.errors import RunInterrupted
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.progress import Progress
from cvrbench.training.together.lane import Lane, n_lanes_of, run_lanes
from cvrbench.training.together.member import Ended, Member, is_stackable, kind_of
from cvrbench.training.together.pays import most_of
from cvrbench.training.together.request import FitRequest
from cvrbench.training.together.saving import AsOne
from cvrbench.training.under_way import FitResult, State, result_of

Crew = Sequence[FitRequest]
"""Trainings that are one stack, and have their files in common."""


def go_as_one(requests: Sequence[FitRequest]) -> bool:
    """Say whether trainings can be one program."""
    alike = len(set(map(kind_of, requests))) == 1
    return alike and all(is_stackable(r.network, r.train, r.config) for r in requests)


def most_at_once(network: SharingStrategy, rows: Rows, config: TrainerConfig, n: int) -> int:
    """Say how many of n such trainings of one run to have at once; 1 where nothing is gained."""
    return most_of(network, config, rows.device, n) if is_stackable(network, rows, config) else 1


def crews_of(requests: Sequence[FitRequest]) -> list[Crew]:
    """Part trainings into as many crews as there are threads."""
    n = n_lanes_of(len(requests), requests[0].train.device)
    on_progress = requests[0].outside.on_progress

    def on_progress_of_all(now: Progress) -> None:
        on_progress(replace(now, stage=f"{now.stage} and {len(requests) - 1} more"))

    crews: list[Crew] = []
    for number in range(n):
        files = replace(requests[0].outside.files, crew=f"{number + 1}-of-{n}")
        crews.append(
            [
                r._replace(outside=r.outside._replace(files=files, on_progress=on_progress_of_all))
                for r in requests[number::n]
            ]
        )
    return crews


def fit_crews(crews: Sequence[Crew]) -> list[FitResult]:
    """Train crews at the same time, or answer them from their files; one of one as `fit` does.

    Returns:
        The results, in the order of what `crews_of` parted.

    Raises:
        RunError, RunInterrupted: As `fit`.
    """
    if [len(crew) for crew in crews] == [1]:
        return [crews[0][0].alone()]
    answered = [_answer(crew) for crew in crews]
    begun = [
        _begin(crew) if found is None else [] for crew, found in zip(crews, answered, strict=True)
    ]
    lanes = [_lane(crew, members) for crew, members in zip(crews, begun, strict=True) if members]
    if lanes:
        run_lanes(lanes, of=len(crews))
    ended = [
        found or [member.ended for member in members]
        for found, members in zip(answered, begun, strict=True)
    ]
    return _in_order(ended)


def _answer(crew: Crew) -> list[Ended | None] | None:
    """Give the results that a crew's files hold, if it has ended."""
    if (done := crew[0].outside.files.finished()) is None:
        return None
    pairs = zip(done["members"], crew, strict=True)
    return [result_of(ended, request.network) for ended, request in pairs]


def _begin(crew: Crew) -> list[Member]:
    """Begin a crew, or where it was when it was saved."""
    if (saved := crew[0].outside.files.under_way()) is None:
        return [Member(request, None) for request in crew]
    return [_go_on(request, one) for request, one in zip(crew, saved["members"], strict=True)]


def _go_on(request: FitRequest, saved: Mapping[str, Any]) -> Member:
    if "network" in saved:
        return Member(request, saved)
    member = Member(request, None)
    training = member.training
    training.state, training.best = State(**saved["state"]), saved["best"]
    training.begun_with = training.state.seconds
    member.ended = result_of(saved, request.network)
    return member


def _lane(crew: Crew, members: Sequence[Member]) -> Lane:
    outside, seconds = crew[0].outside, crew[0].config.checkpoint_seconds
    left = [member for member in members if member.ended is None]
    return Lane(left, AsOne(members, outside.files, seconds))


def _in_order(ended: Sequence[Sequence[Ended | None]]) -> list[FitResult]:
    """Take the members' ends one of each crew in turn, as they were parted; raise what failed."""
    assert all(end is not None for crew in ended for end in crew)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ended))
    found = [end for end in turns if end is not None]
    failed = [end for end in found if isinstance(end, BaseException)]
    for error in sorted(failed, key=lambda error: isinstance(error, RunInterrupted)):
        raise error
    return [end for end in found if isinstance(end, FitResult)]
