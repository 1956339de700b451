"""KuaiRand (Gao et al., CIKM 2022): a video feed's exposures, clicks, and what follows.

Source: kuairand.com, Zenodo record 10439422, CC BY-SA 4.0. Reads the standard log and joins the
user and the basic video features. Pure is read whole; 1K and 27K as streams of rows, with the
videos' features in memory (some 50 bytes a video: 0.2 GB of 1K's, 1.6 GB of 27K's). Never
features: every feedback column (`is_*`, `long_view`, play and stay times) and
`video_features_statistic`, whose averages span the whole month and so the test days. Pure's exact
duplicates are dropped before the split; of the larger logs they cannot be found without holding
the log, and are kept.
"""

from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import polars as pl

from cvrbench.config.dataset import KuaiRandConfig
from cvrbench.data.archives import find_files, locate
from cvrbench.data.checks import apply_policy, check_labels
from cvrbench.data.raw import RawField, RawSplits, RawStream
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, frames, read_csv, sha256, sha256s
from cvrbench.data.splits import SPLIT, Cut, Fractions, by_day, by_group, by_row, chunks, cut_by_key
from cvrbench.errors import DataError

LOG = "log_standard_*_pure.csv"
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


def load(config: KuaiRandConfig, raw: Path) -> RawSplits | RawStream:
    """Read, join, clean and split the log."""
    return _load_pure(config, raw) if config.variant == "pure" else _load_large(config, raw)


def _load_pure(config: KuaiRandConfig, raw: Path) -> RawSplits:
    files = find_files(raw, [LOG, USERS, VIDEOS], dataset="kuairand")
    log = _read_log(files)
    accounting = {"read": len(log)}
    log = log.unique(maintain_order=True)
    accounting["dropped: exact duplicate"] = accounting["read"] - len(log)
    log, changed = apply_policy(log, _tasks(config), config.unclicked_conversions)
    frame = _join(log, files)
    cut = _split(frame, config)
    return RawSplits(
        train=cut.train,
        valid=cut.valid,
        test=cut.test,
        fields=_fields(config),
        tasks=_tasks(config),
        group="user_id",
        group_disjoint=config.split == "user",
        unnested=config.unclicked_conversions == "keep",
        accounting=accounting | changed,
        sources=sha256s(files),
    )


def _load_large(config: KuaiRandConfig, raw: Path) -> RawStream:
    log, users_name, videos_name = (
        f"log_standard_*_{config.variant}*.csv",
        f"user_features_{config.variant}.csv",
        f"video_features_basic_{config.variant}*.csv",
    )
    files = locate(raw, [log, users_name, videos_name], dataset=f"kuairand_{config.variant}")
    users = _read_users(files[users_name].read(), files[users_name].where)
    videos = pl.concat(
        frame.with_columns(pl.col("tag").str.split(","))
        for name, file in files.items()
        if fnmatch(name, videos_name)
        for frame in frames(file, VIDEO_LAYOUT)
    )
    fractions = Fractions(config.valid_fraction, config.test_fraction, config.split_seed)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        row = 0
        for file in (files[name] for name in files if fnmatch(name, log)):
            for frame in frames(file, LOG_LAYOUT):
                account["read"] += len(frame)
                table = _features(frame, users, videos)
                yield table.with_columns(_codes(table, row, config, fractions).alias(SPLIT))
                row += len(frame)

    return RawStream(
        chunks=chunks(
            tables,
            where=f"kuairand {config.variant}",
            tasks=_tasks(config),
            policy=config.unclicked_conversions,
        ),
        fields=_fields(config),
        tasks=_tasks(config),
        group="user_id",
        group_disjoint=config.split == "user",
        unnested=config.unclicked_conversions == "keep",
        sources={name: sha256(file) for name, file in files.items()},
    )


