"""Checks between a source and `prepare`: what would make every number of a run worthless.

Each raises a `DataError` that says what was found and what to change.
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from cvrbench.data.raw import RawSplits
from cvrbench.data.schema import Task, chain
from cvrbench.errors import DataError

Policy = Literal["refuse", "drop", "keep", "zero_conversion"]
MAX_LEAK_VALUES = 50
"""A field with more values than this can determine a label by chance."""
MIN_LEAK_ROWS = 1000


def apply_policy(
    frame: pl.DataFrame, tasks: Sequence[Task], policy: Policy
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Treat rows whose label is 1 while their parent's is 0 (a conversion without a click).

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
        DataError: One does not; names the file, the column, the value and a row.
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


def check(raw: RawSplits, name: str) -> None:
    """Stop where a label is a feature, is constant, contradicts its parent, or groups leak.

    Raises:
        DataError: With the reason.
    """
    _check_rows(raw, name)
    _check_features(raw, name)
    _check_nesting(raw, name)
    for part, frame in raw.splits().items():
        _check_both_classes(raw.tasks, frame, f"{name}, {part} split")
    _check_groups(raw, name)


def _check_rows(raw: RawSplits, name: str) -> None:
    for part, frame in raw.splits().items():
        if not len(frame):
            raise DataError(
                f"{name}: the {part} split is empty; change the split's days or fractions "
                "(`cvrbench config dataset=...` shows them)"
            )
        check_labels(frame, [task.label for task in raw.tasks], f"{name}, {part} split")


def _check_features(raw: RawSplits, name: str) -> None:
    labels = [task.label for task in raw.tasks]
    fields = [field.name for field in raw.fields]
    if repeated := sorted({f for f in fields if fields.count(f) > 1}):
        raise DataError(f"{name}: column {repeated[0]!r} is listed twice among the features")
    if truth := sorted(set(raw.truth or ()) & set(fields)):
        raise DataError(f"{name}: the true probability {truth[0]!r} is among the features")
    if leaked := [label for label in labels if label in fields]:
        raise DataError(f"{name}: the label {leaked[0]!r} is among the features; take it out")
    if len(raw.train) < MIN_LEAK_ROWS:
        return
    for field in raw.fields:
        if field.kind == "multivalued" or raw.train[field.name].n_unique() > MAX_LEAK_VALUES:
            continue
        by_value = raw.train.group_by(field.name).agg(pl.col(label).mean() for label in labels)
        for label in labels:
            rates = by_value[label]
            if bool(rates.is_in([0.0, 1.0]).all()) and rates.n_unique() == 2:
                raise DataError(
                    f"{name}: each value of field {field.name!r} goes with one value of the label "
                    f"{label!r} in all {len(raw.train):,} training rows; it is the label by "
                    "another name, take it out of the features"
                )


def _check_nesting(raw: RawSplits, name: str) -> None:
    if raw.unnested:
        return
    for part, frame in raw.splits().items():
        try:
            apply_policy(frame, raw.tasks, "refuse")
        except DataError as error:
            raise DataError(f"{name}, {part} split: {error}") from None


def _check_both_classes(tasks: Sequence[Task], frame: pl.DataFrame, where: str) -> None:
    for index, task in enumerate(tasks):
        parents = [tasks[i].label for i in chain(tasks, index)[:-1]]
        rows = frame.filter(pl.col(label) == 1 for label in parents) if parents else frame
        space = f" where {parents[0]} = 1" if parents else ""
        positives = int(rows[task.label].sum())
        if positives in {0, len(rows)}:
            only = "no row has" if positives == 0 else "every row has"
            raise DataError(
                f"{where}: {only} {task.label} = 1 among {len(rows):,} rows{space}; a constant "
                "label can be neither learned nor scored: change the split or the task"
            )


def _check_groups(raw: RawSplits, name: str) -> None:
    if raw.group is None or not raw.group_disjoint:
        return
    parts = {part: set(frame[raw.group].unique()) for part, frame in raw.splits().items()}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if both := parts[one] & parts[other]:
            raise DataError(
                f"{name}: {len(both):,} values of {raw.group!r} are in {one} and in {other}, but "
                f"this split promises none (one of them: {min(map(str, both))})"
            )
