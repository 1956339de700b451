"""What the values of a user's columns become: ids as text, numbers, lists and labels.

A value that does not fit its column's role is an error with the file, the column, the value and its
row; rows are counted from 1, a header left out.
"""

import reprlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from cvrbench.config.dataset import TableConfig, TableTask
from cvrbench.data.encode import MAX_NUMBER, ZEROS, as_text
from cvrbench.errors import DataError

NAN = "nan"
TYPED = rf"^((-?[1-9]\d*|0|)(\.\d+)?(e[+-]?\d+)?|-0?\.\d+(e-\d+)?|-?inf|true|false|{NAN})$"
"""Text of numbers and flags, in lower case."""
EXACT = (2.0**24, 2.0**53)
"""Largest number up to which a Float32, and a Float64, tells all whole numbers apart."""

NO_TYPE = "the run learnt numbers or flags there, as 7 or true; write them so"


class At(NamedTuple):
    """Where some rows come from."""

    file: str
    row: int
    """Number of the first of them in the file."""

    def error(self, values: pl.Series, wrong: pl.Series, why: str) -> DataError:
        """Return the error of the first wrong value."""
        row = wrong.arg_true()[0]
        is_list = values.dtype in (pl.List, pl.Array)
        value = reprlib.repr(values[row].to_list()) if is_list else repr(values[row])
        return DataError(
            f"{self.file}: column {values.name!r} holds {value} in row {self.row + row:,}; {why}"
        )

    def misfit(self, values: pl.Series, why: str) -> DataError:
        """Return the error of a column whose type does not fit its role."""
        return DataError(f"{self.file}: column {values.name!r} is of type {values.dtype}; {why}")


