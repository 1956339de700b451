"""Ways to cut a table into training, validation and test rows."""

from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.errors import DataError
from cvrbench.rng import derive, numpy_stream


class Cut(NamedTuple):
    """The three parts of a table."""

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame


def by_day(frame: pl.DataFrame, column: str, *, valid_from: date, test_from: date) -> Cut:
    """Cut a date column at two days: what comes later is never trained on.

    Raises:
        DataError: The days are not in order.
    """
    if not valid_from < test_from:
        raise DataError(f"valid_from ({valid_from}) must lie before test_from ({test_from})")
    day = pl.col(column)
    return Cut(
        frame.filter(day < valid_from),
        frame.filter((day >= valid_from) & (day < test_from)),
        frame.filter(day >= test_from),
    )


def by_time(
    frame: pl.DataFrame, column: str, *, valid_fraction: float, test_fraction: float
) -> Cut:
    """Put the last rows into test, those before into validation; equal times stay together.

    Raises:
        DataError: The column has gaps, or the fractions leave nothing to train on.
    """
    _check_fractions(valid_fraction, test_fraction)
    time = frame[column]
    if time.null_count():
        raise DataError(f"column {column!r} orders the rows, but {time.null_count():,} have none")
    ordered = time.sort()
    valid_from = ordered[round(len(ordered) * (1 - valid_fraction - test_fraction))]
    test_from = ordered[min(round(len(ordered) * (1 - test_fraction)), len(ordered) - 1)]
    return Cut(
        frame.filter(time < valid_from),
        frame.filter((time >= valid_from) & (time < test_from)),
        frame.filter(time >= test_from),
    )


def by_group(
    frame: pl.DataFrame, column: str, *, valid_fraction: float, test_fraction: float, seed: int
) -> Cut:
    """Put whole groups (users) into one part each; the fractions are of groups."""
    groups = frame[column].unique().sort()
    part = random_parts(len(groups), valid_fraction, test_fraction, seed)
    of_row = frame[column].replace_strict(groups, pl.Series(part), return_dtype=pl.Int8)
    return _take(frame, of_row)


def by_row(frame: pl.DataFrame, *, valid_fraction: float, test_fraction: float, seed: int) -> Cut:
    """Put every row into a part by itself, at random."""
    return _take(frame, pl.Series(random_parts(len(frame), valid_fraction, test_fraction, seed)))


def hold_out(
    frame: pl.DataFrame, *, fraction: float, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cut a table in two at random: the rest, and `fraction` of the rows."""
    part = pl.Series(random_parts(len(frame), fraction, 0.0, seed))
    return frame.filter(part == 0), frame.filter(part == 1)


def random_parts(
    n: int, valid_fraction: float, test_fraction: float, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """Give the part of each of n things: 0 train, 1 valid, 2 test; exact counts, random places.

    Raises:
        DataError: The fractions leave nothing to train on.
    """
    _check_fractions(valid_fraction, test_fraction)
    n_valid, n_test = round(n * valid_fraction), round(n * test_fraction)
    part = np.zeros(n, dtype=np.int8)
    part[:n_valid] = 1
    part[n_valid : n_valid + n_test] = 2
    return numpy_stream(seed, "split").permutation(part)


def row_uniforms(seed: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Give each row a number in `[0, 1)` that depends on the seed and the row's number alone.

    A stream can so be cut at random without holding it (SplitMix64's mixing; Steele et al. 2014).
    """
    x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(derive(seed, "rows"))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    top = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
    return top.astype(np.float64) * 2.0**-53


def _take(frame: pl.DataFrame, part: pl.Series) -> Cut:
    return Cut(*(frame.filter(part == number) for number in range(3)))


def _check_fractions(valid_fraction: float, test_fraction: float) -> None:
    if valid_fraction + test_fraction >= 1:
        raise DataError(
            f"valid_fraction ({valid_fraction}) and test_fraction ({test_fraction}) leave no rows "
            "to train on; their sum must be below 1"
        )
