"""Which rows and which fields the prepared dataset holds, as the configuration wants them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cvrbench.config.aliccp import AliCCPConfig
from cvrbench.data.dataset import SPLITS, Bag
from cvrbench.data.sources.aliccp.common import CommonIndex
from cvrbench.data.sources.aliccp.grammar import FIELDS, Field, Half
from cvrbench.data.sources.aliccp.parts import Part
from cvrbench.data.splits import random_parts, row_uniforms
from cvrbench.errors import DataError

TRAIN, VALID, TEST = range(len(SPLITS))
DROPPED = -1
CROSSED = ("508", "509", "702", "853")
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Layout:
    """What the configuration makes of the raw rows and fields."""

    config: AliCCPConfig

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The chosen fields, in the order of their names."""
        return tuple(field for field in FIELDS if field.name in self.config.fields)

    @cached_property
    def categorical(self) -> tuple[Field, ...]:
        """Fields with one id a row: by nature, or because only the last is wanted."""
        return tuple(f for f in self.fields if not f.bag or self.config.values == "last")

    @cached_property
    def multivalued(self) -> tuple[Field, ...]:
        """Fields with bags."""
        return tuple(f for f in self.fields if f.bag and self.config.values == "all")

    @cached_property
    def numeric(self) -> tuple[Field, ...]:
        """Fields whose last value's weight is a number; 210's are all 1."""
        if self.config.weights != "numeric":
            return ()
        return tuple(f for f in self.fields if f.bag and f.name != "210")

    def choose(self, part: Part) -> dict[str, Bag]:
        """Give a part's bags as far as they are wanted: all, the last, or the heaviest values."""
        wanted = {f.name for f in self.fields}
        bags = {name: bag for name, bag in part.bags.items() if name in wanted}
        if self.config.values == "last":
            return {name: _last(bag) for name, bag in bags.items()}
        if self.config.max_len is not None:
            bags = {name: _heaviest(bag, self.config.max_len) for name, bag in bags.items()}
        if self.config.weights == "drop":
            bags = {n: b._replace(weights=np.ones_like(b.weights)) for n, b in bags.items()}
        return bags

    def valid_contexts(self, common: CommonIndex) -> npt.NDArray[np.bool_]:
        """Which common rows of the training half belong to validation users: `[rows]`."""
        if self.config.validation != "user":
            return np.zeros(len(common), np.bool_)
        groups, place = np.unique(groups_of(common), return_inverse=True)
        seed, fraction = self.config.split_seed, self.config.valid_fraction
        chosen: npt.NDArray[np.bool_] = random_parts(len(groups), fraction, 0.0, seed)[place] == 1
        return chosen

    def splits(self, part: Part, half: Half, is_valid: npt.NDArray[np.bool_]) -> Codes:
        """Give the split of each of a part's rows: 0 train, 1 validation, 2 test, -1 dropped.

        Args:
            part: The rows.
            half: From which half they are.
            is_valid: Whether each row's user was chosen for validation.

        Raises:
            DataError: A row has a conversion without a click and none is wanted.
        """
        config = self.config
        codes = np.full(len(part.line), TEST if half == "test" else TRAIN, np.int8)
        uniforms = row_uniforms(config.split_seed, part.line)
        if half == "train" and config.validation == "user":
            codes[is_valid] = VALID
        elif half == "train" and config.validation == "random":
            codes[uniforms < config.valid_fraction] = VALID
        elif half == "test" and config.validation == "test_half":
            codes[uniforms < 0.5] = VALID
        broken = unclicked(part)
        if config.unclicked_conversions == "refuse" and bool(broken.any()):
            raise DataError(
                f"{half}, line {int(part.line[broken][0]):,}: conversion = 1 with click = 0; say "
                "what to do with such rows: dataset.unclicked_conversions=drop, zero_conversion "
                "or keep"
            )
        if config.unclicked_conversions == "drop":
            codes[broken] = DROPPED
        return codes

    def labels(self, part: Part) -> npt.NDArray[np.uint8]:
        """Give `[rows, 2]`, click and conversion, as the configuration wants them."""
        if self.config.unclicked_conversions != "zero_conversion":
            return part.labels
        labels = part.labels.copy()
        labels[unclicked(part), 1] = 0
        return labels


def groups_of(common: CommonIndex) -> npt.NDArray[np.int64]:
    """Give each common row its user's id; a row without a user is a negative group of its own."""
    rows = np.arange(len(common))
    return np.where(common.users > 0, common.users.astype(np.int64), -1 - rows)


def unclicked(part: Part) -> npt.NDArray[np.bool_]:
    """Which rows have a conversion without a click."""
    broken: npt.NDArray[np.bool_] = (part.labels[:, 0] == 0) & (part.labels[:, 1] == 1)
    return broken


def _last(bag: Bag) -> Bag:
    """The last value of every bag that has one."""
    filled = np.diff(bag.offsets) > 0
    last = bag.offsets[1:][filled] - 1
    offsets = np.concatenate([[0], np.cumsum(filled)])
    return Bag(offsets, bag.ids[last], bag.weights[last])


def _heaviest(bag: Bag, most: int) -> Bag:
    """The `most` values of largest weight of each bag, the earlier of equals, in their order."""
    lengths = np.diff(bag.offsets)
    if not bool((lengths > most).any()):
        return bag
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-bag.weights, row))  # stable: equals stay in their order
    rank = np.arange(len(row)) - bag.offsets[:-1][row]
    keep = np.zeros(len(row), np.bool_)
    keep[order] = rank < most
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
    return Bag(offsets, bag.ids[keep], bag.weights[keep])
