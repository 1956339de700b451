"""From raw columns to ids and numbers; whatever is learned is learned from the training rows.

Ids of a vocabulary: PAD, MISSING and OOV are reserved, then come the values seen at least
`min_count` times in training, the most frequent first, ties in the order of the values.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import Bag
from cvrbench.data.schema import MISSING, N_RESERVED, OOV
from cvrbench.errors import DataError

MANY_PIECES = 64
MAX_NUMBER = float(np.finfo(np.float32).max)
ZEROS = r"(?:(\.\d*[1-9])0*|\.0*)([+-]\d\d:\d\d)?$"
"""Zeros at the end of a fraction, before the zone of a time."""
RESERVED_VALUES = ("<pad>", "<missing>", "<oov>")


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one field's values: a table of value (text), id and training count."""

    table: pl.DataFrame

    @property
    def size(self) -> int:
        """Ids in use, reserved ones included."""
        return len(self.table)

    @property
    def known(self) -> pl.DataFrame:
        """The table without the reserved ids."""
        return self.table.filter(pl.col("id") >= N_RESERVED)

    def encode(self, values: pl.Series) -> npt.NDArray[np.int32]:
        """Return each value's id; absent ones are MISSING, unknown ones OOV."""
        text, known = as_text(values), self.known
        ids = text.replace_strict(known["value"], known["id"], default=OOV, return_dtype=pl.Int32)
        missing = text.is_null()
        return ids.zip_with(
            ~missing, pl.repeat(MISSING, len(text), dtype=pl.Int32, eager=True)
        ).to_numpy()


def vocabulary_table(
    *, values: pl.Series, counts: pl.Series, missing: int, rare: int
) -> Vocabulary:
    """Return a vocabulary.

    Args:
        values: Known values as text, in the order of their ids.
        counts: How often each stands in the training rows.
        missing: Training rows without a value.
        rare: Training values that are too rare to be known.
    """
    table = pl.DataFrame({"value": values, "count": counts.cast(pl.Int64)})
    reserved = pl.DataFrame(
        {"value": RESERVED_VALUES, "count": [0, missing, rare]}, schema=table.schema
    )
    numbered = pl.concat([reserved, table]).with_row_index("id")
    return Vocabulary(numbered.select("value", pl.col("id").cast(pl.Int32), "count"))


class VocabularyCounter:
    """Counts of a field's training values, chunk after chunk; memory grows with the values only."""

    def __init__(self) -> None:
        self._counts: list[pl.DataFrame] = []
        self._missing = 0

    def add(self, values: pl.Series) -> None:
        """Count some rows' values, of any type; of a list column, the values in its lists."""
        if values.dtype == pl.List:
            values = values.explode()
        text = as_text(values).rename("value")
        self._missing += text.null_count()
        counts = text.drop_nulls().value_counts(name="count")
        self._counts.append(counts.with_columns(pl.col("count").cast(pl.Int64)))
        # Merging when what came since is as much as what was there costs two passes over it all.
        if sum(map(len, self._counts[1:])) > len(self._counts[0]):
            self._counts = [self._merged()]

    def learn(self, min_count: int) -> Vocabulary:
        """Return the vocabulary; values seen fewer times than `min_count` become OOV."""
        counts = self._merged()
        often = counts.filter(pl.col("count") >= min_count).sort(
            ["count", "value"], descending=[True, False]
        )
        rare = int(counts["count"].sum()) - int(often["count"].sum())
        return vocabulary_table(
            values=often["value"], counts=often["count"], missing=self._missing, rare=rare
        )

    def _merged(self) -> pl.DataFrame:
        return pl.concat(self._counts).group_by("value").agg(pl.col("count").sum())


