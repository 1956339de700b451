"""Vocabularies from the training rows: ids are small integers, so a count is an array's element."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import Bag
from cvrbench.data.encode import Vocabulary, vocabulary_table
from cvrbench.data.raw import OnRows, RowsProgress
from cvrbench.data.schema import MISSING, N_RESERVED, OOV
from cvrbench.data.sources.aliccp.grammar import BY_NAME, FIELDS, Field
from cvrbench.data.sources.aliccp.half import HalfRead
from cvrbench.data.sources.aliccp.layout import TRAIN, Layout
from cvrbench.data.sources.aliccp.parts import SINGLES, Part
from cvrbench.errors import DataError

Ints = npt.NDArray[np.int64]


class Seen:
    """Which ids stand in which field of the training file, whatever is made of them."""

    def __init__(self) -> None:
        self._of = {f.name: np.zeros(f.high - f.low + 1, np.bool_) for f in FIELDS}

    def add(self, part: Part) -> None:
        """Look at a part's fields, skeleton or common."""
        for column, name in enumerate(SINGLES[part.kind]):
            ids = part.singles[:, column]
            self._mark(name, ids[ids > 0])
        for name, bag in part.bags.items():
            self._mark(name, bag.ids)

    def _mark(self, name: str, ids: npt.NDArray[np.int32]) -> None:
        self._of[name][ids - BY_NAME[name].low] = True

    def distinct(self) -> dict[str, int]:
        """Give the number of distinct ids by field."""
        return {name: int(np.count_nonzero(seen)) for name, seen in self._of.items()}

    def check_disjoint(self) -> None:
        """Check that no id stands in two fields, where their blocks' border is not known.

        Raises:
            DataError: One does.
        """
        for one, other in combinations(FIELDS, 2):
            low, high = max(one.low, other.low), min(one.high, other.high)
            if low > high:
                continue
            both = self._slice(one, low, high) & self._slice(other, low, high)
            if bool(both.any()):
                raise DataError(
                    f"id {low + int(both.argmax())} stands in field {one.name} and in field "
                    f"{other.name}; every id belongs to one field: the files are damaged"
                )

    def _slice(self, field: Field, low: int, high: int) -> npt.NDArray[np.bool_]:
        return self._of[field.name][low - field.low : high - field.low + 1]


class Counts:
    """How often the training rows hold each id of each field."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fields = {field.name: field for field in layout.fields}
        self._of = {f.name: np.zeros(f.high - f.low + 1, np.int64) for f in layout.fields}
        self._missing = dict.fromkeys(self._fields, 0)

    def add(self, part: Part, bags: Mapping[str, Bag], rows: Ints) -> None:
        """Count a part's fields.

        Args:
            part: Skeleton rows or common rows.
            bags: Its bags, as chosen by the layout.
            rows: `[rows]` of the part: how many training rows each one stands for.
        """
        for column, name in enumerate(SINGLES[part.kind]):
            if name in self._fields:
                self._count(name, part.singles[:, column], rows)
        for name, bag in bags.items():
            lengths = np.diff(bag.offsets)
            self._count(name, bag.ids, np.repeat(rows, lengths))
            if self._fields[name] in self._layout.categorical:
                self._missing[name] += int(rows[lengths == 0].sum())

    def _count(self, name: str, ids: npt.NDArray[np.int32], times: Ints) -> None:
        present = (ids > 0) & (times > 0)
        np.add.at(self._of[name], ids[present] - self._fields[name].low, times[present])
        self._missing[name] += int(times[ids == 0].sum())

    def learn(self, field: Field) -> "FieldCodes":
        """Make a field's vocabulary."""
        counts = self._of[field.name]
        seen = np.flatnonzero(counts >= self._layout.config.min_count)
        order = np.lexsort((seen, -counts[seen]))
        kept = seen[order]
        codes = np.full(len(counts), OOV, np.int32)
        codes[kept] = np.arange(N_RESERVED, N_RESERVED + len(kept), dtype=np.int32)
        has_own = self._layout.config.missing == "own_id"
        rare = int(counts.sum() - counts[kept].sum())
        missing = self._missing[field.name]
        vocabulary = vocabulary_table(
            values=pl.Series(kept + field.low).cast(pl.String),
            counts=pl.Series(counts[kept]),
            missing=missing if has_own else 0,
            rare=rare if has_own else rare + missing,
        )
        return FieldCodes(field.low, codes, MISSING if has_own else OOV, vocabulary)


