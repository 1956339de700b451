"""What a source hands to `prepare`: tables and what their columns mean.

A log that fits in memory comes as `RawSplits`, three tables; a larger one as `RawStream`, which
can be read through twice, piece by piece.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

import polars as pl

from cvrbench.data.schema import Task


@dataclass(frozen=True, kw_only=True)
class RawField:
    """A feature column of the raw tables.

    Attributes:
        name: The column. A multi-valued one is a list column; an optional list column of the same
            lengths named `<name>__weight` holds the weights (1 without it).
        kind: How the column is encoded.
        min_count: Values seen fewer times than this in the training split become OOV.
    """

    name: str
    kind: Literal["categorical", "multivalued", "numeric"]
    min_count: int = 1


class Chunk(NamedTuple):
    """Some rows of one split, at most a few hundred thousand; labels are integers 0 or 1."""

    split: str
    """train, valid or test."""
    frame: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the columns of a dataset's tables mean.

    Attributes:
        fields: The feature columns, in the order in which the model sees them.
        tasks: The tasks; `task.label` is a column.
        group: The column by which rows belong together (a user), if the data have one.
        group_disjoint: True when the split promises that no group is in two splits.
        unnested: True when the user chose to keep rows whose label is 1 and their parent's 0.
        truth: Per task the column of its true probability (given its parent), for planted data.
        sources: Raw files read: name -> sha256.
    """

    fields: tuple[RawField, ...]
    tasks: tuple[Task, ...]
    group: str | None = None
    group_disjoint: bool = False
    unnested: bool = False
    truth: tuple[str, ...] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RawStream(Meaning):
    """The rows of one dataset, split and cleaned, not yet encoded, a chunk at a time.

    Attributes:
        chunks: Reads the rows from the first to the last, as often as it is called the same; counts
            into its argument rows read, changed, and dropped by reason, so that in the end
            `read` = kept + sum of `dropped: *`.
    """

    chunks: Callable[[Counter[str]], Iterator[Chunk]]


@dataclass(frozen=True, kw_only=True)
class RawSplits(Meaning):
    """The rows of one dataset, split, cleaned and accounted for, not yet encoded.

    Attributes:
        train, valid, test: Tables with the same columns; labels are integers 0 or 1.
        accounting: Rows read, changed, and dropped by reason; `read` = kept + sum of `dropped: *`.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    accounting: Mapping[str, int] = field(default_factory=dict)

    def splits(self) -> dict[str, pl.DataFrame]:
        """Give the three tables by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def stream(self) -> RawStream:
        """Give the three tables as a stream of three chunks."""

        def chunks(account: Counter[str]) -> Iterator[Chunk]:
            account.update(self.accounting)
            return (Chunk(name, frame) for name, frame in self.splits().items())

        meaning = {part.name: getattr(self, part.name) for part in fields(Meaning)}
        return RawStream(chunks=chunks, **meaning)


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


DEFAULT_MOST = 1000


@dataclass(frozen=True)
class Tolerance:
    """`stop` at the first faulty line, or `skip` up to `most` of them and account for each."""

    on_error: Literal["stop", "skip"] = "stop"
    most: int = DEFAULT_MOST

    @property
    def limit(self) -> int:
        """So many faults are too many."""
        return 1 if self.on_error == "stop" else self.most + 1


STRICT = Tolerance()
