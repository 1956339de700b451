"""What a source hands to `prepare`: rows in chunks, and what their columns mean."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import polars as pl

from cvrbench.data.schema import Task

DEFAULT_MOST = 1000


class RowsProgress(NamedTuple):
    """How far one stage of a preparation is."""

    stage: str
    rows: int
    """Rows the stage has dealt with."""
    done: float
    """Share of the stage that is done, in `[0, 1]`; 0 where the total is unknown."""


OnRows = Callable[[RowsProgress], None]


def silent(_: RowsProgress) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Tolerance:
    """`stop` at the first faulty line of a raw file, or `skip` up to `most` and count each."""

    on_error: Literal["stop", "skip"] = "stop"
    most: int = DEFAULT_MOST

    @property
    def limit(self) -> int:
        """Number of faulty lines at which a preparation stops."""
        return 1 if self.on_error == "stop" else self.most + 1


STRICT = Tolerance()


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


def feature_fields(
    ids: Sequence[str], *, lists: Sequence[str] = (), numbers: Sequence[str] = (), min_count: int
) -> tuple[RawField, ...]:
    """Return the fields of id columns, list columns and numeric columns, in this order."""
    return (
        *(RawField(name=name, kind="categorical", min_count=min_count) for name in ids),
        *(RawField(name=name, kind="multivalued", min_count=min_count) for name in lists),
        *(RawField(name=name, kind="numeric") for name in numbers),
    )


def click_conversion(click: str, conversion: str) -> tuple[Task, Task]:
    """Return the tasks `ctr` and, given a click, `cvr` of two label columns."""
    return (
        Task(name="ctr", label=click),
        Task(name="cvr", label=conversion, parent="ctr", joint="ctcvr"),
    )


class Chunk(NamedTuple):
    """Some rows of one split, at most a few hundred thousand; labels are integers 0 or 1."""

    split: str
    """train, valid or test."""
    frame: pl.DataFrame


Chunks = Callable[[Counter[str]], Iterator[Chunk]]


@dataclass(frozen=True, kw_only=True)
class RawStream:
    """The rows of one dataset, split and cleaned, not yet encoded, a chunk at a time.

    Attributes:
        chunks: Reads the rows from the first to the last, the same at every call; counts into its
            argument rows read, changed, and dropped by reason, so that in the end
            `read` = kept + sum of `dropped: *`.
        fields: The feature columns, in the order in which the model sees them.
        tasks: The tasks; `task.label` is a column.
        group: The column by which rows belong together (a user), if the data have one.
        group_disjoint: True when the split promises that no group is in two splits.
        unnested: True when the user chose to keep rows whose label is 1 and their parent's 0.
        truth: Per task the column of its true probability (given its parent), for planted data.
        sources: Raw files read: name -> sha256.
    """

    chunks: Chunks
    fields: tuple[RawField, ...]
    tasks: tuple[Task, ...]
    group: str | None = None
    group_disjoint: bool = False
    unnested: bool = False
    truth: tuple[str, ...] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
