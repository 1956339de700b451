"""What the two census datasets (Census-Income and Adult) have in common."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from cvrbench.data.raw import RawField
from cvrbench.errors import DataError

N_BINS = 32


def label(
    frame: pl.DataFrame, file: str, column: str, *, positive: Sequence[str], negative: Sequence[str]
) -> pl.Series:
    """Turn a text label into 0 and 1.

    Raises:
        DataError: A value is neither positive nor negative.
    """
    values = frame[column]
    known = [*positive, *negative]
    if (unknown := values.filter(~values.is_in(known))).len():
        raise DataError(
            f"{file}: column {column!r} holds {unknown[0]!r}; expected "
            f"{' or '.join(map(repr, known))}"
        )
    return values.is_in(list(positive)).cast(pl.UInt8)


def binned(
    learn: pl.DataFrame, test: pl.DataFrame, numbers: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make numeric columns numbers, and add each once more cut at quantiles of the learning rows.

    Amounts such as capital gains are 0 for most and long-tailed for the rest: bins have an
    embedding for each range, the log keeps the order within it.

    Raises:
        DataError: A value is no number.
    """
    edges = {}
    for column in numbers:
        values = _numbers(learn, column)
        edges[column] = sorted(
            set(np.quantile(values, np.linspace(0, 1, N_BINS + 1)[1:-1]).tolist())
        )
        if len(edges[column]) < N_BINS // 2:  # mostly one value: spread the bins over the others
            other = values[values != np.median(values)]
            more = (
                np.quantile(other, np.linspace(0, 1, N_BINS + 1)[:-1]).tolist()
                if len(other)
                else []
            )
            edges[column] = sorted({*edges[column], *more})

    def add(frame: pl.DataFrame) -> pl.DataFrame:
        added = []
        for column in numbers:
            values = _numbers(frame, column)
            bins = np.searchsorted(edges[column], values, side="right")
            added.append(pl.Series(f"{column}_bin", bins))
            added.append(pl.Series(column, np.log1p(np.maximum(values, 0.0))))
        return frame.with_columns(added)

    return add(learn), add(test)


def fields_of(
    columns: Sequence[str], *, numbers: Sequence[str], excluded: Sequence[str], min_count: int
) -> tuple[RawField, ...]:
    """Give the features: every column that is not excluded, numeric ones also as bins."""
    ids = [c for c in columns if c not in numbers and c not in excluded]
    ids += [f"{column}_bin" for column in numbers]
    return (
        *(RawField(name=name, kind="categorical", min_count=min_count) for name in ids),
        *(RawField(name=name, kind="numeric") for name in numbers),
    )


def _numbers(frame: pl.DataFrame, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    try:
        return frame[column].cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"column {column!r} must hold numbers: {str(error).splitlines()[0]}"
        ) from None
