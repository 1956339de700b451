"""What a preparation tells of itself while it runs."""

from collections.abc import Callable
from typing import NamedTuple


class RowsProgress(NamedTuple):
    """How far a stage is."""

    stage: str
    rows: int
    """Rows the stage has dealt with."""
    done: float
    """Share of the stage that is done, in `[0, 1]`; 0 where it cannot be told."""


OnRows = Callable[[RowsProgress], None]


def silent(_: RowsProgress) -> None:
    """Tell nobody."""