class Columns:
    """How a table's columns are read, by its description."""

    def __init__(
        self,
        config: TableConfig,
        widths: Mapping[str, int] | None = None,
        typed: Collection[str] = (),
    ) -> None:
        """Say how to read columns.

        Args:
            config: The table's description.
            widths: The lengths of vectors; without, that of the first vector read.
            typed: Columns of ids that were numbers or flags by type when they were learnt from:
                text stands there for these.
        """
        self._config, self._widths, self._typed = config, dict(widths or {}), typed
        self._nulls = ["", *config.null_values]

    def features(self, frame: pl.DataFrame, at: At) -> Iterator[pl.Series]:
        """Yield the feature columns of raw rows as training saw them, but for lists' weights."""
        for name in self._config.ids:
            yield self.ids(frame[name], at)
        for name in self._config.numbers:
            yield self.numbers(frame[name], at)
        for name in self._config.lists:
            yield self.lists(frame[name], at)
        for name in self._config.vectors:
            yield self.vectors(frame[name], at)

    def clean(self, values: pl.Series) -> pl.Series:
        """Return a column with words for absent values as nulls; categories are text."""
        if values.dtype in (pl.Categorical, pl.Enum):
            values = values.cast(pl.String)
        if values.dtype == pl.String:
            values = values.set(values.is_in(self._nulls).fill_null(value=False), None)
        return values

    def ids(self, values: pl.Series, at: At) -> pl.Series:
        """Return the text of ids: of hashed ones their bucket, of numbers their interval."""
        name = values.name
        if name in self._config.buckets:
            bounds = self._config.buckets[name]
            assert not isinstance(bounds, int), "bounds are found before ids are read"
            return _bucketed(self.plain_numbers(values, at), bounds)
        text = self.text(values, at)
        return _hashed(text, self._config.hash[name]) if name in self._config.hash else text

    def text(self, values: pl.Series, at: At) -> pl.Series:
        """Return the text of ids or groups, as it is in every file and split."""
        values = self.clean(values)
        if values.dtype.is_nested():
            raise at.misfit(values, "expected one value a row; a list belongs in dataset.lists")
        if values.dtype in (pl.Duration, pl.Object):
            raise at.misfit(values, "expected text or whole numbers; convert the column")
        if values.dtype.is_float():
            exact = EXACT[values.dtype == pl.Float64]
            wrong = (values.abs() > exact) & values.is_finite()
            if wrong.any():
                raise at.error(
                    values,
                    wrong,
                    f"{values.dtype} tells whole numbers apart up to {exact:,.0f} only, beyond "
                    "which several ids are one; write the column as whole numbers or text",
                )
        if values.dtype == pl.Binary:
            wrong = pl.Series([not _is_utf8(value) for value in values], dtype=pl.Boolean)
            if wrong.any():
                raise at.error(values, wrong, "expected text, which these bytes are not")
        if values.dtype == pl.String and values.name in self._typed:
            if (wrong := ~_plain(values).str.contains(TYPED).fill_null(value=True)).any():
                raise at.error(values, wrong, NO_TYPE)
            values = _plain(values).replace(NAN, None)
        return self.clean(as_text(values))

    def numbers(self, values: pl.Series, at: At) -> pl.Series:
        """Return numbers, clipped and in logarithms where that is asked for.

        Raises:
            DataError: A value is no number, infinite, or too large to be computed with.
        """
        name, found = values.name, self.plain_numbers(values, at)
        if name in self._config.clip:
            found = found.clip(*self._config.clip[name])
        if name in self._config.log1p:
            if (found <= -1).any():
                raise at.error(values, found <= -1, f"log(1 + x) has none; see dataset.clip={name}")
            found = found.log1p()
        if (huge := found.abs() > MAX_NUMBER).any():
            raise at.error(
                values,
                huge,
                "a number must be finite and below 3e38; mend it, or set "
                f"dataset.clip={{{name}: [0, 1000]}} to limit all values",
            )
        return found

    def plain_numbers(self, values: pl.Series, at: At) -> pl.Series:
        """Return numbers as they stand there."""
        values = self.clean(values)
        if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
            raise at.misfit(values, "expected one number a row")
        plain = values
        if plain.dtype in (pl.Date, pl.Datetime):  # other files may have another unit
            plain = plain.dt.timestamp("us")
        elif plain.dtype == pl.Duration:
            plain = plain.cast(pl.Duration("us"))
        plain = plain.to_physical() if plain.dtype.is_temporal() else plain
        plain = plain.str.strip_chars() if plain.dtype == pl.String else plain
        found = plain.cast(pl.Float64, strict=False)
        if (wrong := found.is_null() & values.is_not_null()).any():
            raise at.error(
                values,
                wrong,
                "expected a number; list the column in dataset.ids, or the word in "
                "dataset.null_values if it means that there is none",
            )
        found = found.fill_nan(None)
        return found.set(found.is_in(absent_numbers(self._nulls)), None)

    def lists(self, values: pl.Series, at: At) -> pl.Series:
        """Return lists of text. Nothing stands between two separators, or behind the last."""
        values, name = self._split(values, at), values.name
        inner = values.dtype.inner  # type: ignore[attr-defined]
        if inner.is_nested() or inner in (pl.Duration, pl.Object, pl.Binary):
            raise at.misfit(values, "expected lists of ids: text or whole numbers")
        if inner.is_float():
            part = values.list.eval((pl.element() != pl.element().round(0)).any()).list.first()
            if (wrong := part.fill_null(value=False)).any():
                raise at.error(
                    values, wrong, "lists hold ids; list a column of vectors in dataset.vectors"
                )
            exact = EXACT[inner == pl.Float64]
            part = values.list.eval((pl.element().fill_nan(0).abs() > exact).any()).list.first()
            if (wrong := part.fill_null(value=False)).any():
                raise at.error(
                    values, wrong, f"{inner} tells whole numbers apart up to {exact:,.0f} only"
                )
        if inner == pl.String and name in self._typed:
            plain = values.list.eval(pl.element().map_batches(_plain, pl.String))
            if (wrong := plain.list.eval(~pl.element().str.contains(TYPED)).list.any()).any():
                raise at.error(values, wrong, NO_TYPE)
            values = plain.list.eval(pl.element().replace(NAN, None))
        values = values.list.eval(pl.element().map_batches(as_text, pl.String))
        if name in self._config.hash:
            n = self._config.hash[name]
            return values.list.eval(pl.element().map_batches(lambda s: _hashed(s, n)))
        return values

    def vectors(self, values: pl.Series, at: At) -> pl.Series:
        """Return lists of numbers of one length; where there is no vector, null.

        Raises:
            DataError: A vector holds anything but finite numbers, or has another length.
        """
        values = self.clean(values)
        lists = values.cast(pl.List(pl.Float64)) if values.dtype == pl.Null else values
        if values.dtype == pl.String:
            parts = values.str.strip_chars("[] ").str.split(self._config.vector_separator)
            lists = parts.list.eval(pl.element().str.strip_chars())
        inner = getattr(lists.dtype, "inner", pl.Null())
        if (
            not isinstance(lists.dtype, pl.List | pl.Array)
            or inner.is_nested()
            or inner.is_temporal()
        ):
            raise at.misfit(values, "expected lists of numbers, or text such as 0.25,-1")
        found = lists.cast(pl.List(pl.Float64), strict=False)
        bad = pl.element().is_null() | ~pl.element().is_finite() | (pl.element().abs() > MAX_NUMBER)
        if (wrong := found.list.eval(bad.any()).list.first().fill_null(value=False)).any():
            raise at.error(
                values, wrong, "a vector holds finite numbers alone; null stands for no vector"
            )
        lengths = found.list.len()
        if len(known := lengths.drop_nulls()):
            width = self._widths.setdefault(values.name, known[0])
            if (wrong := ((lengths != width) | (lengths == 0)).fill_null(value=False)).any():
                n = lengths.filter(wrong)[0]
                raise at.error(values, wrong, f"it has {n} numbers, and vectors before it {width}")
        return found

    def weights(self, values: pl.Series, at: At) -> pl.Series:
        """Return lists of numbers."""
        lists = self._split(values, at)
        if lists.dtype.inner.is_nested():  # type: ignore[attr-defined]
            raise at.misfit(values, "expected lists of numbers")
        found = lists.cast(pl.List(pl.Float64), strict=False)
        n_absent = [x.list.eval(pl.element().is_null().sum()).list.first() for x in (lists, found)]
        if (wrong := (n_absent[0] != n_absent[1]).fill_null(value=False)).any():
            raise at.error(lists, wrong, "weights must be numbers")
        return found

    def sample_weights(self, values: pl.Series, at: At) -> pl.Series:
        """Return what each row counts.

        Raises:
            DataError: A value is absent, negative, or beyond what sums of them can hold.
        """
        found = self.plain_numbers(values, at)
        fits = (found == 0) | found.is_between(1e-6, 1e6)
        if (wrong := ~fits.fill_null(value=False)).any():
            raise at.error(values, wrong, "a weight is 0 or between 1e-6 and 1e6 in every row")
        return found.cast(pl.Float32)

    def _split(self, values: pl.Series, at: At) -> pl.Series:
        values = self.clean(values)
        if values.dtype == pl.Null:
            return values.cast(pl.List(pl.String))
        if values.dtype == pl.String:
            known = values.drop_nulls()
            if len(known) and known.str.contains(r"^\s*\[.*\]\s*$").all():
                raise at.error(
                    values,
                    values.is_not_null(),
                    "lists in brackets are not taken apart; write lists of Parquet, or text such "
                    f"as a{self._config.list_separator}b",
                )
            part = pl.element().str.strip_chars()  # a, b: the blank is no part of b
            parts = values.str.split(self._config.list_separator)
            return parts.list.eval(part.filter(part != ""))
        if isinstance(values.dtype, pl.Array):
            return values.cast(pl.List(values.dtype.inner))
        if not isinstance(values.dtype, pl.List):
            raise at.misfit(values, "expected lists, or text with separators; list it in ids")
        return values

    def label(self, values: pl.Series, task: TableTask, at: At) -> pl.Series:
        """Return 0, 1 or, where the label is absent, null; of a ratio the number.

        Raises:
            DataError: A value is neither.
        """
        values = self.clean(values)
        if task.kind == "ratio":
            return self._ratio(values, at)
        if values.dtype.is_nested() or values.dtype.is_temporal() or values.dtype == pl.Binary:
            raise at.misfit(values, "a label is 0 or 1, false or true")
        plain = values.cast(pl.Float64) if values.dtype.is_decimal() else values
        text = as_text(plain).str.strip_chars()
        if task.positive is not None:
            if isinstance(task.positive, str):
                return (text == task.positive.strip()).cast(pl.UInt8)
            words = text.str.to_lowercase().replace({"true": "1", "false": "0"})
            found = words.cast(pl.Float64, strict=False) == float(task.positive)
            return found.fill_null(value=False).set(text.is_null(), None).cast(pl.UInt8)
        text, number = text.str.to_lowercase(), text.cast(pl.Float64, strict=False)
        one = (number == 1).fill_null(value=False) | (text == "true")
        zero = (number == 0).fill_null(value=False) | (text == "false")
        if (wrong := text.is_not_null() & ~(one | zero)).any():
            raise at.error(
                values,
                wrong,
                "a label is 0 or 1, false or true; if one value counts as 1 and all others as 0, "
                f"say so: {{name: {task.name}, label: {task.label}, positive: VALUE}}",
            )
        return one.cast(pl.UInt8)

    def _ratio(self, values: pl.Series, at: At) -> pl.Series:
        if values.dtype.is_nested() or values.dtype.is_temporal() or values.dtype == pl.Binary:
            raise at.misfit(values, "a ratio is a number from 0 to 1")
        plain = values.cast(pl.Float64) if values.dtype.is_decimal() else values
        ratios = as_text(plain).str.strip_chars().cast(pl.Float64, strict=False)
        wrong = values.is_not_null() & ~ratios.is_between(0, 1).fill_null(value=False)
        if wrong.any():
            raise at.error(values, wrong, "a ratio is a number from 0 to 1")
        return ratios


