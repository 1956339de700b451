"""Where a probability is defined: the rows of every task, and of each product along its parents."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.schema import Task, chain

Floats = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.uint8]


class Space(NamedTuple):
    """One probability: the rows on which it is defined, its label and its predictions there."""

    name: str
    rows: npt.NDArray[np.bool_] | None
    label: Bytes
    predicted: Floats
    truth: Floats | None

    def take(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Give the values of the space's rows."""
        return values if self.rows is None else values[self.rows]


def spaces(
    tasks: Sequence[Task],
    labels: Bytes,
    conditional: Floats,
    joint: Floats,
    truth: Floats | None = None,
) -> Iterator[Space]:
    """Give every task, and every product along its parents, with its rows.

    Args:
        tasks: Each after its parent.
        labels: [rows, tasks], 0 or 1.
        conditional: [rows, tasks], P(label | parent's label is 1).
        joint: [rows, tasks], the product along the chain of parents; for roots, `conditional`.
        truth: [rows, tasks], the true conditional probabilities of planted data.
    """
    for index, task in enumerate(tasks):
        *ancestors, _ = path = chain(tasks, index)
        label = labels[:, index]
        # Columns are joined one by one: NumPy is slow along so short an axis.
        rows = reduce(np.logical_and, [labels[:, i] == 1 for i in ancestors]) if ancestors else None
        true = None if truth is None else truth[:, index]
        yield Space(task.name, rows, label, conditional[:, index], true)
        if task.joint is not None:
            product = None if truth is None else reduce(np.multiply, [truth[:, i] for i in path])
            all_of = label == 1 if rows is None else rows & (label == 1)
            yield Space(task.joint, None, all_of.view(np.uint8), joint[:, index], product)
