"""KuaiRand-Pure (Gao et al., CIKM 2022): a video feed's exposures, clicks, and what follows.

Source: kuairand.com, Zenodo record 10439422, CC BY-SA 4.0. Reads the standard log and joins the
user and the basic video features. Never features: every feedback column (`is_*`, `long_view`,
play and stay times) and `video_features_statistic`, whose averages span the whole month and so
the test days. Exact duplicates are dropped before the split.
"""

from pathlib import Path

import polars as pl

from cvrbench.config.dataset import KuaiRandConfig
from cvrbench.data.archives import find_files
from cvrbench.data.guards import apply_policy, check_labels
from cvrbench.data.raw import RawField, RawSplits
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import read_csv, sha256s
from cvrbench.data.splits import Cut, by_day, by_group, by_row
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
SHORT_NAMES = {
    "is_like": "like",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_profile_enter": "profile_enter",
    "long_view": "long_view",
}


def load(config: KuaiRandConfig, raw: Path) -> RawSplits:
    """Read, join, clean and split the log."""
    files = find_files(raw, [LOG, USERS, VIDEOS], dataset="kuairand")
    log = _read_log(files)
    accounting = {"read": len(log)}
    log = log.unique(maintain_order=True)
    accounting["dropped: exact duplicate"] = accounting["read"] - len(log)
    log, changed = apply_policy(log, _tasks(config), config.unclicked_conversions)
    frame = _join(log, files)
    cut = _split(frame, config)
    ids = ("user_id", "video_id", "tab", "hour", "duration_bin", *USER_FIELDS, *VIDEO_FIELDS)
    return RawSplits(
        train=cut.train,
        valid=cut.valid,
        test=cut.test,
        fields=(
            *(RawField(name=f, kind="categorical", min_count=config.min_count) for f in ids),
            RawField(name="tag", kind="multivalued", min_count=config.min_count),
            *(RawField(name=f, kind="numeric") for f in NUMBERS),
        ),
        tasks=_tasks(config),
        group="user_id",
        group_disjoint=config.split == "user",
        unnested=config.unclicked_conversions == "keep",
        accounting=accounting | changed,
        sources=sha256s(files),
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
    counts = {"follow_user_num": "follow", "fans_user_num": "fans", "friend_user_num": "friend"}
    counts["register_days"] = "register"
    users = read_csv(
        files[USERS],
        USERS,
        needed=["user_id", *USER_FIELDS, *counts],
        dtypes={"user_id": pl.Int64} | dict.fromkeys(counts, pl.Float64),
    )
    videos = read_csv(
        files[VIDEOS],
        VIDEOS,
        needed=["video_id", *VIDEO_FIELDS, "tag"],
        dtypes={"video_id": pl.Int64},
    )
    frame = log.join(users, on="user_id", how="left", maintain_order="left")
    frame = frame.join(videos, on="video_id", how="left", maintain_order="left")
    seconds = pl.col("duration_ms") / 1000
    return frame.with_columns(
        pl.col("date").cast(pl.String).str.to_date("%Y%m%d"),
        (pl.col("hourmin") // 100).alias("hour"),
        # Bins of a quarter octave: 18 s, where the rule for a long view changes, is one of many.
        (seconds.clip(0.1).log(2) * 4).floor().cast(pl.Int64).alias("duration_bin"),
        seconds.clip(0).log1p().alias("duration_log"),
        pl.col("tag").str.split(","),
        *(pl.col(column).clip(0).log1p().alias(f"{name}_log") for column, name in counts.items()),
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
