"""Kuaishou's video feeds, as streams of rows: KuaiRand and KuaiRec.

**KuaiRand** (Gao et al., CIKM 2022): exposures, clicks, and what follows. kuairand.com, Zenodo
record 10439422, CC BY-SA 4.0. Reads the standard log and joins the user and the basic video
features. Pure is read whole; 1K and 27K as streams of rows, with the videos' features in memory
(some 50 bytes a video: 0.2 GB of 1K's, 1.6 GB of 27K's). Never features: every feedback column
(`is_*`, `long_view`, play and stay times) and `video_features_statistic`, whose averages span the
whole month and so the test days. The watch ratio of a click is its play time over the video's
duration, at most 1; the duration is known before and a feature. Pure's exact duplicates are dropped
before the split; of the larger logs they cannot be found without holding the log, and are kept.

**KuaiRec 2.0** (Gao et al., CIKM 2022): watch ratios, one part nearly complete. kuairec.com, Zenodo
record 18164998, CC BY-SA 4.0. There is no click and no like: both tasks are thresholds on
`watch_ratio` (watched time over the video's length), named so in the configuration, or with
`kuairec_watch` one of them and the ratio itself, whose values above 1 (the video ran again) are 1.
Training and validation rows are `big_matrix.csv`, by time, without the pairs of a user and a video
that the test has; the test is `small_matrix.csv`, nearly every such pair. `item_daily_features.csv`
counts the same or later days and is never a feature.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import (
    KuaiRandConfig,
    KuaiRandHistoryConfig,
    KuaiRecConfig,
    KuaiRecWatchConfig,
)
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import (
    SPLIT,
    Chunks,
    Fractions,
    RawStream,
    apply_policy,
    by_day,
    by_group,
    by_key,
    by_row,
    check_labels,
    click_conversion,
    feature_fields,
    stream_chunks,
    streamed,
    table_chunks,
    time_cuts,
)
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, counted, frames, read
from cvrbench.data.sources.history import clicks_before, counts_before
from cvrbench.errors import DataError

USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
LOG_COLUMNS = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow",
    "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms",
    "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab",
)  # fmt: skip
USER_FIELDS = (
    "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
    "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
    "register_days_range", *(f"onehot_feat{i}" for i in range(18)),
)  # fmt: skip
VIDEO_FIELDS = (
    "author_id", "video_type", "upload_dt", "upload_type", "music_id", "music_type",
)  # fmt: skip
NUMBERS = ("duration_log", "follow_log", "fans_log", "friend_log", "register_log")
COUNTS = {
    "follow_user_num": "follow",
    "fans_user_num": "fans",
    "friend_user_num": "friend",
    "register_days": "register",
}
LOG_LAYOUT = Layout(types=dict.fromkeys(LOG_COLUMNS, pl.Int64))
USER_LAYOUT = Layout(
    types={"user_id": pl.Int64}
    | dict.fromkeys(USER_FIELDS, pl.String)
    | dict.fromkeys(COUNTS, pl.Float64),
    is_quoted=True,
    nullable={*USER_FIELDS, *COUNTS},
)
VIDEO_LAYOUT = Layout(
    types={"video_id": pl.Int64, "author_id": pl.Int64, "music_id": pl.Int64}
    | dict.fromkeys(("video_type", "upload_dt", "upload_type", "music_type", "tag"), pl.String),
    is_quoted=True,
    nullable={*VIDEO_FIELDS, "tag"},
)
SHORT_NAMES = {
    "is_like": "like",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_profile_enter": "profile_enter",
    "long_view": "long_view",
}
WATCH_RATIO = "watch_ratio"
IDS = ("user_id", "video_id", "tab", "hour", "duration_bin", *USER_FIELDS, *VIDEO_FIELDS)
CLICKED = {"video_id": "clicked_videos", "author_id": "clicked_authors", "tag": "clicked_tags"}
"""Column of a clicked video -> list of them before an exposure."""
COUNTED = {"user_id": "user", "video_id": "video", "author_id": "author"}
"""Whose exposures, clicks and conversions before an exposure are counted."""
RATES = ("seen_log", "click_rate", "conversion_rate")


def load_kuairand(config: KuaiRandConfig, raw: Path) -> RawStream:
    """Read the users and videos, and prepare to read the log; Pure's log is read at once."""
    variant = config.variant
    name = "kuairand" if variant == "pure" else f"kuairand_{variant}"
    log, users, videos = (
        f"log_standard_*_{variant}*.csv",
        f"user_features_{variant}.csv",
        f"video_features_basic_{variant}*.csv",
    )
    files = locate(raw, [log, users, videos], dataset=name)
    logs = [file for found, file in files.items() if fnmatch(found, log)]
    features = _Features(
        read(files[users], USER_LAYOUT),
        pl.concat(
            frame.with_columns(pl.col("tag").str.split(","))
            for found, file in files.items()
            if fnmatch(found, videos)
            for frame in frames(file, VIDEO_LAYOUT)
        ),
    )
    chunks = _in_memory if variant == "pure" else _streamed
    lists, numbers = ["tag"], [*NUMBERS]
    if isinstance(config, KuaiRandHistoryConfig):
        lists += CLICKED.values()
        numbers += [f"{prefix}_{rate}" for prefix in COUNTED.values() for rate in RATES]
    return RawStream(
        chunks=chunks(config, logs, features),
        fields=feature_fields(IDS, lists=lists, numbers=numbers, min_count=config.min_count),
        tasks=_tasks(config),
        group="user_id",
        group_disjoint=config.split == "user",
        unnested=config.unclicked_conversions == "keep",
        sources={found: file.sha256() for found, file in files.items()},
    )


