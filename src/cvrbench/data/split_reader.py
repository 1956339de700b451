"""Rows of a split, from disk to tensors."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.data.array_reader import Array, ArrayReader, Span
from cvrbench.data.batches import BagTensors, SplitTensors, offsets_of
from cvrbench.data.dataset import Split
from cvrbench.data.sampler import Shape
from cvrbench.data.schema import Schema

PIECE_ROWS = 2**14
"""Most rows that are read at a time, so that what is read does not stand beside its copy."""


class SplitReader:
    """Reads rows of a split from disk into tensors, as much memory as they take and little more.

    Bags that many rows share are read once, whole.
    """

    def __init__(
        self,
        split: Split,
        schema: Schema,
        device: torch.device,
        weights: npt.NDArray[np.float32] | None = None,
        *,
        forget: bool = False,
    ) -> None:
        """Open the files of a split; see `SplitTensors` for the weights.

        Args:
            split: As `open_dataset` gives it.
            schema: Of the dataset.
            device: Where the rows are wanted.
            weights: As of `SplitTensors`.
            forget: Whether to drop what was read from the system's cache of files.

        Raises:
            DataError: A file is gone or damaged.
        """

        def reader(array: Array) -> ArrayReader:
            opened = ArrayReader(array, schema.name)
            if forget:
                opened.read_exactly()
            return opened

        sizes = [field.size for field in schema.id_fields]
        starts: npt.NDArray[np.int64] = np.cumsum([0, *sizes])
        n_categorical = len(schema.categorical)
        self.index_type = index_type(schema)
        self.device, self.forget = device, forget
        self.shape = Shape.of(split, schema)
        self.starts = starts[:n_categorical].astype(self.index_type)
        self.bag_starts = starts[n_categorical:-1].astype(self.index_type)
        self.ids, self.numeric = reader(split.ids), reader(split.numeric)
        self.labels = reader(split.labels)
        self.contexts = None if split.contexts is None else reader(split.contexts)
        self.weights = None if weights is None else reader(weights)
        self.bags = [(reader(b.offsets), reader(b.ids), reader(b.weights)) for b in split.bags]
        self.shared = {
            k: self._bag(k, [(0, len(bag.offsets) - 1)], shared=True)
            for k, (bag, field) in enumerate(zip(split.bags, schema.multivalued, strict=True))
            if field.shared
        }

    def read(self, spans: Sequence[Span]) -> SplitTensors:
        """Give the rows of some spans, one after the other, on the device.

        Raises:
            DataError: A file was cut short or changed, or the disk failed.
        """
        return SplitTensors(
            self._fill(self.ids, spans, self.starts),
            self._fill(self.numeric, spans),
            self._fill(self.labels, spans),
            tuple(self.shared.get(k) or self._bag(k, spans) for k in range(len(self.bags))),
            None if self.contexts is None else self._fill(self.contexts, spans),
            None if self.weights is None else self._fill(self.weights, spans),
        )

    def expect(self, spans: Sequence[Span]) -> None:
        """Have the disk begin to read the rows of some spans."""
        for reader in (self.ids, self.numeric, self.labels, self.contexts):
            if reader is not None:
                reader.expect(spans)

    def _bag(self, k: int, spans: Sequence[Span], *, shared: bool = False) -> BagTensors:
        offsets, ids, weights = self.bags[k]
        ends = [offsets.read(start, stop + 1) for start, stop in _pieces(spans)]
        if self.forget:
            offsets.forget(spans)
        counts = np.concatenate([np.diff(part) for part in ends] or [np.empty(0, np.int64)])
        values = [(int(part[0]), int(part[-1])) for part in ends]
        if (counts < 0).any() or any(a < 0 or b > len(ids.array) for a, b in values):
            raise offsets.is_damaged()
        return BagTensors(
            offsets_of(torch.from_numpy(counts)).to(self.device),
            self._fill(ids, values, self.bag_starts[k]),
            self._fill(weights, values),
            shared,
        )

    def _fill(
        self,
        reader: ArrayReader,
        spans: Sequence[Span],
        shift: Array | np.signedinteger | None = None,
    ) -> Tensor:
        """Read the rows of some spans, adding `shift` to them, piece by piece."""
        dtype = reader.dtype if shift is None else np.dtype(self.index_type)
        n_rows = sum(stop - start for start, stop in spans)
        shape = (n_rows, *reader.shape[1:])
        filled = torch.empty(shape, dtype=torch_type(dtype), device=self.device)
        on_gpu, at = self.device.type == "cuda", 0
        for start, stop in _pieces(spans):
            target = filled[at : at + stop - start]
            # Copied from pinned memory, while the next piece is read.
            host = torch.empty_like(target, device="cpu", pin_memory=True) if on_gpu else target
            if shift is None:
                np.copyto(host.numpy(), reader.read(start, stop))
            else:
                np.add(reader.read(start, stop), shift, out=host.numpy())
            if on_gpu:
                target.copy_(host, non_blocking=True)
            at += stop - start
        if self.forget:
            reader.forget(spans)
        return filled


def index_type(schema: Schema) -> type[np.signedinteger]:
    """Give the type of ids in memory, which are rows of the one table of all fields."""
    return np.int32 if schema.vocabulary_size < 2**31 else np.int64


def torch_type(dtype: npt.DTypeLike) -> torch.dtype:
    """Give torch's name of a type of numpy's."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _pieces(spans: Sequence[Span]) -> Iterator[Span]:
    for start, stop in spans:
        for at in range(start, stop, PIECE_ROWS):
            yield at, min(at + PIECE_ROWS, stop)
