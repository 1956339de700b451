"""Where a probability is defined: the rows of every task, and of each product along its parents."""

from collections.abc import Iterator, Sequence
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
        path = list(chain(tasks, index))
        ancestors: npt.NDArray[np.bool_] = np.all(labels[:, path[:-1]], axis=1)
        rows = None if task.parent is None else ancestors
        true = None if truth is None else truth[:, index]
        yield Space(task.name, rows, labels[:, index], conditional[:, index], true)
        if task.joint is not None:
            product = None if truth is None else truth[:, path].prod(axis=1)
            all_of = (ancestors & (labels[:, index] == 1)).astype(np.uint8)
            yield Space(task.joint, None, all_of, joint[:, index], product)
