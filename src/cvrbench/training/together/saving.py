"""How the trainings of a stack are kept: each in files of its own, or all in one.

Runs that train together are each a run: what one needs to go on is in its own folder. Trainings of
one run that are one program go on as they were, in the same stack at the same step, or their last
bits would be others: so they are saved in one file, at one moment.
"""

from collections.abc import Sequence
from typing import Protocol

from cvrbench.training.checkpoint import Pace, StageFiles
from cvrbench.training.together.member import Member
from cvrbench.training.under_way import result_of


class Saving(Protocol):
    """What a stack's lane asks for."""

    fails_whole: bool
    """Whether what fails ends all lanes."""

    def due(self, members: Sequence[Member]) -> Sequence[Member]:
        """Say which of those in the stack it is time to save."""
        ...

    def save(self, members: Sequence[Member], *, at_once: bool) -> None:
        """Save members that are due, or all."""
        ...

    def end(self, member: Member) -> None:
        """Leave the best weights in a member's network, and note how it ended."""
        ...

    def fail(self, member: Member, error: Exception) -> None:
        """Note why a member cannot go on, or raise it where then none shall."""
        ...


class Apart:
    """Every member in the files of its own stage."""

    fails_whole = False

    def due(self, members: Sequence[Member]) -> Sequence[Member]:
        """Say which of those in the stack it is time to save."""
        return [member for member in members if member.training.pace.is_due()]

    def save(self, members: Sequence[Member], *, at_once: bool) -> None:
        """Save each."""
        for member in members:
            member.training.save(member.rng(), at_once=at_once)

    def end(self, member: Member) -> None:
        """Leave the best weights in the network, and keep them on disk."""
        try:
            member.ended = member.training.finish()
        except Exception as error:
            member.ended = error

    def fail(self, member: Member, error: Exception) -> None:
        """Let the others go on."""
        member.ended = error


class AsOne:
    """All members of a crew in its files, those that have ended included.

    Args:
        crew: The members, in an order that is always the same.
        files: Of the crew.
        seconds: Least time between two saves.
    """

    fails_whole = True

    def __init__(self, crew: Sequence[Member], files: StageFiles, seconds: float) -> None:
        self.crew, self.files = tuple(crew), files
        self.pace = Pace(files, seconds)

    def due(self, members: Sequence[Member]) -> Sequence[Member]:
        """Say that it is time to save all, or none."""
        return members if self.pace.is_due() else ()

    def save(self, members: Sequence[Member], *, at_once: bool) -> None:
        """Save all, whoever is due."""
        del members
        trained = sum(member.training.trained for member in self.crew)
        state = [
            m.training.saved(m.rng()) if m.ended is None else m.training.ended() for m in self.crew
        ]
        self.pace.save({"members": state}, trained=trained, at_once=at_once)

    def end(self, member: Member) -> None:
        """Leave the best weights in the network; the last to end brings all to the disk."""
        member.ended = result_of(member.training.ended(), member.training.network)
        if all(other.ended is not None for other in self.crew):
            ended = [other.training.ended() for other in self.crew]
            self.files.save_finished({"members": ended})

    def fail(self, member: Member, error: Exception) -> None:
        """End all: the run that they belong to fails with it."""
        del member
        raise error
