"""Where a prediction is defined: the rows of every task, and of each product along its parents.

Rows are chosen by operators alone, so that it is done where the numbers lie, whether NumPy's arrays
hold them or torch's tensors.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import mul
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cvrbench.data.schema import Task, chain

Floats = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.uint8]


class Indexed(Protocol):
    """What an array and a tensor have in common, as far as it is needed here."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a column, or the rows of a mask."""
        ...


Array = TypeVar("Array", bound=Indexed)


class SpaceOf(NamedTuple, Generic[Array]):
    """One prediction: the rows on which it is defined, its label and its values there."""

    name: str
    rows: Array | None
    """`[rows]` bool; None: all."""
    label: Array
    predicted: Array
    truth: Array | None
    is_ratio: bool = False
    """Whether the label is a number from 0 to 1; else it is 0 or 1."""

    def take(self, values: Array) -> Array:
        """Return the values of the space's rows."""
        taken: Array = values if self.rows is None else values[self.rows]
        return taken


Space = SpaceOf[npt.NDArray[Any]]


def spaces(
    tasks: Sequence[Task],
    labels: Array,
    conditional: Array,
    joint: Array,
    truth: Array | None = None,
) -> Iterator[SpaceOf[Array]]:
    """Return every task, and every product along its parents, with its rows.

    Args:
        tasks: Each after its parent.
        labels: [rows, tasks], 0 or 1; of a ratio any number between.
        conditional: [rows, tasks], E(label | parent's label is 1), for 0 and 1 the probability.
        joint: [rows, tasks], the product along the chain of parents; for roots, `conditional`.
        truth: [rows, tasks], the same of planted data, where it is known.
    """
    for index, task in enumerate(tasks):
        *ancestors, _ = path = chain(tasks, index)
        label = labels[:, index]
        # Columns are joined one by one: NumPy is slow along so short an axis.
        seen = reduce(mul, [labels[:, i] for i in ancestors]) if ancestors else None
        rows = None if seen is None else seen == 1
        true = None if truth is None else truth[:, index]
        yield SpaceOf(task.name, rows, label, conditional[:, index], true, task.is_ratio)
        if task.joint is not None:
            product = None if truth is None else reduce(mul, [truth[:, i] for i in path])
            all_of = label if seen is None else seen * label
            yield SpaceOf(task.joint, None, all_of, joint[:, index], product, task.is_ratio)
