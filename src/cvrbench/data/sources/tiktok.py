"""ICME 2019 short-video challenge (TikTok): watched to the end, liked.

Source: biendata.xyz/competition/icmechallenge2019, for academic use. One file without a header,
twelve columns separated by tabs; -1 is unknown. `finish` and `like` are parallel labels of an
exposure: a like needs no finished video. `create_time` orders the rows and is no feature.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from cvrbench.config.public import TikTokConfig
from cvrbench.data.archives import locate
from cvrbench.data.raw import RawField, RawStream
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, frames, sha256
from cvrbench.data.splits import (
    SPLIT,
    Fractions,
    chunks,
    cut_by_key,
    cut_by_time,
    time_cuts,
)

PATTERN = "final_track*_train.txt"
COLUMNS = (
    "uid", "user_city", "item_id", "author_id", "item_city", "channel", "finish", "like",
    "music_id", "did", "create_time", "video_duration",
)  # fmt: skip
IDS = ("uid", "user_city", "item_id", "author_id", "item_city", "channel", "music_id", "did")
UNKNOWN = -1
TASKS = (Task(name="finish", label="finish"), Task(name="like", label="like"))
LAYOUT = Layout(types=dict.fromkeys(COLUMNS, pl.Int64), names=COLUMNS, separator="\t")


def load(config: TikTokConfig, raw: Path) -> RawStream:
    """Prepare to read the log."""
    files = locate(raw, [PATTERN], dataset="tiktok")
    cuts: tuple[float, float] | None = None
    if config.split == "time":
        only_time = Layout(types={"create_time": pl.Int64}, names=COLUMNS, separator="\t")
        cuts = time_cuts(
            (table["create_time"] for file in files.values() for table in frames(file, only_time)),
            valid_fraction=config.valid_fraction,
            test_fraction=config.test_fraction,
        )
    fractions = Fractions(config.valid_fraction, config.test_fraction, config.split_seed)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for file in files.values():
            for table in frames(file, LAYOUT):
                account["read"] += len(table)
                if cuts is not None:
                    split = cut_by_time(table["create_time"], *cuts)
                else:
                    split = cut_by_key(table["uid"], fractions)
                yield table.with_columns(
                    split.alias(SPLIT),
                    *(pl.when(pl.col(c) != UNKNOWN).then(pl.col(c)).alias(c) for c in IDS),
                    pl.when(pl.col("video_duration") >= 0)
                    .then(pl.col("video_duration").clip(0).log1p())
                    .alias("duration_log"),
                )

    return RawStream(
        chunks=chunks(tables, where="tiktok", tasks=TASKS, policy="refuse"),
        fields=(
            *(RawField(name=name, kind="categorical", min_count=config.min_count) for name in IDS),
            RawField(name="duration_log", kind="numeric"),
        ),
        tasks=TASKS,
        group="uid",
        group_disjoint=config.split == "user",
        sources={name: sha256(file) for name, file in files.items()},
    )
