"""Batches by index arithmetic: a split's arrays as tensors, and one step's rows out of them."""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.data.dataset import Split
from cvrbench.data.schema import Schema


class Features(NamedTuple):
    """What a model reads of a batch.

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
    """`[batch, tasks]` float32, 0 or 1."""
    weights: Tensor | None = None
    """`[batch, tasks]` float32: how much each label counts, 0 where hidden. None: all alike."""


class BagTensors(NamedTuple):
    """One multi-valued field; ids already shifted to rows of the table."""

    offsets: Tensor
    rows: Tensor
    weights: Tensor
    shared: bool


class SplitTensors(NamedTuple):
    """A split resident on `device`, or mapped from disk where it does not fit."""

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
    ) -> Self:
        """Copy a split to `device`, ids shifted to rows of the one embedding table."""
        sizes = [field.size for field in schema.id_fields]
        starts: npt.NDArray[np.int64] = np.cumsum([0, *sizes])
        index_type = np.int32 if schema.vocabulary_size < 2**31 else np.int64
        n_categorical = len(schema.categorical)
        shift = starts[:n_categorical].astype(index_type)
        bags = tuple(
            BagTensors(
                torch.from_numpy(np.array(bag.offsets)).to(device),
                torch.from_numpy(np.add(bag.ids, start, dtype=index_type)).to(device),
                torch.from_numpy(np.array(bag.weights)).to(device),
                field.shared,
            )
            for bag, field, start in zip(
                split.bags, schema.multivalued, starts[n_categorical:-1].tolist(), strict=True
            )
        )
        contexts = split.contexts
        return cls(
            torch.from_numpy(np.add(split.ids, shift, dtype=index_type)).to(device),
            torch.from_numpy(np.array(split.numeric)).to(device),
            torch.from_numpy(np.array(split.labels)).to(device),
            bags,
            None if contexts is None else torch.from_numpy(np.array(contexts)).to(device),
            None if weights is None else torch.from_numpy(weights).to(device),
        )

    def __len__(self) -> int:
        """Rows of the split, not the tuple's fields."""
        return self.labels.shape[0]

    def gather(self, index: Tensor) -> Batch:
        """Take the rows `index` (int64, on the split's device), in that order."""
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


def _bag_values(bag: BagTensors, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, weights and position in `index` of every value in the chosen rows' bags."""
    starts = bag.offsets[index]
    counts = bag.offsets[index + 1] - starts
    segment = torch.repeat_interleave(torch.arange(len(index), device=index.device), counts)
    first = counts.cumsum(0) - counts
    position = torch.arange(len(segment), device=index.device) + (starts - first)[segment]
    return bag.rows[position], bag.weights[position], segment
