"""A dataset's fields, its tasks and the spaces in which the tasks are defined.

Strategies, objectives and metrics know nothing else of a dataset.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Literal, Self

from pydantic import TypeAdapter

PAD, MISSING, OOV = 0, 1, 2
"""Reserved ids of every vocabulary: no value here, value absent, value not in the vocabulary."""
N_RESERVED = 3


@dataclass(frozen=True, kw_only=True)
class _IdField:
    """A field of ids in `[0, size)`; the first `N_RESERVED` ids are reserved."""

    name: str
    size: int
    shares: str | None = field(default=None, repr=False)
    """Field whose vocabulary, and rows of the embedding table, this one has; None: its own."""
    typed: bool | None = field(default=None, repr=False)
    """Whether the raw values were numbers or flags by type; False: text; None: not known."""

    @property
    def vocabulary(self) -> str:
        """Name of the field's vocabulary."""
        return self.shares or self.name


@dataclass(frozen=True, kw_only=True)
class Categorical(_IdField):
    """A field with one id per row."""

    bounds: tuple[float, ...] | None = field(default=None, repr=False)
    """Bounds between the buckets of a number, if the training rows told them."""


@dataclass(frozen=True, kw_only=True)
class MultiValued(_IdField):
    """A field with a weighted bag of ids per row."""

    pool: Literal["mean", "sum"] = "mean"
    """Whether a bag counts as the weighted mean of its values, or as their weighted sum: a bag of
    one value keeps its weight only in a sum."""
    shared: bool = False
    """Whether many rows have one bag (the user's history, on every row of a page view): it is then
    stored once per context, and `contexts` says which one a row has."""


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A number per row, standardised by the mean and deviation of the training split."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A vector per row, such as a pre-trained embedding, standardised number by number."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return len(self.mean)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One label to predict."""

    name: str
    """Short name used in metrics: `ctr`, `cvr`, `income`."""
    label: str
    """The label's column in the raw table."""
    parent: str | None = None
    """The task whose label must be 1 for this one to be defined, if any. CVR has parent `ctr`: it
    is a probability *given a click*."""
    joint: str | None = None
    """Name of the product along the chain of parents, a probability over all exposures (`ctcvr`);
    set exactly when `parent` is."""
    kind: Literal["binary", "ratio"] = field(default="binary", repr=False)
    """Whether the label is 0 or 1, or any number from 0 to 1 (the share of a video that was
    watched). A ratio's prediction is its mean E[label | parent's label is 1], and its joint one
    E[product of the labels along the chain]."""

    @property
    def is_ratio(self) -> bool:
        """Whether the label is a number from 0 to 1."""
        return self.kind == "ratio"

    @property
    def plain(self) -> dict[str, Any]:
        """Plain form; of a binary task as before there were ratios."""
        return {key: v for key, v in asdict(self).items() if (key, v) != ("kind", "binary")}


def gap_name(number: str) -> str:
    """Return the name of the column that says where a number is absent."""
    return f"{number} is missing"


def chain(tasks: Sequence[Task], task: int) -> tuple[int, ...]:
    """Indices of the tasks from the root down to and including `task`."""
    names = [t.name for t in tasks]
    path = [task]
    while (parent := tasks[path[0]].parent) is not None:
        path.insert(0, names.index(parent))
    return tuple(path)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Fields, tasks and sizes of one prepared dataset."""

    name: str
    categorical: tuple[Categorical, ...]
    multivalued: tuple[MultiValued, ...]
    numeric: tuple[Numeric, ...]
    tasks: tuple[Task, ...]
    group: str | None
    rows: dict[str, int]
    fingerprint: str
    vectors: tuple[Vector, ...] = ()

    @property
    def id_fields(self) -> tuple[Categorical | MultiValued, ...]:
        """Fields with a vocabulary, in the order in which they share one embedding table."""
        return (*self.categorical, *self.multivalued)

    @property
    def n_numbers(self) -> int:
        """Numbers of a row: the numeric fields, then every vector's."""
        return len(self.numeric) + sum(vector.width for vector in self.vectors)

    @property
    def vocabulary_size(self) -> int:
        """Rows of one embedding table that serves every field."""
        return sum({field.vocabulary: field.size for field in self.id_fields}.values())

    @property
    def starts(self) -> dict[str, int]:
        """Row of the one table in which each field's vocabulary begins, by the field's name."""
        sizes = {field.vocabulary: field.size for field in self.id_fields}
        begin = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
        return {field.name: begin[field.vocabulary] for field in self.id_fields}

    @property
    def gaps(self) -> dict[str, str]:
        """Numeric columns that say where another is absent: name -> the other's name."""
        names = {field.name for field in self.numeric}
        return {gap: name for name in names if (gap := gap_name(name)) in names}

    def chain(self, task: int) -> tuple[int, ...]:
        """Indices of the tasks from the root down to and including `task`."""
        return chain(self.tasks, task)

    @property
    def has_ratios(self) -> bool:
        """Whether a label is no mere 0 or 1, so that labels are kept as numbers."""
        return any(task.is_ratio for task in self.tasks)

    @property
    def parents(self) -> list[int | None]:
        """Index of each task's parent, None of a root's; a parent stands before its children."""
        chains = [self.chain(task) for task in range(len(self.tasks))]
        return [path[-2] if len(path) > 1 else None for path in chains]

    def __post_init__(self) -> None:
        """Refuse tasks whose chain of parents does not end, and two things of one name."""
        names = [task.name for task in self.tasks]
        for position, task in enumerate(self.tasks):
            if names.count(task.name) > 1 or task.parent not in {None, *names[:position]}:
                raise ValueError(f"task {task.name!r}, or its parent, is no task before it")
            parent = next((other for other in self.tasks if other.name == task.parent), task)
            if parent is not task and parent.is_ratio:
                raise ValueError(
                    f"task {task.name!r} has the ratio {parent.name!r} as its parent; a parent's "
                    "label is 0 or 1"
                )
        outputs = names + [task.joint for task in self.tasks if task.joint is not None]
        fields = [field.name for field in (*self.id_fields, *self.numeric, *self.vectors)]
        labels = [task.label for task in self.tasks]
        for kind, found in (("output", outputs), ("field", fields), ("label", labels)):
            if twice := [name for name in found if found.count(name) > 1]:
                raise ValueError(f"two things have the {kind} name {twice[0]!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return the schema of a plain form.

        Raises:
            ValueError: A key is missing, or a value of another type.
        """
        schema: Self = TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
        return schema