@dataclass(frozen=True)
class FieldCodes:
    """A field's ids in the raw files -> its ids in the prepared dataset."""

    low: int
    codes: npt.NDArray[np.int32]
    missing: int
    vocabulary: Vocabulary

    def encode(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Encode; 0 stands for an absent value."""
        # An absent value's place is clipped to the first code, and then overwritten.
        found = self.codes[np.maximum(ids - self.low, 0)]
        found[ids == 0] = self.missing
        return found


@dataclass(frozen=True)
class Codebook:
    """All that is learned, and how it encodes a part's fields.

    Attributes:
        layout: Which fields are wanted, and how.
        fields: Codes by field.
        spans: Least and largest weight by field that becomes a number.
        distinct: Distinct ids of the training file by field, of all 23.
    """

    layout: Layout
    fields: Mapping[str, FieldCodes]
    spans: Mapping[str, tuple[float, float]]
    distinct: Mapping[str, int]

    def ids(self, which: Field, part: Part, bags: Mapping[str, Bag]) -> npt.NDArray[np.int32]:
        """One id per row of the part: `[rows]`."""
        if which.bag:
            column = _spread(bags[which.name], bags[which.name].ids)
        else:
            column = part.singles[:, SINGLES[which.kind].index(which.name)]
        return self.fields[which.name].encode(column)

    def numbers(self, which: Field, bags: Mapping[str, Bag]) -> npt.NDArray[np.float32]:
        """One number in `[0, 1]` per row of the part; an absent field weighs 0: `[rows]`."""
        weights = _spread(bags[which.name], bags[which.name].weights)
        low, high = self.spans[which.name]
        return ((weights - low) / ((high - low) or 1.0)).astype(np.float32)

    def bag(self, which: Field, bags: Mapping[str, Bag]) -> Bag:
        """The bag with ids of the prepared dataset."""
        raw = bags[which.name]
        return raw._replace(ids=self.fields[which.name].encode(raw.ids))


def _spread(bag: Bag, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values of bags with at most one value -> one per row, 0 where there is none."""
    out: npt.NDArray[Any] = np.zeros(len(bag.offsets) - 1, values.dtype)
    out[np.diff(bag.offsets) > 0] = values
    return out


def learn(layout: Layout, halves: Sequence[HalfRead], on_rows: OnRows) -> Codebook:
    """Learn the vocabularies from the training rows (and scales, if wanted, from all).

    Raises:
        DataError: An id stands in two fields.
    """
    counts, seen = Counts(layout), Seen()
    spans = dict.fromkeys((field.name for field in layout.numeric), (math.inf, -math.inf))
    for half in halves:
        if half.half == "train" or spans:
            _count(counts, seen, spans, half, on_rows)
    seen.check_disjoint()
    codes = {field.name: counts.learn(field) for field in layout.fields}
    return Codebook(layout, codes, spans, seen.distinct())


def _count(
    counts: Counts,
    seen: Seen,
    spans: dict[str, tuple[float, float]],
    read: HalfRead,
    on_rows: OnRows,
) -> None:
    start, is_train = 0, read.half == "train"
    is_used = read.used.sum(axis=0) > 0
    for part in read.common_parts:
        end = start + len(part.line)
        bags = read.layout.choose(part)
        counts.add(part, bags, read.used[TRAIN, start:end])
        if is_train:
            seen.add(part)
        _widen(spans, bags, is_used[start:end])
        start = end
    n_parts = len(read.skeleton_parts.paths)
    for number, part in enumerate(read.skeleton_parts):
        bags = read.layout.choose(part)
        if is_train:
            seen.add(part)
        _, codes = read.place(part)
        counts.add(part, bags, (codes == TRAIN).astype(np.int64))
        _widen(spans, bags, codes >= 0)
        rows = int(part.line[-1]) if len(part.line) else 0
        on_rows(RowsProgress(f"counting values, {read.half}", rows, (number + 1) / n_parts))


def _widen(
    spans: dict[str, tuple[float, float]],
    bags: Mapping[str, Bag],
    is_kept: npt.NDArray[np.bool_],
) -> None:
    """Widen the spans to the weights of kept rows; an absent field weighs 0, as in torch-rechub."""
    for name in spans.keys() & bags.keys():
        weights = _spread(bags[name], bags[name].weights)[is_kept]
        low, high = spans[name]
        spans[name] = (
            min(low, float(weights.min(initial=math.inf))),
            max(high, float(weights.max(initial=-math.inf))),
        )
