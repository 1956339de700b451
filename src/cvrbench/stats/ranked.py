"""Rows sorted once by group and score, so that weighted wins are sums over them."""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class Ranked(NamedTuple):
    """An order of the rows; a block of it holds the rows of one group that share one score."""

    order: Ints
    """`[rows]`: by group, then by score."""
    blocks: Ints
    """`[blocks]`: where each begins in that order."""
    starts: Ints
    """`[groups]`: the first block of each group."""

    @classmethod
    def of(
        cls,
        labels: Array,
        scores: Array,
        groups: Array | None = None,
        by_score: Ints | None = None,
    ) -> Self:
        """Sort; without groups all rows are one.

        Args:
            labels: `[rows]`.
            scores: `[rows]`.
            groups: `[rows]`, any sortable codes; of 16 bits they are sorted by counting.
            by_score: `[rows]`, the scores' order from low to high where it is at hand.

        Raises:
            ValueError: Lengths differ, or a score is NaN.
        """
        if not len(labels) or labels.shape != scores.shape or np.isnan(scores).any():
            raise ValueError(
                f"labels {labels.shape} and scores {scores.shape} must be [rows] both, without NaN"
            )
        order = np.argsort(scores) if by_score is None else by_score
        if groups is not None:
            order = order[np.argsort(groups[order], kind="stable")]
        score = scores[order]
        new_block = np.append(True, score[1:] != score[:-1])
        if groups is None:
            blocks = np.flatnonzero(new_block)
            return cls(order, blocks, np.zeros(1, np.int64))
        group = groups[order]
        new_group = np.append(True, group[1:] != group[:-1])
        blocks = np.flatnonzero(new_group | new_block)
        return cls(order, blocks, np.flatnonzero(new_group[blocks]))

    def add(self, weights: Array) -> Array:
        """Sum weights `[rows]`, in this order, over each block."""
        return np.add.reduceat(weights, self.blocks)

    def per_group(self, values: Array) -> Array:
        """Sum values `[blocks]` over each group."""
        return np.add.reduceat(values, self.starts)

    def before(self, values: Array) -> Array:
        """Sum values `[blocks]` over the blocks of the same group with lower scores."""
        running = np.cumsum(values) - values
        return running - self.over_blocks(running[self.starts])

    def over_blocks(self, values: Array) -> Array:
        """Repeat values `[..., groups]` over each group's blocks."""
        sizes = np.diff(np.append(self.starts, len(self.blocks)))
        return np.repeat(values, sizes, axis=-1)

    def over_rows(self, values: Array) -> Array:
        """Repeat values `[..., blocks]` over each block's rows, in this order."""
        sizes = np.diff(np.append(self.blocks, len(self.order)))
        return np.repeat(values, sizes, axis=-1)
