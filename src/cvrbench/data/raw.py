"""What a source hands to `prepare`: cleaned rows in chunks, cut into splits, and their meaning.

Tables in memory are cut exactly: so many groups or rows. Streams are cut by hashing keys, so that
the fractions are only about met, or at times that a first pass found.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.types import Policy
from cvrbench.data.archives import RawFile
from cvrbench.data.dataset import SPLITS
from cvrbench.data.schema import Task
from cvrbench.errors import DataError
from cvrbench.system.rng import derive, numpy_stream

DEFAULT_MOST = 1000


class RowsProgress(NamedTuple):
    """How far one stage of a preparation is."""

    stage: str
    rows: int
    """Rows the stage has dealt with."""
    done: float
    """Share of the stage that is done, in `[0, 1]`; 0 where the total is unknown."""


OnRows = Callable[[RowsProgress], None]


def silent(_: RowsProgress) -> None:
    """Report no progress."""


Made = TypeVar("Made")


def ahead(pool: Executor, jobs: Iterable[Callable[[], Made]], most: int) -> Iterator[Made]:
    """Yield what jobs return, in their order, at most so many of them begun before their turn."""
    waiting: deque[Future[Made]] = deque()
    for job in jobs:
        waiting.append(pool.submit(job))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(frozen=True)
class Tolerance:
    """`stop` at the first faulty line of a raw file, or `skip` up to `most` and count each."""

    on_error: Literal["stop", "skip"] = "stop"
    most: int = DEFAULT_MOST

    @property
    def limit(self) -> int:
        """Number of faulty lines at which a preparation stops."""
        return 1 if self.on_error == "stop" else self.most + 1


STRICT = Tolerance()


FieldKind = Literal["categorical", "multivalued", "numeric", "vector"]


@dataclass(frozen=True, kw_only=True)
class RawField:
    """A feature column of the raw tables."""

    name: str
    """The column; of a multi-valued field a list column."""
    kind: FieldKind
    min_count: int = 1
    """Values seen fewer times than this in the training split become OOV."""
    weights: str | None = None
    """List column of the same lengths that holds the values' weights; None: each weighs 1."""
    shares: str | None = None
    """Field whose vocabulary this one has, learnt from both; None: its own."""
    standardised: bool = True
    """Whether a vector's numbers are; else they stay as they are."""
    bounds: tuple[float, ...] | None = None
    """Bounds between the buckets of a number, if the training rows told them."""
    typed: bool | None = None
    """Whether ids are numbers or flags by type; False: text; None: not known."""


def feature_fields(
    ids: Sequence[str], *, lists: Sequence[str] = (), numbers: Sequence[str] = (), min_count: int
) -> tuple[RawField, ...]:
    """Return the fields of id columns, list columns and numeric columns, in this order."""
    return (
        *(RawField(name=name, kind="categorical", min_count=min_count) for name in ids),
        *(RawField(name=name, kind="multivalued", min_count=min_count) for name in lists),
        *(RawField(name=name, kind="numeric") for name in numbers),
    )


def click_conversion(
    click: str, conversion: str, kind: Literal["binary", "ratio"] = "binary"
) -> tuple[Task, Task]:
    """Return the tasks `ctr` and, given a click, `cvr` of two label columns."""
    return (
        Task(name="ctr", label=click),
        Task(name="cvr", label=conversion, parent="ctr", joint="ctcvr", kind=kind),
    )


class Chunk(NamedTuple):
    """Some rows of one split, at most a few hundred thousand; ratios are numbers from 0 to 1."""

    split: str
    """train, valid or test."""
    frame: pl.DataFrame


Chunks = Callable[[Counter[str]], Iterator[Chunk]]


