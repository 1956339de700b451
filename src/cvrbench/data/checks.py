"""Checks of raw rows for what would make every number of a run worthless.

Each raises a `DataError` that says what was found and what to change.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.types import Policy
from cvrbench.data.dataset import SPLITS
from cvrbench.data.encode import UniqueValues
from cvrbench.data.raw import RawStream
from cvrbench.data.schema import Task, chain
from cvrbench.errors import DataError

MAX_LEAK_VALUES = 50
"""A field with more values than this can determine a label by chance."""
MIN_LEAK_ROWS = 1000


def apply_policy(
    frame: pl.DataFrame, tasks: Sequence[Task], policy: Policy
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Apply the policy for rows whose label is 1 while their parent's is 0: unclicked conversions.

    Returns:
        The rows, and how many were dropped, changed or kept so, by label.

    Raises:
        DataError: `refuse`, and there are such rows.
    """
    labels = {task.name: task.label for task in tasks}
    account: dict[str, int] = {}
    for task in tasks:
        if task.parent is None:
            continue
        parent = labels[task.parent]
        broken = (pl.col(task.label) == 1) & (pl.col(parent) == 0)
        n = int(frame.select(broken.sum()).item())
        words = f"{task.label} = 1 with {parent} = 0"
        if n == 0:
            continue
        if policy == "refuse":
            raise DataError(
                f"{n:,} rows have {words}; say what to do with them: "
                "dataset.unclicked_conversions=drop, zero_conversion or keep"
            )
        if policy == "drop":
            frame = frame.filter(~broken)
            account[f"dropped: {words}"] = n
        elif policy == "zero_conversion":
            zeroed = pl.when(broken).then(0).otherwise(pl.col(task.label))
            frame = frame.with_columns(zeroed.cast(frame.schema[task.label]).alias(task.label))
            account[f"{task.label} set to 0: {words}"] = n
        else:
            account[f"kept: {words}"] = n
    return frame, account


def check_labels(frame: pl.DataFrame, labels: Sequence[str], file: str) -> None:
    """Check that label columns hold 0 and 1 and nothing else.

    Raises:
        DataError: A column holds something else.
    """
    for label in labels:
        column = frame[label]
        wrong = frame.with_row_index("row").filter(
            pl.col(label).is_null() | ~pl.col(label).cast(pl.String).is_in(["0", "1"])
        )
        if len(wrong):
            raise DataError(
                f"{file}: label column {column.name!r} holds {wrong[label][0]!r} in "
                f"{len(wrong):,} rows (first: row {int(wrong['row'][0]) + 1:,}); a label is 0 or 1"
            )


