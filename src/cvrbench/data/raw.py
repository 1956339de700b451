"""What a source hands to `prepare`: three tables and what their columns mean."""

from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True, kw_only=True)
class RawSplits:
    """The rows of one dataset, split, cleaned and accounted for, not yet encoded.

    Attributes:
        train, valid, test: Tables with the same columns; labels are integers 0 or 1.
        fields: The feature columns, in the order in which the model sees them.
        tasks: The tasks; `task.label` is a column.
        group: The column by which rows belong together (a user), if the data have one.
        group_disjoint: True when the split promises that no group is in two splits.
        unnested: True when the user chose to keep rows whose label is 1 and their parent's 0.
        truth: Per task the column of its true probability (given its parent), for planted data.
        accounting: Rows read, changed, and dropped by reason; `read` = kept + sum of `dropped: *`.
        sources: Raw files read: name -> sha256.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    fields: tuple[RawField, ...]
    tasks: tuple[Task, ...]
    group: str | None = None
    group_disjoint: bool = False
    unnested: bool = False
    truth: tuple[str, ...] | None = None
    accounting: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def splits(self) -> dict[str, pl.DataFrame]:
        """Give the three tables by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}