@dataclass(frozen=True, kw_only=True)
class RawStream:
    """The rows of one dataset, split and cleaned, not yet encoded, a chunk at a time."""

    chunks: Chunks
    """Reads the rows from the first to the last, the same at every call; counts into its argument
    rows read, changed, and dropped by reason, so that `read` = kept + sum of `dropped: *`."""
    fields: tuple[RawField, ...]  # in the order in which the model sees them
    tasks: tuple[Task, ...]
    group: str | None = None  # column by which rows belong together (a user), if there is one
    group_column: str | None = None  # where a chunk has it, if not under its own name
    key: str | None = None  # column that names a row, to be kept beside predictions
    key_column: str | None = None  # where a chunk has it
    files_split: bool = False  # whether files, not rows, were put into splits
    group_disjoint: bool = False  # whether the split promises that no group is in two splits
    unnested: bool = False  # whether labels of 1 whose parent's is 0 were kept on purpose
    truth: tuple[str, ...] | None = None
    """Per task the column of its true probability (given its parent), for planted data."""
    label_weights: tuple[str, ...] | None = None
    """Per task the column of what a training row's label counts, 0 where it is hidden."""
    sources: Mapping[str, str] = field(default_factory=dict)  # raw files: name -> sha256
    split: Sequence[str] = ()
    """How the rows were cut, in sentences."""


SPLIT = "<split>"
"""Column that a source adds: 0 train, 1 validation, 2 test; null where the row is dropped. No
user's table has a column of this name."""
MAX_SAMPLE = 1 << 20
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Fractions(NamedTuple):
    """Shares of validation and test, and the seed of a random cut."""

    valid: float
    test: float
    seed: int = 0

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return those of a dataset's configuration."""
        return cls(config.valid_fraction, config.test_fraction, config.split_seed)

    def check(self) -> None:
        """Raise `DataError` if the fractions leave nothing to train on."""
        if self.valid + self.test >= 1:
            raise DataError(
                f"valid_fraction ({self.valid}) and test_fraction ({self.test}) leave no rows to "
                "train on; their sum must be below 1"
            )


def cut(times: pl.Series, valid_from: Any, test_from: Any) -> pl.Series:
    """Cut at two times: what comes later is never trained on."""
    codes: pl.Series = (times >= valid_from).cast(pl.Int8) + (times >= test_from).cast(pl.Int8)
    return codes.alias(SPLIT)


def by_day(days: pl.Series, *, valid_from: date, test_from: date) -> pl.Series:
    """Cut a date column at two days.

    Raises:
        DataError: The days are not in order.
    """
    if not valid_from < test_from:
        raise DataError(f"valid_from ({valid_from}) must lie before test_from ({test_from})")
    return cut(days, valid_from, test_from)


def by_time(times: pl.Series, fractions: Fractions) -> pl.Series:
    """Put the last rows into test, those before into validation; equal times stay together.

    Raises:
        DataError: The column has gaps, or the fractions leave nothing to train on.
    """
    fractions.check()
    if times.null_count():
        raise DataError(
            f"column {times.name!r} orders the rows, but {times.null_count():,} have none"
        )
    return cut(times, *time_quantiles(times.sort(), fractions.valid, fractions.test))


def by_group(groups: pl.Series, fractions: Fractions) -> pl.Series:
    """Put whole groups (users) into one split each; the fractions are of groups.

    A row without a group is a group of its own.
    """
    values = groups.drop_nulls().unique().sort()
    parts = random_parts(len(values) + groups.null_count(), *fractions)
    known = groups.replace_strict(values, pl.Series(parts[: len(values)]), return_dtype=pl.Int8)
    codes = known.fill_null(0).to_numpy().copy()
    codes[groups.is_null().to_numpy()] = parts[len(values) :]
    return pl.Series(SPLIT, codes)


def by_row(n: int, fractions: Fractions) -> pl.Series:
    """Put each of n rows into a split by itself, at random."""
    return pl.Series(SPLIT, random_parts(n, *fractions))


def by_key(keys: pl.Series, fractions: Fractions) -> pl.Series:
    """Put rows into the split of their key (a user, or the row's own number), by hashing it.

    Equal keys are in one split; the fractions are of keys, and only about met.
    """
    u = row_uniforms(fractions.seed, keys.cast(pl.Int64).to_numpy())
    codes = np.where(u < fractions.test, 2, np.where(u < fractions.test + fractions.valid, 1, 0))
    return pl.Series(SPLIT, codes.astype(np.int8))