class Inspection:
    """Checks of all rows before anything is written, chunk after chunk.

    Refused are labels that are features, are constant or contradict their parent, and groups that
    leak.
    """

    def __init__(self, raw: RawStream, name: str) -> None:
        _check_names(raw, name)
        self._raw, self._name = raw, name
        self._rows: Counter[str] = Counter()
        self._labels = [task.label for task in raw.tasks]
        self._counts = {split: np.zeros((len(raw.tasks), 2), np.int64) for split in SPLITS}
        self._groups = {split: UniqueValues() for split in SPLITS}
        self._suspects = [f.name for f in raw.fields if f.kind != "multivalued"]
        self._by_value: dict[str, pl.DataFrame] = {}

    def see(self, split: str, frame: pl.DataFrame) -> None:
        """Check some rows of a split, and count what `finish` needs.

        Raises:
            DataError: A label is neither 0 nor 1, or 1 where its parent's is 0.
        """
        where = f"{self._name}, {split} split"
        self._rows[split] += len(frame)
        check_labels(frame, self._labels, where)
        if not self._raw.unnested:
            try:
                apply_policy(frame, self._raw.tasks, "refuse")
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        self._count_labels(split, frame)
        if split == "train":
            self._watch_values(frame)
        if self._raw.group is not None and self._raw.group_disjoint:
            self._groups[split].add(frame[self._raw.group])

    def finish(self) -> None:
        """Check what only all rows together show.

        Raises:
            DataError: A split is empty, a label constant or given away by a feature, or a group is
                in two splits that promise to share none.
        """
        for split in SPLITS:
            if not self._rows[split]:
                raise DataError(
                    f"{self._name}: the {split} split is empty; change the split's days or "
                    "fractions (`cvrbench config dataset=...` shows them)"
                )
        self._judge_values()
        for split in SPLITS:
            _check_both_classes(
                self._raw.tasks, self._counts[split], f"{self._name}, {split} split"
            )
        self._judge_groups()

    def _count_labels(self, split: str, frame: pl.DataFrame) -> None:
        for index, task in enumerate(self._raw.tasks):
            parents = _parents(self._raw.tasks, index)
            rows = frame.filter(pl.col(label) == 1 for label in parents) if parents else frame
            self._counts[split][index] += (len(rows), int(rows[task.label].sum()))

    def _watch_values(self, frame: pl.DataFrame) -> None:
        """Count rows and labels by value of each field that has few values."""
        sums = (pl.len().alias("rows"), *(pl.col(label).sum() for label in self._labels))
        for field in tuple(self._suspects):
            seen = frame.group_by(pl.col(field).alias("value")).agg(*sums)
            if field in self._by_value:
                seen = pl.concat([self._by_value[field], seen], how="vertical_relaxed")
                seen = seen.group_by("value").agg(pl.all().sum())
            if len(seen) > MAX_LEAK_VALUES:
                self._suspects.remove(field)
                self._by_value.pop(field, None)
            else:
                self._by_value[field] = seen

    def _judge_values(self) -> None:
        n = self._rows["train"]
        if n < MIN_LEAK_ROWS:
            return
        for field, seen in self._by_value.items():
            for label in self._labels:
                pure = bool(((seen[label] == 0) | (seen[label] == seen["rows"])).all())
                if pure and 0 < int(seen[label].sum()) < n:
                    raise DataError(
                        f"{self._name}: each value of field {field!r} goes with one value of the "
                        f"label {label!r} in all {n:,} training rows; it is the label by another "
                        "name, take it out of the features"
                    )

    def _judge_groups(self) -> None:
        group = self._raw.group
        if group is None or not self._raw.group_disjoint:
            return
        parts = {split: groups.all() for split, groups in self._groups.items()}
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            both = parts[one].filter(parts[one].is_in(parts[other].implode(), nulls_equal=True))
            if len(both):
                raise DataError(
                    f"{self._name}: {len(both):,} values of {group!r} are in {one} and in {other}, "
                    f"but this split promises none (one of them: {min(map(str, both))})"
                )


def _check_names(raw: RawStream, name: str) -> None:
    fields = [field.name for field in raw.fields]
    if repeated := sorted({f for f in fields if fields.count(f) > 1}):
        raise DataError(f"{name}: column {repeated[0]!r} is listed twice among the features")
    if truth := sorted(set(raw.truth or ()) & set(fields)):
        raise DataError(f"{name}: the true probability {truth[0]!r} is among the features")
    if leaked := [task.label for task in raw.tasks if task.label in fields]:
        raise DataError(f"{name}: the label {leaked[0]!r} is among the features; take it out")


def _check_both_classes(tasks: Sequence[Task], counts: npt.NDArray[np.int64], where: str) -> None:
    """Check a split's `[tasks, 2]` rows and positives of each task's space."""
    for index, task in enumerate(tasks):
        parents = _parents(tasks, index)
        space = f" where {parents[0]} = 1" if parents else ""
        rows, positives = counts[index].tolist()
        if positives in {0, rows}:
            only = "no row has" if positives == 0 else "every row has"
            raise DataError(
                f"{where}: {only} {task.label} = 1 among {rows:,} rows{space}; a constant "
                "label can be neither learned nor scored: change the split or the task"
            )


def _parents(tasks: Sequence[Task], index: int) -> list[str]:
    """Return the labels of the tasks above a task, from the root down."""
    return [tasks[i].label for i in chain(tasks, index)[:-1]]