def as_text(values: pl.Series) -> pl.Series:
    """Return values as text, fractions without zeros at their end; empty text and NaN are absent.

    The text of a value depends on the value alone, never on others of its column: a split or a
    chunk may hold whole numbers only.
    """
    text = values.cast(pl.String)
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = (values == values.round(0)) & (values.abs() < 2.0**63)
        text = values.set(~whole, None).cast(pl.Int64).cast(pl.String)
        text = text.zip_with(whole.fill_null(value=False), values.cast(pl.String))
    elif values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        # Neither digits nor units of a type are part of a value: 7.00 is 7.
        text = text.str.replace(ZEROS, "${1}${2}")
    return text.set(text == "", None)


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of a numeric column, and whether its gaps get a column of their own."""

    mean: float
    std: float
    has_gaps: bool

    def encode(self, values: pl.Series) -> npt.NDArray[np.float32]:
        """Return standardised values `[rows, 1]`, absent ones as the mean, 0.

        With gaps `[rows, 2]`: the second column is 1 where the value is absent.
        """
        numbers = _numbers(values)
        absent = numbers.is_null().to_numpy()
        wide = (numbers.fill_null(self.mean).to_numpy() - self.mean) / self.std
        if bool((np.abs(wide) > MAX_NUMBER).any()):
            raise _too_large(values.name, float(numbers.abs().max() or 0.0))  # type: ignore[arg-type]
        scaled = wide.astype(np.float32)
        columns = [scaled, absent.astype(np.float32)] if self.has_gaps else [scaled]
        return np.stack(columns, axis=1)


class ScaleCounter:
    """Moments of a numeric column's training values, chunk after chunk (Chan et al. 1979)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._n, self._mean, self._squares, self._has_gaps = 0, 0.0, 0.0, False
        self._bounds = (float("inf"), float("-inf"))

    def add(self, values: pl.Series) -> None:
        """Add some rows' values.

        Raises:
            DataError: A value is text or infinite.
        """
        numbers = _numbers(values)
        present = numbers.drop_nulls().to_numpy()
        self._has_gaps |= numbers.null_count() > 0
        n = len(present)
        if not n:
            return
        low, high = self._bounds
        self._bounds = min(low, float(present.min())), max(high, float(present.max()))
        mean = float(present.mean())
        squares = float(present.var()) * n
        delta, total = mean - self._mean, self._n + n
        self._squares += squares + delta**2 * self._n * n / total
        self._mean += delta * n / total
        self._n = total

    def learn(self) -> Scale:
        """Return the scale; a constant column keeps deviation 1.

        Raises:
            DataError: No training row has a value, or they differ in digits that are lost.
        """
        if not self._n:
            raise DataError(f"numeric column {self._name!r} has no value in the training rows")
        low, high = self._bounds
        if low == high:  # the mean of many such has a rounding error, and so a deviation
            return Scale(low, 1.0, self._has_gaps)
        std = (self._squares / self._n) ** 0.5
        if std <= 16 * np.finfo(np.float64).eps * abs(self._mean):
            raise DataError(
                f"numeric column {self._name!r} holds numbers from {low!r} to {high!r}, whose "
                "differences are lost in computing; subtract the smallest from all"
            )
        return Scale(self._mean, std, self._has_gaps)


class VectorScale(tuple[Scale, ...]):
    """The scale of each number of a vector."""

    def encode(self, values: pl.Series) -> npt.NDArray[np.float32]:
        """Return standardised vectors `[rows, width]`, absent ones as the mean, 0."""
        parts = _elements(values, len(self))
        return np.concatenate(
            [s.encode(x)[:, :1] for s, x in zip(self, parts, strict=True)], axis=1
        )


class VectorCounter:
    """Moments of each number of a vector column, lists of one length, chunk after chunk."""

    def __init__(self, name: str, *, standardised: bool) -> None:
        self._name, self._standardised = name, standardised
        self._counters: list[ScaleCounter] = []

    def add(self, values: pl.Series) -> None:
        """Add some rows' vectors."""
        parts = _elements(values, int(values.list.len().max() or 0))  # type: ignore[arg-type]
        self._counters = self._counters or [ScaleCounter(self._name) for _ in parts]
        for counter, part in zip(self._counters, parts, strict=False):  # parts: none, or all
            counter.add(part)

    def learn(self) -> VectorScale:
        """Return the scales; raw vectors have mean 0 and deviation 1.

        Raises:
            DataError: No training row has a vector.
        """
        if not self._counters:
            raise DataError(f"vector column {self._name!r} has no vector in the training rows")
        raw = Scale(0.0, 1.0, has_gaps=False)
        return VectorScale(c.learn() if self._standardised else raw for c in self._counters)