class Thinned:
    """Rows evenly spread over a stream: each until there are too many, then every second ..."""

    def __init__(self, most: int) -> None:
        """Begin with no rows; `most` are held."""
        self._most, self._stride, self.n_rows = most, 1, 0
        self._held: pl.DataFrame | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Take some of the rows that come next."""
        part = frame.gather_every(self._stride, offset=-self.n_rows % self._stride)
        held = [part] if self._held is None else [self._held, part]
        self._held = pl.concat(held, how="vertical_relaxed")
        self.n_rows += len(frame)
        while len(self._held) > self._most:
            self._held, self._stride = self._held.gather_every(2), self._stride * 2

    def rows(self) -> pl.DataFrame:
        """Return the rows held; some must have been added."""
        assert self._held is not None
        return self._held


def time_cuts(
    times: Iterator[pl.Series], *, valid_fraction: float, test_fraction: float
) -> tuple[float, float]:
    """Return the times from which on rows validate and test; equal times stay together.

    The fractions are met to one in `MAX_SAMPLE` or better.

    Raises:
        DataError: There is no row, or all times are equal.
    """
    sample = Thinned(MAX_SAMPLE)
    for series in times:
        sample.add(series.cast(pl.Float64).alias("time").to_frame())
    ordered = np.sort(sample.rows()["time"].to_numpy()) if sample.n_rows else np.empty(0)
    if not len(ordered) or ordered[0] == ordered[-1]:
        raise DataError("rows cannot be split by time: they have none, or all have the same")
    valid_from, test_from = time_quantiles(ordered, valid_fraction, test_fraction)
    return float(valid_from), float(test_from)


def random_parts(
    n: int, valid_fraction: float, test_fraction: float, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """Return the split's number of each of n things: exact counts, random places.

    Raises:
        DataError: The fractions leave nothing to train on.
    """
    Fractions(valid_fraction, test_fraction).check()
    n_valid, n_test = round(n * valid_fraction), round(n * test_fraction)
    part = np.zeros(n, dtype=np.int8)
    part[:n_valid] = 1
    part[n_valid : n_valid + n_test] = 2
    return numpy_stream(seed, "split").permutation(part)


def row_uniforms(seed: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return per row a number in `[0, 1)` that depends on the seed and the row's number alone.

    A stream can so be cut at random without holding it.
    """
    mixed = mix(rows.astype(np.uint64) * GOLDEN + np.uint64(derive(seed, "rows")))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return SplitMix64's mixing of 64-bit numbers, a bijection (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


Tables = Callable[[Counter[str]], Iterator[pl.DataFrame]]


def table_chunks(table: pl.DataFrame, accounting: Mapping[str, int]) -> Chunks:
    """Return the chunks of a cleaned table in memory that has a column `SPLIT`."""

    def read(account: Counter[str]) -> Iterator[Chunk]:
        account.update(accounting)
        return _parts(table)

    return read


def stream_chunks(
    tables: Tables,
    *,
    name: str,
    tasks: Sequence[Task],
    policy: Policy,
) -> Chunks:
    """Return the chunks of a log that is read as tables, each with a column `SPLIT`.

    Args:
        tables: Reads the log; counts rows read, and those it leaves out by reason.
        name: The dataset, for messages.
        tasks: Their labels are checked to be 0 or 1.
        policy: For rows whose label is 1 while their parent's is 0.
    """

    def read(account: Counter[str]) -> Iterator[Chunk]:
        for table in tables(account):
            check_labels(table, tasks, name)
            try:
                kept, changed = apply_policy(table, tasks, policy)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
            account.update(changed)
            yield from _parts(kept)

    return read


