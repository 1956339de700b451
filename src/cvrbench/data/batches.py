"""Batches by index arithmetic: a split's arrays as tensors, and one step's rows out of them."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.data import sampler
from cvrbench.data.dataset import Array, ArrayReader, Span, Split
from cvrbench.data.sampler import Shape
from cvrbench.data.schema import Schema

Permuted = Literal["labels", "features"]


class Features(NamedTuple):
    """The inputs of a model for one batch.

    Ids are rows of the one embedding table that serves all fields: the fields' vocabularies
    follow each other, categorical fields first.
    """

    rows: Tensor
    """`[batch, categorical]` int64."""
    bag_rows: Tensor
    """`[values]` int64: the values of every multi-valued field, field after field."""
    bag_weights: Tensor
    """`[values]` float32."""
    bag_segments: Tensor
    """`[values]` int64 in `[0, multivalued * batch)`: field times batch plus row."""
    numeric: Tensor
    """`[batch, numeric]` float32."""


class Batch(NamedTuple):
    """The tensors of one step."""

    features: Features
    labels: Tensor
    """`[batch, tasks]` float32: 0 or 1, of a ratio any number between."""
    weights: Tensor | None = None
    """`[batch, tasks]` float32: how much each label counts, 0 where hidden. None: all alike."""


class Rows(Protocol):
    """The rows of a split, wherever they lie."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        ...

    def gather(self, index: Tensor) -> Batch:
        """Return the rows `index` (int64, on the device), in that order."""
        ...

    def batches(self, size: int, seed: int, *, epoch: int = 0, step: int = 0) -> Generator[Batch]:
        """Yield the batches of a training, from a step of an epoch on, without end (`sampler`)."""
        ...

    def in_order(self, size: int) -> Generator[Batch]:
        """Yield every row once, in the order of the split, `size` at a time."""
        ...


class BagTensors(NamedTuple):
    """One multi-valued field; ids already shifted to rows of the table."""

    offsets: Tensor
    rows: Tensor
    weights: Tensor
    shared: bool

    def reordered(self, index: Tensor) -> "BagTensors":
        """Return the bags of `index`, in that order."""
        rows, weights, _ = _bag_values(self, index)
        ends = self.offsets.diff()[index].cumsum(0)
        return self._replace(
            offsets=torch.cat([ends.new_zeros(1), ends]), rows=rows, weights=weights
        )