class _Features(NamedTuple):
    """The features that rows of the log are joined with."""

    users: pl.DataFrame
    videos: pl.DataFrame

    def join(self, log: pl.DataFrame) -> pl.DataFrame:
        frame = log.join(self.users, on="user_id", how="left", maintain_order="left")
        frame = frame.join(self.videos, on="video_id", how="left", maintain_order="left")
        return frame.with_columns(
            pl.col("date").cast(pl.String).str.to_date("%Y%m%d"),
            (pl.col("hourmin") // 100).alias("hour"),
            *durations(pl.col("duration_ms")),
            *(pl.col(count).clip(0).log1p().alias(f"{n}_log") for count, n in COUNTS.items()),
        )


def durations(milliseconds: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return a video's duration in bins, and as the logarithm of seconds.

    Bins of a quarter octave: 18 s, where the rule for a long view changes, is one edge of many.
    """
    seconds = milliseconds / 1000
    return (
        (seconds.clip(0.1).log(2) * 4).floor().cast(pl.Int64).alias("duration_bin"),
        seconds.clip(0).log1p().alias("duration_log"),
    )


def _in_memory(config: KuaiRandConfig, logs: list[RawFile], features: _Features) -> Chunks:
    parts = []
    for file in logs:
        part = read(file, LOG_LAYOUT)
        check_labels(part, ["is_click", *SHORT_NAMES], file.name)
        parts.append(part)
    log = pl.concat(parts)
    rows = _with_ratio(log.unique(maintain_order=True), config)
    accounting = {"read": len(log), "dropped: exact duplicate": len(log) - len(rows)}
    rows, changed = apply_policy(rows, _tasks(config), config.unclicked_conversions)
    table = features.join(rows)
    if isinstance(config, KuaiRandHistoryConfig):
        table = _with_history(table, config)
    fractions = Fractions.of(config)
    if config.split == "time":
        split = _by_day(table["date"], config)
    elif config.split == "user":
        split = by_group(table["user_id"], fractions)
    else:
        split = by_row(len(table), fractions)
    return table_chunks(table.with_columns(split), accounting | changed)


def _with_ratio(log: pl.DataFrame, config: KuaiRandConfig) -> pl.DataFrame:
    """Add the watch ratio of clicked rows, if it is a label; a video without a length has 0."""
    if WATCH_RATIO not in config.conversions:
        return log
    played = pl.col("is_click") * pl.col("play_time_ms") / pl.col("duration_ms")
    ratio = pl.when(pl.col("duration_ms") > 0).then(played.clip(0, 1)).otherwise(0.0)
    return log.with_columns(ratio.alias(WATCH_RATIO))


def _with_history(table: pl.DataFrame, config: KuaiRandHistoryConfig) -> pl.DataFrame:
    """Add what was known before each exposure; conversions are those of the first kind."""
    click, conversion = "is_click", config.conversions[0]
    lists = clicks_before(table, "user_id", click, [*CLICKED], config.history)
    counts = [
        column
        for key, prefix in COUNTED.items()
        for column in counts_before(table, key, click, conversion, prefix)
    ]
    return table.with_columns(*(column.alias(CLICKED[column.name]) for column in lists), *counts)


def _streamed(config: KuaiRandConfig, logs: list[RawFile], features: _Features) -> Chunks:
    fractions = Fractions.of(config)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        row = 0
        for frame in counted(logs, LOG_LAYOUT, account):
            table = features.join(_with_ratio(frame, config))
            if config.split == "time":
                split = _by_day(table["date"], config)
            elif config.split == "user":
                split = by_key(table["user_id"], fractions)
            else:
                split = by_key(pl.int_range(row, row + len(frame), eager=True), fractions)
            row += len(frame)
            yield table.with_columns(split)

    return stream_chunks(
        tables,
        name=f"kuairand {config.variant}",
        tasks=_tasks(config),
        policy=config.unclicked_conversions,
    )


def _by_day(days: pl.Series, config: KuaiRandConfig) -> pl.Series:
    try:
        return by_day(days, valid_from=config.valid_from, test_from=config.test_from)
    except DataError as error:
        raise DataError(f"dataset kuairand: {error}") from None


def _tasks(config: KuaiRandConfig) -> tuple[Task, ...]:
    first, *others = config.conversions
    names = {**SHORT_NAMES, WATCH_RATIO: "watch"}
    tasks = (
        *click_conversion("is_click", first),
        *(Task(name=names[c], label=c, parent="ctr", joint=f"ct_{names[c]}") for c in others),
    )
    return tuple(replace(t, kind="ratio") if t.label == WATCH_RATIO else t for t in tasks)


BIG, SMALL, PEOPLE, ITEMS = (
    "big_matrix.csv",
    "small_matrix.csv",
    "user_features.csv",
    "item_categories.csv",
)
PEOPLE_LAYOUT = Layout(
    types={"user_id": pl.Int64} | dict.fromkeys(USER_FIELDS, pl.String),
    is_quoted=True,
    nullable=USER_FIELDS,
)
ITEM_LAYOUT = Layout(types={"video_id": pl.Int64, "feat": pl.String}, is_quoted=True)
RATINGS: dict[str, type[pl.DataType]] = {
    "user_id": pl.Int64,
    "video_id": pl.Int64,
    "video_duration": pl.Float64,
    "timestamp": pl.Float64,
    "watch_ratio": pl.Float64,
}
RATING_LAYOUT = Layout(types=RATINGS, nullable={"timestamp"})
PAIRS = Layout(types={"user_id": pl.Int64, "video_id": pl.Int64})
Pairs = npt.NDArray[np.int64]
ZONE_HOURS = 8
"""The feed's users live in UTC+8; their hour of the day is the feature."""
RATED_IDS = ("user_id", "video_id", "hour", "duration_bin", *USER_FIELDS)


def load_kuairec(config: KuaiRecConfig | KuaiRecWatchConfig, raw: Path) -> RawStream:
    """Prepare to read both matrices."""
    files = locate(raw, [BIG, SMALL, PEOPLE, ITEMS], dataset="kuairec")
    users, items = read(files[PEOPLE], PEOPLE_LAYOUT), _items(files[ITEMS])
    tested = np.sort(np.concatenate([_pair(table) for table in frames(files[SMALL], PAIRS)]))
    times = (table["timestamp"].drop_nulls() for table in frames(files[BIG], RATING_LAYOUT))
    valid_from, _ = time_cuts(times, valid_fraction=config.valid_fraction, test_fraction=0.0)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for table in counted([files[BIG]], RATING_LAYOUT, account):
            kept = table.filter(~_among(_pair(table), tested))
            account["dropped: pair is tested"] += len(table) - len(kept)
            # A row without a time is trained on: it cannot be said to be late.
            late = (pl.col("timestamp") >= valid_from).fill_null(value=False).cast(pl.Int8)
            yield _features(kept.with_columns(late.alias(SPLIT)), users, items, config)
        for table in counted([files[SMALL]], RATING_LAYOUT, account):
            yield _features(table.with_columns(pl.lit(2).alias(SPLIT)), users, items, config)

    return streamed(
        tables,
        name="kuairec",
        files=files,
        fields=feature_fields(
            RATED_IDS, lists=["categories"], numbers=["duration_log"], min_count=config.min_count
        ),
        tasks=click_conversion("watched", "rewatched")
        if isinstance(config, KuaiRecConfig)
        else (
            Task(name="ctr", label="watched"),
            Task(name="watch", label="watched_share", kind="ratio"),
        ),
        group="user_id",
    )


def _features(
    table: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    config: KuaiRecConfig | KuaiRecWatchConfig,
) -> pl.DataFrame:
    joined = table.join(users, on="user_id", how="left", maintain_order="left")
    joined = joined.join(items, on="video_id", how="left", maintain_order="left")
    ratio = pl.col("watch_ratio")
    second = ratio.clip(upper_bound=1).alias("watched_share")
    if isinstance(config, KuaiRecConfig):
        second = (ratio > config.rewatched_above).cast(pl.UInt8).alias("rewatched")
    return joined.with_columns(
        (ratio > config.watched_above).cast(pl.UInt8).alias("watched"),
        second,
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
