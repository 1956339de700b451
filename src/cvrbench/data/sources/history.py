"""What was known of a user, a video and an author before an exposure: behaviour as features.

Everything about a row comes from rows with a strictly earlier time. A row says nothing about itself
or about one of the same millisecond, and nothing of a later day reaches an earlier one, so that the
features are those that a serving system would have had; it would have had the clicks of test days
as well, once they were past.

Shape legend: `rows` of the log, `clicks` among them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]


def counts_before(
    log: pl.DataFrame, key: str, click: str, conversion: str, prefix: str
) -> list[pl.Series]:
    """Return how often a key was shown, clicked and converted before each row.

    Args:
        log: Rows in any order, with a column `time_ms`.
        key: Whose rows are counted.
        click: 0/1 column.
        conversion: 0/1 column.
        prefix: Of the columns' names.

    Returns:
        `PREFIX_seen_log`, the logarithm of 1 + exposures, and `PREFIX_click_rate` and
        `PREFIX_conversion_rate`, of a prior of one in two, each `[rows]`.
    """
    placed = log.select(
        pl.int_range(pl.len()).alias("place"),
        pl.col(key).alias("key"),
        "time_ms",
        pl.lit(1, pl.Int64).alias("seen"),
        pl.col(click).cast(pl.Int64).alias("clicks"),
        (pl.col(click) * pl.col(conversion)).cast(pl.Int64).alias("conversions"),
    ).sort("key", "time_ms")
    counted = ("seen", "clicks", "conversions")
    before = placed.with_columns((pl.col(c).cum_sum().over("key") - pl.col(c)) for c in counted)
    # Rows of the same millisecond have what the first of them has.
    before = before.with_columns(pl.col(c).first().over("key", "time_ms") for c in counted)
    known = pl.col("key").is_not_null()  # rows without a key have nothing in common
    seen, clicks, conversions = (pl.when(known).then(c).otherwise(0) for c in counted)
    return (
        before.sort("place")
        .select(
            seen.log1p().alias(f"{prefix}_seen_log"),
            ((clicks + 1) / (seen + 2)).alias(f"{prefix}_click_rate"),
            ((conversions + 1) / (clicks + 2)).alias(f"{prefix}_conversion_rate"),
        )
        .get_columns()
    )


def clicks_before(
    log: pl.DataFrame, user: str, click: str, columns: Sequence[str], most: int
) -> list[pl.Series]:
    """Return what each row's user had clicked before it, the latest last.

    Args:
        log: Rows in any order, with a column `time_ms`.
        user: Whose clicks.
        click: 0/1 column.
        columns: What of a clicked row is kept: an id, or a list of them, which is joined.
        most: Clicks at most, the latest.

    Returns:
        A list column per name of `columns`, `[rows]`; empty where nothing was clicked before.
    """
    ordered = log.with_columns(pl.int_range(pl.len()).alias("place")).sort(user, "time_ms")
    is_click = (ordered[click] == 1).to_numpy()
    until: Ints = np.cumsum(is_click) - is_click  # clicks of all users before this row
    first = pl.DataFrame({"user": ordered[user], "time": ordered["time_ms"], "until": until})
    spans = first.select(
        pl.col("until").first().over("user").alias("begin"),
        pl.col("until").first().over("user", "time").alias("end"),
    )
    end = spans["end"].to_numpy()
    begin = np.maximum(spans["begin"].to_numpy(), end - most)
    clicked, back = ordered.filter(is_click), np.argsort(ordered["place"].to_numpy())
    return [_slices(clicked[column], begin, end)[back].alias(column) for column in columns]


def _slices(values: pl.Series, begin: Ints, end: Ints) -> pl.Series:
    """Return `values[begin:end]` for every pair, lists among them joined, as a list column."""
    if isinstance(values.dtype, pl.List):
        lengths = values.list.len().fill_null(0).cast(pl.Int64).to_numpy()
        edges = np.append(0, np.cumsum(lengths))
        begin, end = edges[begin], edges[end]
        values = values.drop_nulls().explode(empty_as_null=False)
    lengths = end - begin
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    taken = values.gather(np.repeat(begin, lengths) + within)
    rows = pl.Series("row", np.repeat(np.arange(len(begin)), lengths))
    lists = pl.DataFrame({"row": rows, "list": taken}).group_by("row").agg("list")
    every = pl.DataFrame({"row": np.arange(len(begin))}).join(lists, on="row", how="left")
    return every.sort("row")["list"].fill_null([])
