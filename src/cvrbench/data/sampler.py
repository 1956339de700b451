"""The order of a training's rows: a function of seed, epoch and the split's sizes alone.

A split of up to `BLOCK_BYTES * WINDOW_BLOCKS` is permuted as a whole. A larger one is shuffled
blockwise: blocks of neighbouring rows are put in random order, and the rows of every
`WINDOW_BLOCKS` blocks, a window, are permuted. So a window is a sample of blocks from the whole
split, is all that a training needs at a time, and is read from disk in pieces of megabytes.

The order does not depend on whether the split is in memory or on disk: how much memory a machine
has changes no number.
"""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from cvrbench.data.dataset import Span, Split, spans_of
from cvrbench.data.schema import Schema
from cvrbench.system.rng import derive

BLOCK_BYTES = 2**22
"""Most bytes of a block on disk: read at once, they cost little more than a seek."""
WINDOW_BLOCKS = 64
"""Blocks whose rows are permuted together; two windows are in memory at a time, half a GiB."""


class Shape(NamedTuple):
    """Sizes of a split on disk, without shared bags."""

    rows: int
    columns: int
    """Columns of four bytes: categorical and numeric fields, and the context if there is one."""
    tasks: int
    bags: int = 0
    """Multi-valued fields whose bags are not shared."""
    values: int = 0
    """Values in all their bags."""

    @classmethod
    def of(cls, split: Split, schema: Schema) -> Self:
        """Return the sizes of a prepared split."""
        bags = zip(split.bags, schema.multivalued, strict=True)
        own = [bag for bag, field in bags if not field.shared]
        columns = split.ids.shape[1] + split.numeric.shape[1] + (split.contexts is not None)
        n_values = sum(len(bag.ids) for bag in own)
        return cls(len(split), columns, split.labels.shape[1], len(own), n_values)

    @property
    def n_bytes(self) -> int:
        """Bytes of all arrays that a training reads."""
        return self.rows * (4 * self.columns + self.tasks + 8 * self.bags) + 8 * self.values

    @property
    def block(self) -> int:
        """Rows of a block, a power of two."""
        per_row = max(1, self.n_bytes // max(self.rows, 1))
        return 1 << max(0, (BLOCK_BYTES // per_row).bit_length() - 1)

    @property
    def n_blocks(self) -> int:
        """Blocks of the split."""
        return -(-self.rows // self.block)


class Window(NamedTuple):
    """Some blocks, and the order of their rows."""

    epoch: int
    blocks: Tensor
    """Their numbers, ascending."""
    order: Tensor
    """`[rows]`: position of each row among the rows of the blocks in ascending order."""
    is_last: bool
    """Whether the epoch ends with this window."""
    block: int
    """Rows of a block; the split's last may have fewer."""

    @property
    def rows(self) -> Tensor:
        """`[rows]`: the number of each row in the split."""
        if len(self.blocks) == 1 + int(self.blocks[-1]):  # all blocks up to the last
            return self.order
        block = torch.div(self.order, self.block, rounding_mode="floor")
        return self.blocks[block] * self.block + self.order % self.block

    def spans(self, n_rows: int) -> list[Span]:
        """Return the spans of the window's rows in a split of `n_rows`, ascending."""
        spans = spans_of(self.blocks.numpy())
        return [(start * self.block, min(stop * self.block, n_rows)) for start, stop in spans]


def windows(shape: Shape, seed: int, *, epoch: int = 0, skip: int = 0) -> Iterator[Window]:
    """Yield the windows of a training, epoch after epoch without end.

    Args:
        shape: The split's sizes.
        seed: The run's; strategies compared under one seed see the same order.
        epoch: The first epoch.
        skip: Rows of the first epoch that were taken already.
    """
    for number in count(epoch):
        yield from _epoch(shape, seed, number, skip)
        skip = 0


def batches(
    shape: Shape, size: int, seed: int, device: torch.device, *, epoch: int = 0, step: int = 0
) -> Generator[Tensor]:
    """Yield the row numbers of each batch, epoch after epoch without end.

    The last batch of an epoch may be shorter.

    Args:
        shape: The split's sizes.
        size: Rows of a batch.
        seed: The run's.
        device: Device of the row numbers.
        epoch: The first epoch.
        step: Batches of the first epoch that were taken already.
    """
    rest = torch.empty(0, dtype=torch.int64, device=device)
    # A permutation of millions takes a tenth of a second, in which training need not stand still.
    with closing(prefetch(windows(shape, seed, epoch=epoch, skip=step * size))) as coming:
        for window in coming:
            rows = window.rows.to(device)
            rows = torch.cat([rest, rows]) if len(rest) else rows
            end = len(rows) if window.is_last else len(rows) - len(rows) % size
            yield from rows[:end].split(size) if end else ()
            rest = rows[end:]


def _epoch(shape: Shape, seed: int, epoch: int, skip: int) -> Iterator[Window]:
    n_blocks = shape.n_blocks
    if n_blocks <= WINDOW_BLOCKS:
        order = _permutation(shape.rows, derive(seed, "shuffle", epoch))
        yield Window(epoch, torch.arange(n_blocks), order[skip:], True, shape.block)
        return
    shuffled = _permutation(n_blocks, derive(seed, "shuffle", epoch, "blocks"))
    sizes = np.minimum(shape.block, shape.rows - shape.block * np.arange(n_blocks))
    for number, blocks in enumerate(shuffled.split(WINDOW_BLOCKS)):
        n_rows = int(sizes[blocks.numpy()].sum())
        if skip >= n_rows:
            skip -= n_rows
            continue
        order = _permutation(n_rows, derive(seed, "shuffle", epoch, "window", number))
        is_last = (number + 1) * WINDOW_BLOCKS >= n_blocks
        yield Window(epoch, blocks.sort().values, order[skip:], is_last, shape.block)
        skip = 0


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


Item = TypeVar("Item")


def prefetch(items: Iterator[Item]) -> Generator[Item]:
    """Yield an iterator's items, the next one made by a thread while this one is used.

    An exception of the iterator is raised in place of its item. Closing the generator ends the
    thread, which computes alone: with more threads than processors OpenMP lets all of them sleep
    between two operations, and a step of a small network takes twice as long.
    """
    over = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch", initializer=compute_alone) as pool:
        coming = pool.submit(next, items, over)
        while (item := coming.result()) is not over:
            coming = pool.submit(next, items, over)
            yield item  # type: ignore[misc]


def compute_alone() -> None:
    """Have the calling thread compute by itself; all others keep what they have.

    torch keeps one number for threads that are yet to come, each of which takes it over at its
    first operation; setting one's own sets that, too, so that it is put back from another thread.
    """
    before = torch.get_num_threads()  # takes it over now
    torch.set_num_threads(1)
    other = threading.Thread(target=torch.set_num_threads, args=(before,))
    other.start()
    other.join()
