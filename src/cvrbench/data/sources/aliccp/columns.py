"""Which rows and fields the prepared dataset holds, and the vocabularies of its training rows."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import AliCCPConfig
from cvrbench.data.dataset import SPLITS, Bag
from cvrbench.data.encode import Vocabulary, vocabulary_table
from cvrbench.data.raw import random_parts, row_uniforms
from cvrbench.data.schema import MISSING, N_RESERVED, OOV
from cvrbench.data.sources.aliccp import (
    BY_NAME,
    FIELDS,
    MAX_ID,
    SINGLES,
    Field,
    Half,
    Kind,
)
from cvrbench.data.sources.aliccp.lines import Block, Bytes, Ids, Ints
from cvrbench.errors import DataError

TRAIN, VALID, TEST = range(len(SPLITS))
DROPPED = -1
Codes = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]


class Columns(NamedTuple):
    """The wanted features of a block, with ids of the raw files."""

    ids: Ids  # [rows, categorical fields], 0 where the field is absent
    weights: Weights  # of the last value, [rows, numeric fields], 0 where the field is absent
    bags: dict[str, Bag]  # by multi-valued field


@dataclass(frozen=True)
class Selection:
    """What the configuration makes of the raw rows and fields."""

    config: AliCCPConfig

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The chosen fields, in the order of their names: those of the common file come first."""
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

    def columns(self, block: Block) -> Columns:
        """Return the wanted features: of each bag all values, the last one or the heaviest."""
        kind, rows = block.kind, len(block.line)
        ids = [self._one_id(f, block) for f in of_kind(self.categorical, kind)]
        bags = [block.bags[f.name] for f in of_kind(self.numeric, kind)]
        weights = [_last(bag, bag.weights) for bag in bags]
        multivalued = [f.name for f in of_kind(self.multivalued, kind)]
        return Columns(
            np.stack(ids, axis=1) if ids else np.empty((rows, 0), np.int32),
            np.stack(weights, axis=1) if weights else np.empty((rows, 0), np.float32),
            {name: self._bag(block.bags[name]) for name in multivalued},
        )

    def _one_id(self, field: Field, block: Block) -> Ids:
        if field.bag:
            return _last(block.bags[field.name], block.bags[field.name].ids)
        return block.singles[:, SINGLES[field.kind].index(field.name)]

    def _bag(self, bag: Bag) -> Bag:
        if self.config.max_len is not None:
            bag = _heaviest(bag, self.config.max_len)
        if self.config.weights == "drop":
            bag = bag._replace(weights=np.ones_like(bag.weights))
        return bag

    def validation_groups(self, groups: Ints) -> Bools:
        """Return which common rows of the training half belong to validation users: `[rows]`."""
        if self.config.validation != "user":
            return np.zeros(len(groups), np.bool_)
        distinct, place = np.unique(groups, return_inverse=True)
        seed, fraction = self.config.split_seed, self.config.valid_fraction
        chosen: Bools = random_parts(len(distinct), fraction, 0.0, seed)[place] == 1
        return chosen

    def splits(self, block: Block, half: Half, is_valid: Bools) -> Codes:
        """Return the split of each row: 0 train, 1 validation, 2 test, -1 dropped.

        Args:
            block: Skeleton rows.
            half: The half that they are from.
            is_valid: Whether each row's user was chosen for validation.

        Raises:
            DataError: A row has a conversion without a click and none is wanted.
        """
        config = self.config
        codes = np.full(len(block.line), TEST if half == "test" else TRAIN, np.int8)
        uniforms = row_uniforms(config.split_seed, block.line)
        if half == "train" and config.validation == "user":
            codes[is_valid] = VALID
        elif half == "train" and config.validation == "random":
            codes[uniforms < config.valid_fraction] = VALID
        elif half == "test" and config.validation == "test_half":
            codes[uniforms < 0.5] = VALID
        broken = unclicked(block)
        if config.unclicked_conversions == "refuse" and bool(broken.any()):
            raise DataError(
                f"{half}, line {int(block.line[broken][0]):,}: conversion = 1 with click = 0; say "
                "what to do with such rows: dataset.unclicked_conversions=drop, zero_conversion "
                "or keep"
            )
        if config.unclicked_conversions == "drop":
            codes[broken] = DROPPED
        return codes

    def labels(self, block: Block) -> Bytes:
        """Return `[rows, 2]`, click and conversion, as the configuration wants them."""
        if self.config.unclicked_conversions != "zero_conversion":
            return block.labels
        labels = block.labels.copy()
        labels[unclicked(block), 1] = 0
        return labels