def is_typed(text: pl.Series) -> pl.Series:
    """Whether text of ids is such as numbers and flags by type have."""
    return (text == _plain(text)) & text.str.contains(TYPED)


def _plain(text: pl.Series) -> pl.Series:
    """Return text of numbers and flags as their types give it: 7.0 is 7, True is true."""
    return text.str.to_lowercase().str.replace(ZEROS, "${1}${2}").replace("-0", "0")


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def absent_numbers(words: Sequence[str]) -> list[float]:
    """Return the numbers among words for an absent value: -1 is one in every type of column."""
    numbers = pl.Series(words, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    return numbers.filter(numbers.is_finite()).to_list()


def intervals(bounds: Sequence[float]) -> list[str]:
    """Return the names of the buckets between bounds, each with its lower one."""
    ends = ["-inf", *(repr(bound).removesuffix(".0") for bound in bounds), "inf"]
    return [f"[{low}, {high})" for low, high in pairwise(ends)]


def _bucketed(numbers: pl.Series, bounds: Sequence[float]) -> pl.Series:
    """Return the interval of each number as text, such as `[18, 25)`."""
    places = np.searchsorted(np.array(bounds), numbers.fill_null(0).to_numpy(), side="right")
    text = pl.Series(intervals(bounds))[pl.Series(places)]
    return text.set(numbers.is_null(), None).alias(numbers.name)


def _hashed(text: pl.Series, n_buckets: int) -> pl.Series:
    """Return the bucket of each text, CRC-32 of its UTF-8 modulo their number, as text."""
    values = text.drop_nulls().unique()
    buckets = pl.Series([str(zlib.crc32(v.encode()) % n_buckets) for v in values], dtype=pl.String)
    return text.replace_strict(values, buckets, return_dtype=pl.String, default=None)
