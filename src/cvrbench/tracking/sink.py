"""What every tracker is told, and what it must be able to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, kw_only=True)
class About:
    """What is told of a run as it begins."""

    run_id: str
    config: Mapping[str, object]
    """Flat: `{"model.hidden": [128, 64], ...}`; without the places where files lie."""
    tags: Mapping[str, str]
    """Dataset, model, seed, fingerprint of the data, versions."""


class Earlier(NamedTuple):
    """What an earlier process told the tracker of the same run."""

    run: str
    """What `Sink.begin` gave then."""
    step: int
    """Of the last look that was told, -1 without one."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What is told of a run that has a record."""

    values: Mapping[str, float]
    """`test/ctr_auc`, `best_valid/ctr_auc`, `cost/parameters`, ..."""
    step: int
    """Of the last look."""
    record: str
    """The whole record, as the JSON in the run's folder."""


class Sink(Protocol):
    """A tracker's side of one run. Whatever goes wrong in it may be raised; it ends the telling."""

    def begin(self, about: About, earlier: Earlier | None) -> str:
        """Open the run, or go on with an earlier process's; give the tracker's name for it."""

    def look(self, values: Mapping[str, float], step: int) -> None:
        """Take the metrics of a look at validation; steps only grow."""

    def end(self, finished: Finished | None) -> None:
        """Close the run; None if it stopped before its end."""