def _elements(values: pl.Series, width: int) -> list[pl.Series]:
    return [values.list.get(k, null_on_oob=True) for k in range(width)]


def encode_bags(vocabulary: Vocabulary, values: pl.Series, weights: pl.Series | None) -> Bag:
    """Return the bags of a list column: an absent list holds one MISSING, an empty one nothing.

    Raises:
        DataError: A list and its weights differ in length, or a weight is negative or no number.
    """
    lengths = values.list.len()
    if weights is not None and not weights.list.len().equals(lengths):
        raise DataError(f"lists of {values.name!r} and their weights differ in length")
    counts = lengths.fill_null(1).to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # explode() turns an empty list into a null, which would read as MISSING.
    filled = values.filter(lengths.fill_null(1) > 0)
    ids = vocabulary.encode(filled.explode()) if len(filled) else np.empty(0, np.int32)
    if weights is None:
        return Bag(offsets, ids, np.ones(len(ids), np.float32))
    flat = weights.filter(lengths.fill_null(1) > 0).explode().cast(pl.Float32)
    bag_weights = flat.fill_null(1.0).to_numpy()
    if not bool(np.isfinite(bag_weights).all()) or bool((bag_weights < 0).any()):
        raise DataError(f"weights of {values.name!r} must be finite numbers, not negative")
    return Bag(offsets, ids, bag_weights)


class Groups:
    """The groups of each split, chunk after chunk; a code for each in the order of their text.

    A row without a group is a group of its own, with a code behind all others.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, list[pl.Series]] = {}
        self._alone = 0
        self.n_alone = 0
        """Rows without a group."""

    def add(self, split: str, groups: pl.Series) -> None:
        """Add the groups of some rows of a split."""
        pieces = self._pieces.setdefault(split, [])
        text = _group_text(groups)
        self.n_alone += text.null_count()
        pieces.append(text.drop_nulls().unique())
        if len(pieces) > MANY_PIECES:
            self._pieces[split] = [self.of(split)]

    def of(self, split: str) -> pl.Series:
        """Return the groups of a split in no order; at least one row must have been added."""
        return pl.concat(self._pieces[split]).unique()

    @cached_property
    def _ordered(self) -> pl.Series:
        return pl.concat([self.of(split) for split in self._pieces]).unique().sort()

    def encode(self, groups: pl.Series) -> npt.NDArray[np.int64]:
        """Return the rows' codes, after every group was added; each row is encoded once."""
        text = _group_text(groups)
        codes = self._ordered.search_sorted(text.fill_null("")).to_numpy().astype(np.int64)
        alone = text.is_null().to_numpy()
        first = len(self._ordered) + self._alone
        codes[alone] = np.arange(first, first + int(alone.sum()))
        self._alone += int(alone.sum())
        return codes


def _group_text(groups: pl.Series) -> pl.Series:
    return as_text(groups.rename("group"))


def _numbers(values: pl.Series) -> pl.Series:
    try:
        numbers = values.cast(pl.Float64).fill_nan(None)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"numeric column {values.name!r} holds text, as {_first_text(values)!r}; list it among "
            "the ids, or mend the file"
        ) from None
    if bool(numbers.is_infinite().any()):
        raise DataError(f"numeric column {values.name!r} holds infinite values")
    if bool((numbers.abs() > MAX_NUMBER).any()):
        raise _too_large(values.name, float(numbers.abs().max()))  # type: ignore[arg-type]
    return numbers


def _too_large(name: str, value: float) -> DataError:
    return DataError(
        f"numeric column {name!r} holds {value:g}, which cannot be computed with once it is "
        "standardised; mend the value, or give the column's logarithm"
    )


def _first_text(values: pl.Series) -> str:
    failed = values.filter(values.is_not_null() & values.cast(pl.Float64, strict=False).is_null())
    return str(failed[0]) if len(failed) else str(values[0])
