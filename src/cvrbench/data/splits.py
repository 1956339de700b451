"""Ways to cut a table into training, validation and test rows."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.types import Policy
from cvrbench.data.checks import apply_policy, check_labels
from cvrbench.data.dataset import SPLITS
from cvrbench.data.raw import Chunk
from cvrbench.data.schema import Task
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


SPLIT = "split"
"""Column that a source adds: 0 train, 1 validation, 2 test; null where the row is dropped."""
MAX_SAMPLE = 1 << 20


def chunks(
    tables: Callable[[Counter[str]], Iterator[pl.DataFrame]],
    *,
    where: str,
    tasks: Sequence[Task],
    policy: Policy,
) -> Callable[[Counter[str]], Iterator[Chunk]]:
    """Make a `RawStream`'s chunks of tables that have a column `SPLIT`.

    Args:
        tables: Reads the log as tables; counts rows read, and those it leaves out by reason.
        where: The dataset, for messages.
        tasks: Their labels are checked to be 0 or 1.
        policy: For rows whose label is 1 while their parent's is 0.
    """

    def read(account: Counter[str]) -> Iterator[Chunk]:
        for table in tables(account):
            check_labels(table, [task.label for task in tasks], where)
            try:
                kept, changed = apply_policy(table, tasks, policy)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            account.update(changed)
            for number, split in enumerate(SPLITS):
                part = kept.filter(pl.col(SPLIT) == number).drop(SPLIT)
                if len(part):
                    yield Chunk(split, part)

    return read


class Fractions(NamedTuple):
    """How a random cut is made."""

    valid: float
    test: float
    seed: int


def cut_by_key(keys: pl.Series, fractions: Fractions) -> pl.Series:
    """Give each row the split of its key (a user, or the row's own number), by hashing it.

    Equal keys are in one split; the fractions are of keys, and only about met.
    """
    u = row_uniforms(fractions.seed, keys.cast(pl.Int64).to_numpy())
    codes = np.where(u < fractions.test, 2, np.where(u < fractions.test + fractions.valid, 1, 0))
    return pl.Series(SPLIT, codes.astype(np.int8))


def cut_by_time(times: pl.Series, valid_from: float, test_from: float) -> pl.Series:
    """Give each row the split that its time belongs to."""
    values = times.to_numpy()
    codes = (values >= valid_from).astype(np.int8) + (values >= test_from).astype(np.int8)
    return pl.Series(SPLIT, codes.astype(np.int8))


def time_cuts(
    times: Iterator[pl.Series], *, valid_fraction: float, test_fraction: float
) -> tuple[float, float]:
    """Find the times from which on rows validate and test; equal times stay together.

    At most `MAX_SAMPLE` times are held, evenly spread over the rows: every one until there are too
    many, then every second, and so on. The fractions are met to one in `MAX_SAMPLE` or better.

    Raises:
        DataError: There is no row, or all times are equal.
    """
    held: npt.NDArray[np.float64] = np.empty(0)
    stride, row = 1, 0
    for series in times:
        values = series.to_numpy().astype(np.float64)
        first = -row % stride
        held = np.concatenate([held, values[first::stride]])
        row += len(values)
        while len(held) > MAX_SAMPLE:
            held, stride = held[::2], stride * 2
    ordered = np.sort(held)
    if not len(ordered) or ordered[0] == ordered[-1]:
        raise DataError("rows cannot be split by time: they have none, or all have the same")
    n = len(ordered)
    valid_from = ordered[round(n * (1 - valid_fraction - test_fraction))]
    test_from = ordered[min(round(n * (1 - test_fraction)), n - 1)]
    return float(valid_from), float(test_from)
