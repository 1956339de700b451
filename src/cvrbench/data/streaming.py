"""A split left on disk: windows of it are read ahead of training by a thread, and forgotten after.

Batches are those that the split in memory would give, bit for bit. Two windows are in memory at a
time (`sampler`), one trained on and one being read. What has been read is not left in the system's
cache of files: the whole does not fit there, and each part would push out the next.
"""

from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.data.batches import Batch, Rows, SplitReader, SplitTensors, join
from cvrbench.data.dataset import Span, Split, spans_of
from cvrbench.data.sampler import Window, prefetch, windows
from cvrbench.data.schema import Schema
from cvrbench.system.machine import available_memory

SEQUENTIAL_BLOCKS = 8
"""Blocks that are read at a time where rows are taken as they lie."""
SHARE = 0.5
"""Share of the free memory for data; the rest is for tables, their optimisers and the steps."""


class DiskRows(SplitReader):
    """The rows of a split on disk; see `Rows`."""

    def __len__(self) -> int:
        """Rows."""
        return self.shape.rows

    @cached_property
    def _stream(self) -> torch.cuda.Stream | None:
        """Where copies to a GPU go beside the computation, not in turns with it."""
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def gather(self, index: Tensor) -> Batch:
        """Return the rows `index`, in that order; each is read by itself."""
        rows, position = index.cpu().unique(return_inverse=True)
        found = self._read(spans_of(rows.numpy()))
        return self._received(found).gather(position.to(self.device))

    def batches(self, size: int, seed: int, *, epoch: int = 0, step: int = 0) -> Generator[Batch]:
        """Yield the batches of a training, from a step of an epoch on, without end (`sampler`)."""
        coming = windows(self.shape, seed, epoch=epoch, skip=step * size)
        rest: Batch | None = None
        with closing(prefetch(map(self._load, coming))) as loaded:
            for window, loaded_rows in loaded:
                rows, order = self._received(loaded_rows), window.order.to(self.device)
                if rest is not None:
                    n_missing = size - len(rest.labels)
                    rest = join(rest, rows.gather(order[:n_missing]))
                    order = order[n_missing:]
                    if len(rest.labels) < size and not window.is_last:
                        continue
                    yield rest
                end = len(order) if window.is_last else len(order) - len(order) % size
                for index in order[:end].split(size) if end else ():
                    yield rows.gather(index)
                rest = rows.gather(order[end:]) if end < len(order) else None

    def in_order(self, size: int) -> Generator[Batch]:
        """Yield every row once, in the order of the split, `size` at a time."""
        step = size * max(1, SEQUENTIAL_BLOCKS * self.shape.block // size)
        spans = ((at, min(at + step, len(self))) for at in range(0, len(self), step))
        with closing(prefetch(self._read([span]) for span in spans)) as parts:
            for part in parts:
                yield from self._received(part).in_order(size)

    def _load(self, window: Window) -> tuple[Window, SplitTensors]:
        return window, self._read(window.spans(len(self)))

    def _read(self, spans: Sequence[Span]) -> SplitTensors:
        self.expect(spans)
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            rows = self.read(spans)
            if self._stream is not None:
                self._stream.synchronize()
        return rows

    def _received(self, rows: SplitTensors) -> SplitTensors:
        """Record for torch that the computing stream uses what another one copied."""
        if self._stream is not None:
            own = [t for bag in rows.bags if not bag.shared for t in bag[:3]]
            for tensor in (*rows[:3], rows.contexts, rows.weights, *own):
                if tensor is not None:
                    tensor.record_stream(torch.cuda.current_stream(self.device))
        return rows


@dataclass(frozen=True)
class Placement:
    """Whether the splits of a run are kept in memory or left on disk; it changes no number."""

    where: Literal["memory", "disk"]
    free: int
    """Bytes of memory that the process could still get. A split larger than `SHARE` of them would
    push everything else out of the system's cache of files, and is not left there."""

    @classmethod
    def choose(
        cls, asked: Literal["auto", "memory", "disk"], splits: Sequence[Split], device: torch.device
    ) -> Self:
        """Return the placement of all splits that a run needs at the same time.

        Args:
            asked: `auto` means memory if the splits take at most `SHARE` of what is free.
            splits: The splits.
            device: Device of the memory; the machine's, for a GPU that is not here.
        """
        if device.type == "cuda" and torch.cuda.is_available():
            free = torch.cuda.mem_get_info(device)[0]
        else:
            free = available_memory().n_bytes
        fits = sum(map(rows_bytes, splits)) <= SHARE * free
        return cls(("memory" if fits else "disk") if asked == "auto" else asked, free)

    def open(
        self,
        split: Split,
        schema: Schema,
        device: torch.device,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> Rows:
        """Return the rows of a split; see `SplitTensors` for the weights."""
        if self.where == "memory":
            return SplitTensors.load(split, schema, device, weights)
        forget = rows_bytes(split) > SHARE * self.free
        return DiskRows(split, schema, device, weights, forget=forget)


def rows_bytes(split: Split) -> int:
    """Return the bytes of a split's rows, in files as in memory, without groups and truth.

    Ids take four bytes in memory, too, except with vocabularies too large for that (`index_type`).
    """
    arrays = [split.ids, split.numeric, split.labels, *(a for bag in split.bags for a in bag)]
    return sum(a.nbytes for a in arrays) + (0 if split.contexts is None else split.contexts.nbytes)
