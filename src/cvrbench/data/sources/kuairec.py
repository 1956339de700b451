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

from cvrbench.config.public import KuaiRecConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import RawField, RawStream
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, frames, read_csv, sha256
from cvrbench.data.splits import SPLIT, chunks, time_cuts
from cvrbench.errors import DataError

BIG, SMALL, USERS, ITEMS = (
    "big_matrix.csv",
    "small_matrix.csv",
    "user_features.csv",
    "item_categories.csv",
)
USER_FIELDS = (
    "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
    "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
    "register_days_range", *(f"onehot_feat{i}" for i in range(18)),
)  # fmt: skip
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
TASKS = (
    Task(name="ctr", label="watched"),
    Task(name="cvr", label="rewatched", parent="ctr", joint="ctcvr"),
)


def load(config: KuaiRecConfig, raw: Path) -> RawStream:
    """Prepare to read both matrices."""
    files = locate(raw, [BIG, SMALL, USERS, ITEMS], dataset="kuairec")
    users, items = _users(files[USERS]), _items(files[ITEMS])
    tested = np.sort(np.concatenate([_pair(table) for table in frames(files[SMALL], PAIRS)]))
    times = (table["timestamp"].drop_nulls() for table in frames(files[BIG], LAYOUT))
    valid_from, _ = time_cuts(times, valid_fraction=config.valid_fraction, test_fraction=0.0)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for name in (BIG, SMALL):
            for table in frames(files[name], LAYOUT):
                account["read"] += len(table)
                split = pl.lit(2)
                if name == BIG:
                    kept = table.filter(~_among(_pair(table), tested))
                    account["dropped: pair is tested"] += len(table) - len(kept)
                    # A row without a time is trained on: it cannot be said to be late.
                    late = pl.col("timestamp") >= valid_from
                    table, split = kept, late.fill_null(value=False).cast(pl.Int8)
                yield _features(table.with_columns(split.alias(SPLIT)), users, items, config)

    ids = ("user_id", "video_id", "hour", "duration_bin", *USER_FIELDS)
    return RawStream(
        chunks=chunks(tables, where="kuairec", tasks=TASKS, policy="refuse"),
        fields=(
            *(RawField(name=name, kind="categorical", min_count=config.min_count) for name in ids),
            RawField(name="categories", kind="multivalued", min_count=config.min_count),
            RawField(name="duration_log", kind="numeric"),
        ),
        tasks=TASKS,
        group="user_id",
        sources={name: sha256(file) for name, file in files.items()},
    )


def _features(
    table: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, config: KuaiRecConfig
) -> pl.DataFrame:
    seconds = pl.col("video_duration") / 1000
    joined = table.join(users, on="user_id", how="left", maintain_order="left")
    joined = joined.join(items, on="video_id", how="left", maintain_order="left")
    ratio = pl.col("watch_ratio")
    return joined.with_columns(
        (ratio > config.watched_above).cast(pl.UInt8).alias("watched"),
        (ratio > config.rewatched_above).cast(pl.UInt8).alias("rewatched"),
        ((pl.col("timestamp") / 3600 + ZONE_HOURS).floor() % 24).cast(pl.Int64).alias("hour"),
        (seconds.clip(0.1).log(2) * 4).floor().cast(pl.Int64).alias("duration_bin"),
        seconds.clip(0).log1p().alias("duration_log"),
    ).drop("watch_ratio", "timestamp", "video_duration")


def _users(file: RawFile) -> pl.DataFrame:
    needed = ["user_id", *USER_FIELDS]
    return read_csv(file.read(), file.where, needed=needed, dtypes={"user_id": pl.Int64})


def _items(file: RawFile) -> pl.DataFrame:
    """Lists are written `[8, 9]`."""
    table = read_csv(
        file.read(), file.where, needed=["video_id", "feat"], dtypes={"video_id": pl.Int64}
    )
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