class SplitTensors(NamedTuple):
    """Rows resident on a device: a split, or some of one."""

    rows: Tensor
    numeric: Tensor
    labels: Tensor
    bags: tuple[BagTensors, ...]
    contexts: Tensor | None
    weights: Tensor | None = None
    """`[rows, tasks]`, as in `Batch`; only of training rows some of whose labels are hidden."""

    @classmethod
    def load(
        cls,
        split: Split,
        schema: Schema,
        device: torch.device,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> "SplitTensors":
        """Copy a split to `device`, ids shifted to rows of the one embedding table.

        Raises:
            DataError: A file is gone or was cut short.
        """
        return SplitReader(split, schema, device, weights, forget=False).read([(0, len(split))])

    def __len__(self) -> int:
        """Rows of the split, not the tuple's fields."""
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the rows."""
        return self.labels.device

    @property
    def shape(self) -> Shape:
        """Sizes of the rows on disk."""
        own = [bag for bag in self.bags if not bag.shared]
        columns = self.rows.shape[1] + self.numeric.shape[1] + (self.contexts is not None)
        n_values = sum(len(bag.weights) for bag in own)
        return Shape(len(self), columns, self.labels.shape[1], len(own), n_values)

    def gather(self, index: Tensor) -> Batch:
        """Return the rows `index` (int64, on the split's device), in that order."""
        context = index if self.contexts is None else self.contexts[index].long()
        values = [_bag_values(bag, context if bag.shared else index) for bag in self.bags]
        segments = [segment + field * len(index) for field, (_, _, segment) in enumerate(values)]
        empty = index.new_empty(0)
        features = Features(
            rows=self.rows.index_select(0, index).long(),
            bag_rows=torch.cat([v[0] for v in values]).long() if values else empty,
            bag_weights=torch.cat([v[1] for v in values]) if values else empty.float(),
            bag_segments=torch.cat(segments) if values else empty,
            numeric=self.numeric.index_select(0, index),
        )
        weights = None if self.weights is None else self.weights.index_select(0, index)
        return Batch(features, self.labels.index_select(0, index).float(), weights)

    def batches(self, size: int, seed: int, *, epoch: int = 0, step: int = 0) -> Generator[Batch]:
        """Yield the batches of a training, from a step of an epoch on, without end (`sampler`)."""
        with closing(self.indices(size, seed, epoch=epoch, step=step)) as indices:
            for index in indices:
                yield self.gather(index)

    def indices(self, size: int, seed: int, *, epoch: int = 0, step: int = 0) -> Generator[Tensor]:
        """Yield the row numbers of the batches of `batches`, for `gather`."""
        return sampler.batches(self.shape, size, seed, self.device, epoch=epoch, step=step)

    def in_order(self, size: int) -> Generator[Batch]:
        """Yield every row once, in the order of the split, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.gather(torch.arange(start, min(start + size, len(self)), device=self.device))

    def permuted(self, what: Permuted, seed: int) -> "SplitTensors":
        """Return the rows with what their features say of their labels destroyed.

        Args:
            what: `labels`: rows of labels, with what they count, go to other rows, so that what the
                labels say of each other stays. `features`: every field goes by an order of its own.
            seed: Of the orders.
        """
        generator = torch.Generator().manual_seed(seed)

        def order() -> Tensor:
            return torch.randperm(len(self), generator=generator).to(self.device)

        def columns(values: Tensor) -> Tensor:
            moved = [column[order()] for column in values.T]
            return torch.stack(moved, dim=1) if moved else values

        rows, numeric, labels, bags, contexts, weights = self
        if what == "labels":
            new = order()
            labels, weights = labels[new], None if weights is None else weights[new]
        else:
            rows, numeric = columns(rows), columns(numeric)
            bags = tuple(bag if bag.shared else bag.reordered(order()) for bag in bags)
            contexts = None if contexts is None else contexts[order()]
        return SplitTensors(rows, numeric, labels, bags, contexts, weights)


def join(one: Batch, other: Batch) -> Batch:
    """Return the rows of two batches, one after the other."""
    n, m = len(one.labels), len(other.labels)
    a, b = one.features, other.features
    # Of field f and row r a segment is f * rows + r; both are counted anew, and put in that order.
    first = a.bag_segments + a.bag_segments // n * m
    second = b.bag_segments + (b.bag_segments // m + 1) * n
    segments, order = torch.cat([first, second]).sort(stable=True)
    features = Features(
        rows=torch.cat([a.rows, b.rows]),
        bag_rows=torch.cat([a.bag_rows, b.bag_rows])[order],
        bag_weights=torch.cat([a.bag_weights, b.bag_weights])[order],
        bag_segments=segments,
        numeric=torch.cat([a.numeric, b.numeric]),
    )
    weights = None
    if one.weights is not None and other.weights is not None:
        weights = torch.cat([one.weights, other.weights])
    return Batch(features, torch.cat([one.labels, other.labels]), weights)


def _bag_values(bag: BagTensors, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, weights and position in `index` of every value in the chosen rows' bags."""
    starts = bag.offsets[index]
    counts = bag.offsets[index + 1] - starts
    segment = torch.repeat_interleave(torch.arange(len(index), device=index.device), counts)
    first = counts.cumsum(0) - counts
    position = torch.arange(len(segment), device=index.device) + (starts - first)[segment]
    return bag.rows[position], bag.weights[position], segment


PIECE_ROWS = 2**14
"""Most rows that are read at a time, so that what is read does not stand beside its copy."""


class SplitReader:
    """Reader of rows of a split from disk into tensors, with little memory beside their own.

    Bags that many rows share are read once, whole.
    """

    def __init__(
        self,
        split: Split,
        schema: Schema,
        device: torch.device,
        weights: npt.NDArray[np.float32] | None = None,
        *,
        forget: bool = True,
    ) -> None:
        """Open the files of a split.

        Args:
            split: As `open_dataset` gives it.
            schema: The dataset's.
            device: Device of the rows.
            weights: See `SplitTensors`.
            forget: Whether to drop what was read from the system's cache of files.

        Raises:
            DataError: A file is gone or damaged.
        """

        def reader(array: Array) -> ArrayReader:
            opened = ArrayReader(array, schema.name)
            if forget:
                opened.read_exactly()
            return opened

        starts = np.array([*schema.starts.values()], np.int64)
        n_categorical = len(schema.categorical)
        self.index_type = index_type(schema)
        self.device, self.forget = device, forget
        self.shape = Shape.of(split, schema)
        self.starts = starts[:n_categorical].astype(self.index_type)
        self.bag_starts = starts[n_categorical:].astype(self.index_type)
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
        """Return the rows of some spans, one after the other, on the device.

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
        """Let the system begin to read the rows of some spans."""
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
            raise offsets.damage()
        return BagTensors(
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(self.device),
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
    """Return the type of ids in memory, which are rows of the one table of all fields."""
    return np.int32 if schema.vocabulary_size < 2**31 else np.int64


def torch_type(dtype: npt.DTypeLike) -> torch.dtype:
    """Return torch's name of a type of numpy's."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _pieces(spans: Sequence[Span]) -> Iterator[Span]:
    for start, stop in spans:
        for at in range(start, stop, PIECE_ROWS):
            yield at, min(at + PIECE_ROWS, stop)