def streamed(
    tables: Tables,
    *,
    name: str,
    files: Mapping[str, RawFile],
    fields: tuple[RawField, ...],
    tasks: tuple[Task, ...],
    group: str,
    group_disjoint: bool = False,
    policy: Policy = "refuse",
) -> RawStream:
    """Return a log that is read as tables; see `stream_chunks` and `RawStream`."""
    return RawStream(
        chunks=stream_chunks(tables, name=name, tasks=tasks, policy=policy),
        fields=fields,
        tasks=tasks,
        group=group,
        group_disjoint=group_disjoint,
        unnested=policy == "keep",
        sources={name: file.sha256() for name, file in files.items()},
    )


def _parts(table: pl.DataFrame) -> Iterator[Chunk]:
    for number, split in enumerate(SPLITS):
        part = table.filter(pl.col(SPLIT) == number).drop(SPLIT)
        if len(part):
            yield Chunk(split, part)


def time_quantiles(ordered: Any, valid_fraction: float, test_fraction: float) -> tuple[Any, Any]:
    """Return the values of a sorted column at which validation and test begin."""
    n = len(ordered)
    valid_from = ordered[round(n * (1 - valid_fraction - test_fraction))]
    return valid_from, ordered[min(round(n * (1 - test_fraction)), n - 1)]


def apply_policy(
    frame: pl.DataFrame, tasks: Sequence[Task], policy: Policy
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Apply the policy for rows whose label is 1 while their parent's is 0: unclicked conversions.

    Returns:
        The rows, and how many were dropped, changed or kept so, by label.

    Raises:
        DataError: `refuse`, and there are such rows.
    """
    kept = pl.repeat(value=True, n=len(frame), dtype=pl.Boolean, eager=True)
    judged, kept, account = judge_nesting(frame, tasks, policy, kept)
    return judged.filter(kept), account


def judge_nesting(
    frame: pl.DataFrame, tasks: Sequence[Task], policy: Policy, kept: pl.Series
) -> tuple[pl.DataFrame, pl.Series, dict[str, int]]:
    """Apply the policy to those rows that are kept: all rows, which are kept, and an account."""
    labels = {task.name: task.label for task in tasks}
    account: dict[str, int] = {}
    for task in tasks:
        if task.parent is None:
            continue
        parent = labels[task.parent]
        broken = (frame[task.label] > 0) & (frame[parent] == 0) & kept
        words = f"{task.label} {'> 0' if task.is_ratio else '= 1'} with {parent} = 0"
        if (n := int(broken.sum())) == 0:
            continue
        if policy == "refuse":
            raise unclicked(n, words)
        if policy == "drop":
            kept = kept & ~broken
            account[f"dropped: {words}"] = n
        elif policy == "zero_conversion":
            frame = frame.with_columns(frame[task.label].set(broken, 0))
            account[f"{task.label} set to 0: {words}"] = n
        else:
            account[f"kept: {words}"] = n
    return frame, kept, account


def unclicked(n: int, words: str) -> DataError:
    """Return the error of so many rows whose labels contradict each other."""
    return DataError(
        f"{n:,} rows have {words}; say what to do with them: "
        "dataset.unclicked_conversions=drop, zero_conversion or keep"
    )


def check_labels(frame: pl.DataFrame, tasks: Sequence[Task | str], file: str) -> None:
    """Check that label columns hold 0 and 1 and nothing else, of ratios numbers from 0 to 1.

    Args:
        frame: Rows.
        tasks: The tasks, or names of columns of 0 and 1.
        file: Named in messages.

    Raises:
        DataError: A column holds something else.
    """
    for task in tasks:
        label, is_ratio = (task, False) if isinstance(task, str) else (task.label, task.is_ratio)
        column = frame[label]
        if is_ratio:
            numbers, rule = column.cast(pl.Float64, strict=False), "a ratio is a number from 0 to 1"
            good = numbers.is_between(0, 1).fill_null(value=False)  # no NaN is
        else:
            rule, good = "a label is 0 or 1", column.cast(pl.String).is_in(["0", "1"])
        wrong = (column.is_null() | ~good).arg_true()
        if len(wrong):
            raise DataError(
                f"{file}: label column {label!r} holds {column[wrong[0]]!r} in "
                f"{len(wrong):,} rows (first: row {wrong[0] + 1:,}); {rule}"
            )
