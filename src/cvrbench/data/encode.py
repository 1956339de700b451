"""From raw columns to ids and numbers; whatever is learned is learned from the training rows.

Ids of a vocabulary: PAD, MISSING and OOV are reserved, then come the values seen at least
`min_count` times in training, the most frequent first, ties in the order of the values.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import Bag
from cvrbench.data.schema import MISSING, N_RESERVED, OOV
from cvrbench.errors import DataError

RESERVED_VALUES = ("<pad>", "<missing>", "<oov>")


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one field's values: a table of value (text), id and training count."""

    table: pl.DataFrame

    @property
    def size(self) -> int:
        """Ids in use, reserved ones included."""
        return len(self.table)

    def encode(self, values: pl.Series) -> npt.NDArray[np.int32]:
        """Give each value's id; absent ones are MISSING, unknown ones OOV."""
        text = as_text(values)
        known = self.table.filter(pl.col("id") >= N_RESERVED)
        ids = text.replace_strict(known["value"], known["id"], default=OOV, return_dtype=pl.Int32)
        missing = text.is_null()
        return ids.zip_with(
            ~missing, pl.repeat(MISSING, len(text), dtype=pl.Int32, eager=True)
        ).to_numpy()


def learn_vocabulary(train: pl.Series, min_count: int) -> Vocabulary:
    """Learn a field's vocabulary from its training values.

    Args:
        train: One value per row, of any type.
        min_count: Values seen fewer times become OOV.
    """
    text = as_text(train).rename("value")
    counts = text.drop_nulls().value_counts(name="count")
    often = counts.filter(pl.col("count") >= min_count).sort(
        ["count", "value"], descending=[True, False]
    )
    rare = int(counts["count"].sum()) - int(often["count"].sum())
    reserved = pl.DataFrame(
        {"value": RESERVED_VALUES, "count": [0, text.null_count(), rare]},
        schema={"value": pl.String, "count": pl.Int64},
    )
    table = pl.concat([reserved, often.with_columns(pl.col("count").cast(pl.Int64))])
    return Vocabulary(
        table.with_row_index("id").select("value", pl.col("id").cast(pl.Int32), "count")
    )


def as_text(values: pl.Series) -> pl.Series:
    """Write values as text, whole floats without `.0`; empty text and NaN are absent."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
        present = values.drop_nulls()
        if bool((present == present.round(0)).all()) and bool(present.is_finite().all()):
            values = values.cast(pl.Int64)
    text = values.cast(pl.String)
    return text.set(text == "", None)


@dataclass(frozen=True)
class Scale:
    """How a numeric column is standardised, and whether its gaps get a column of their own."""

    mean: float
    std: float
    has_gaps: bool

    def encode(self, values: pl.Series) -> npt.NDArray[np.float32]:
        """Standardise: `[rows, 1]`, or `[rows, 2]` with 1 where the value is absent.

        Absent values become the training mean, 0.
        """
        numbers = _numbers(values)
        absent = numbers.is_null().to_numpy()
        scaled = ((numbers.fill_null(self.mean).to_numpy() - self.mean) / self.std).astype(
            np.float32
        )
        columns = [scaled, absent.astype(np.float32)] if self.has_gaps else [scaled]
        return np.stack(columns, axis=1)


def learn_scale(train: pl.Series) -> Scale:
    """Learn mean and deviation of a numeric column from its training values.

    Raises:
        DataError: The column holds text or infinite numbers, or nothing at all.
    """
    numbers = _numbers(train)
    present = numbers.drop_nulls().to_numpy()
    if not len(present):
        raise DataError(f"numeric column {train.name!r} has no value in the training rows")
    std = float(present.std())
    return Scale(float(present.mean()), std if std > 0 else 1.0, numbers.null_count() > 0)


def encode_bags(vocabulary: Vocabulary, values: pl.Series, weights: pl.Series | None) -> Bag:
    """Encode a list column: an absent list holds one MISSING, an empty one nothing.

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


def codes(groups: list[pl.Series]) -> list[npt.NDArray[np.int64]]:
    """Number the groups of all splits together, in the order of their values."""
    together = as_text(pl.concat([series.rename("group") for series in groups])).fill_null("")
    _, numbered = np.unique(together.to_numpy().astype(str), return_inverse=True)
    ends = np.cumsum([len(series) for series in groups])[:-1]
    return [part.astype(np.int64) for part in np.split(numbered, ends)]


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
    return numbers


def _first_text(values: pl.Series) -> str:
    failed = values.filter(values.is_not_null() & values.cast(pl.Float64, strict=False).is_null())
    return str(failed[0]) if len(failed) else str(values[0])
