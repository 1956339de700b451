"""KuaiRec 2.0 (Gao et al., CIKM 2022): a video feed's watch ratios, one part nearly complete.

Source: kuairec.com, Zenodo record 18164998, CC BY-SA 4.0. There is no click and no like: both tasks
are thresholds on `watch_ratio` (watched time over the video's length), named so in the
configuration. Training and validation rows are `big_matrix.csv`, by time, without the pairs of a
user and a video that the test has; the test is `small_matrix.csv`, nearly every such pair.
`item_daily_features.csv` counts the same or later days and is never a feature.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import KuaiRecConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import (
    SPLIT,
    RawStream,
    click_conversion,
    feature_fields,
    stream_chunks,
    time_cuts,
)
from cvrbench.data.sources.delimited import Layout, counted, frames, read
from cvrbench.data.sources.kuairand import USER_FIELDS, durations
from cvrbench.errors import DataError

BIG, SMALL, USERS, ITEMS = (
    "big_matrix.csv",
    "small_matrix.csv",
    "user_features.csv",
    "item_categories.csv",
)
USER_LAYOUT = Layout(
    types={"user_id": pl.Int64} | dict.fromkeys(USER_FIELDS, pl.String),
    is_quoted=True,
    nullable=USER_FIELDS,
)
ITEM_LAYOUT = Layout(types={"video_id": pl.Int64, "feat": pl.String}, is_quoted=True)
TYPES: dict[str, type[pl.DataType]] = {
    "user_id": pl.Int64,
    "video_id": pl.Int64,
    "video_duration": pl.Float64,
    "timestamp": pl.Float64,
    "watch_ratio": pl.Float64,
}
LAYOUT = Layout(types=TYPES, nullable={"timestamp"})
PAIRS = Layout(types={"user_id": pl.Int64, "video_id": pl.Int64})
Pairs = npt.NDArray[np.int64]
ZONE_HOURS = 8
"""The feed's users live in UTC+8; their hour of the day is the feature."""
TASKS = click_conversion("watched", "rewatched")
IDS = ("user_id", "video_id", "hour", "duration_bin", *USER_FIELDS)


def load(config: KuaiRecConfig, raw: Path) -> RawStream:
    """Prepare to read both matrices."""
    files = locate(raw, [BIG, SMALL, USERS, ITEMS], dataset="kuairec")
    users, items = read(files[USERS], USER_LAYOUT), _items(files[ITEMS])
    tested = np.sort(np.concatenate([_pair(table) for table in frames(files[SMALL], PAIRS)]))
    times = (table["timestamp"].drop_nulls() for table in frames(files[BIG], LAYOUT))
    valid_from, _ = time_cuts(times, valid_fraction=config.valid_fraction, test_fraction=0.0)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for table in counted([files[BIG]], LAYOUT, account):
            kept = table.filter(~_among(_pair(table), tested))
            account["dropped: pair is tested"] += len(table) - len(kept)
            # A row without a time is trained on: it cannot be said to be late.
            late = (pl.col("timestamp") >= valid_from).fill_null(value=False).cast(pl.Int8)
            yield _features(kept.with_columns(late.alias(SPLIT)), users, items, config)
        for table in counted([files[SMALL]], LAYOUT, account):
            yield _features(table.with_columns(pl.lit(2).alias(SPLIT)), users, items, config)

    return RawStream(
        chunks=stream_chunks(tables, name="kuairec", tasks=TASKS, policy="refuse"),
        fields=feature_fields(
            IDS, lists=["categories"], numbers=["duration_log"], min_count=config.min_count
        ),
        tasks=TASKS,
        group="user_id",
        sources={name: file.sha256() for name, file in files.items()},
    )


def _features(
    table: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, config: KuaiRecConfig
) -> pl.DataFrame:
    joined = table.join(users, on="user_id", how="left", maintain_order="left")
    joined = joined.join(items, on="video_id", how="left", maintain_order="left")
    ratio = pl.col("watch_ratio")
    return joined.with_columns(
        (ratio > config.watched_above).cast(pl.UInt8).alias("watched"),
        (ratio > config.rewatched_above).cast(pl.UInt8).alias("rewatched"),
        ((pl.col("timestamp") / 3600 + ZONE_HOURS).floor() % 24).cast(pl.Int64).alias("hour"),
        *durations(pl.col("video_duration")),
    ).drop("watch_ratio", "timestamp", "video_duration")


def _items(file: RawFile) -> pl.DataFrame:
    """Return the videos' categories; lists are written `[8, 9]`."""
    table = read(file, ITEM_LAYOUT)
    try:
        lists = [json.loads(text) for text in table["feat"]]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file.where}: 'feat' holds no lists like [8, 9]: {error}") from None
    return table.select("video_id", pl.Series("categories", lists, dtype=pl.List(pl.Int64)))


def _pair(table: pl.DataFrame) -> Pairs:
    pairs: Pairs = (table["user_id"].to_numpy() << 32) | table["video_id"].to_numpy()
    return pairs


def _among(pairs: Pairs, ordered: Pairs) -> pl.Series:
    place = np.minimum(np.searchsorted(ordered, pairs), len(ordered) - 1)
    return pl.Series(ordered[place] == pairs)
