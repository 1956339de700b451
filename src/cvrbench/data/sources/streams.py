"""What the sources of large logs share: files -> cleaned tables -> chunks of each split."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.limits import Policy
from cvrbench.data.checks import apply_policy, check_labels
from cvrbench.data.dataset import SPLITS
from cvrbench.data.raw import Chunk
from cvrbench.data.schema import Task
from cvrbench.data.splits import row_uniforms
from cvrbench.errors import DataError

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