def of_kind(fields: tuple[Field, ...], kind: Kind) -> list[Field]:
    """Return the fields that one kind of file holds."""
    return [field for field in fields if field.kind == kind]


def unclicked(block: Block) -> Bools:
    """Return which rows have a conversion without a click."""
    broken: Bools = (block.labels[:, 0] == 0) & (block.labels[:, 1] == 1)
    return broken


def take(bag: Bag, rows: Ints) -> Bag:
    """Return the bags of some rows."""
    if len(rows) == len(bag.offsets) - 1:
        return bag
    starts = bag.offsets[rows]
    lengths = bag.offsets[rows + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Bag(offsets, bag.ids[places], bag.weights[places])


def _last(bag: Bag, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The last value of each bag, 0 where it is empty: `[bags]`."""
    filled = np.diff(bag.offsets) > 0
    last: npt.NDArray[Any] = np.zeros(len(filled), values.dtype)
    last[filled] = values[bag.offsets[1:][filled] - 1]
    return last


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


class DistinctIds:
    """Which field of the training file each id stands in, whatever is made of the field."""

    def __init__(self) -> None:
        self._owner = np.full(MAX_ID + 1, -1, np.int8)

    def add(self, block: Block) -> None:
        """Note the ids of a block.

        Raises:
            DataError: An id stands in two fields.
        """
        for column, name in enumerate(SINGLES[block.kind]):
            ids = block.singles[:, column]
            self._add(name, ids[ids > 0])
        for name, bag in block.bags.items():
            self._add(name, bag.ids)

    def _add(self, name: str, ids: Ids) -> None:
        number = FIELDS.index(BY_NAME[name])
        owners = self._owner[ids]
        wrong = (owners != number) & (owners >= 0)
        if bool(wrong.any()):
            at = int(wrong.argmax())
            first, second = sorted([name, FIELDS[owners[at]].name])
            raise DataError(
                f"id {int(ids[at])} stands in field {first} and in field {second}; every id "
                "belongs to one field: the files are damaged"
            )
        self._owner[ids] = number

    def counts(self) -> dict[str, int]:
        """Return the number of distinct ids by field."""
        n = np.bincount(self._owner + 1, minlength=len(FIELDS) + 1)[1:]
        return {field.name: int(n[number]) for number, field in enumerate(FIELDS)}


@dataclass(frozen=True)
class FieldCodes:
    """Ids of one field in the raw files -> its ids in the prepared dataset."""

    low: int
    codes: Ids
    missing: int
    vocabulary: Vocabulary

    def encode(self, ids: Ids) -> Ids:
        """Encode ids of any shape; 0 stands for an absent value."""
        # An absent value's place is clipped to the first code, and then overwritten.
        found = self.codes[np.maximum(ids - self.low, 0)]
        found[ids == 0] = self.missing
        return found


class IdCounts:
    """How often the training rows hold each id of each wanted field.

    Ids are integers of a known range, so that a count is an element of an array.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._of = {f.name: np.zeros(f.high - f.low + 1, np.int64) for f in fields}
        self._missing = Counter[str]()

    def add(self, field: Field, ids: Ids, times: Ints | None = None) -> None:
        """Count ids, 0 being an absent value; `times` each, or once."""
        present = ids > 0
        each = 1 if times is None else times[present]
        np.add.at(self._of[field.name], ids[present] - field.low, each)
        absent = ~present if times is None else times[~present]
        self._missing[field.name] += int(absent.sum())

    def learn(self, field: Field, config: AliCCPConfig) -> FieldCodes:
        """Return the codes of a field: the most frequent id comes first."""
        counts = self._of[field.name]
        seen = np.flatnonzero(counts >= config.min_count)
        kept = seen[np.lexsort((seen, -counts[seen]))]
        codes = np.full(len(counts), OOV, np.int32)
        codes[kept] = np.arange(N_RESERVED, N_RESERVED + len(kept), dtype=np.int32)
        has_own = config.missing == "own_id"
        rare = int(counts.sum() - counts[kept].sum())
        missing = self._missing[field.name]
        vocabulary = vocabulary_table(
            values=pl.Series(kept + field.low).cast(pl.String),
            counts=pl.Series(counts[kept]),
            missing=missing if has_own else 0,
            rare=rare if has_own else rare + missing,
        )
        return FieldCodes(field.low, codes, MISSING if has_own else OOV, vocabulary)