def _codes(
    table: pl.DataFrame, first_row: int, config: KuaiRandConfig, fractions: Fractions
) -> pl.Series:
    """The split of each row of a stream."""
    if config.split == "time":
        day = table["date"]
        return (day >= config.valid_from).cast(pl.Int8) + (day >= config.test_from).cast(pl.Int8)
    if config.split == "user":
        return cut_by_key(table["user_id"], fractions)
    return cut_by_key(pl.int_range(first_row, first_row + len(table), eager=True), fractions)


def _fields(config: KuaiRandConfig) -> tuple[RawField, ...]:
    ids = ("user_id", "video_id", "tab", "hour", "duration_bin", *USER_FIELDS, *VIDEO_FIELDS)
    return (
        *(RawField(name=f, kind="categorical", min_count=config.min_count) for f in ids),
        RawField(name="tag", kind="multivalued", min_count=config.min_count),
        *(RawField(name=f, kind="numeric") for f in NUMBERS),
    )


def _tasks(config: KuaiRandConfig) -> tuple[Task, ...]:
    first, *others = config.conversions
    return (
        Task(name="ctr", label="is_click"),
        Task(name="cvr", label=first, parent="ctr", joint="ctcvr"),
        *(
            Task(name=SHORT_NAMES[c], label=c, parent="ctr", joint=f"ct_{SHORT_NAMES[c]}")
            for c in others
        ),
    )


def _read_log(files: dict[str, bytes]) -> pl.DataFrame:
    labels = ["is_click", *SHORT_NAMES]
    parts = []
    for file in sorted(f for f in files if f.startswith("log_standard_")):
        part = read_csv(
            files[file], file, needed=LOG_COLUMNS, dtypes=dict.fromkeys(LOG_COLUMNS, pl.Int64)
        )
        check_labels(part, labels, file)
        parts.append(part)
    return pl.concat(parts)


def _join(log: pl.DataFrame, files: dict[str, bytes]) -> pl.DataFrame:
    videos = read_csv(
        files[VIDEOS],
        VIDEOS,
        needed=["video_id", *VIDEO_FIELDS, "tag"],
        dtypes={"video_id": pl.Int64},
    )
    videos = videos.with_columns(pl.col("tag").str.split(","))
    return _features(log, _read_users(files[USERS], USERS), videos)


def _read_users(content: bytes, where: str) -> pl.DataFrame:
    return read_csv(
        content,
        where,
        needed=["user_id", *USER_FIELDS, *COUNTS],
        dtypes={"user_id": pl.Int64} | dict.fromkeys(COUNTS, pl.Float64),
    )


def _features(log: pl.DataFrame, users: pl.DataFrame, videos: pl.DataFrame) -> pl.DataFrame:
    frame = log.join(users, on="user_id", how="left", maintain_order="left")
    frame = frame.join(videos, on="video_id", how="left", maintain_order="left")
    seconds = pl.col("duration_ms") / 1000
    return frame.with_columns(
        pl.col("date").cast(pl.String).str.to_date("%Y%m%d"),
        (pl.col("hourmin") // 100).alias("hour"),
        # Bins of a quarter octave: 18 s, where the rule for a long view changes, is one of many.
        (seconds.clip(0.1).log(2) * 4).floor().cast(pl.Int64).alias("duration_bin"),
        seconds.clip(0).log1p().alias("duration_log"),
        *(pl.col(column).clip(0).log1p().alias(f"{name}_log") for column, name in COUNTS.items()),
    )


def _split(frame: pl.DataFrame, config: KuaiRandConfig) -> Cut:
    if config.split == "time":
        try:
            return by_day(frame, "date", valid_from=config.valid_from, test_from=config.test_from)
        except DataError as error:
            raise DataError(f"dataset kuairand: {error}") from None
    if config.split == "user":
        return by_group(
            frame,
            "user_id",
            valid_fraction=config.valid_fraction,
            test_fraction=config.test_fraction,
            seed=config.split_seed,
        )
    return by_row(
        frame,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
    )
