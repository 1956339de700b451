"""ICME 2019 short-video challenge (TikTok): watched to the end, liked.

Source: biendata.xyz/competition/icmechallenge2019, for academic use. One file without a header,
twelve columns separated by tabs; -1 is unknown. `finish` and `like` are parallel labels of an
exposure: a like needs no finished video. `create_time` orders the rows and is no feature.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from cvrbench.config.dataset import TikTokConfig
from cvrbench.data.archives import locate
from cvrbench.data.raw import (
    Fractions,
    RawStream,
    by_key,
    cut,
    feature_fields,
    stream_chunks,
    time_cuts,
)
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, counted

PATTERN = "final_track*_train.txt"
COLUMNS = (
    "uid", "user_city", "item_id", "author_id", "item_city", "channel", "finish", "like",
    "music_id", "did", "create_time", "video_duration",
)  # fmt: skip
IDS = ("uid", "user_city", "item_id", "author_id", "item_city", "channel", "music_id", "did")
UNKNOWN = -1
TASKS = (Task(name="finish", label="finish"), Task(name="like", label="like"))
LAYOUT = Layout(types=dict.fromkeys(COLUMNS, pl.Int64), names=COLUMNS, separator="\t")
ONLY_TIME = Layout(types={"create_time": pl.Int64}, names=COLUMNS, separator="\t")


def load(config: TikTokConfig, raw: Path) -> RawStream:
    """Prepare to read the log."""
    files = locate(raw, [PATTERN], dataset="tiktok")
    fractions = Fractions(config.valid_fraction, config.test_fraction, config.split_seed)
    cuts: tuple[float, float] | None = None
    if config.split == "time":
        cuts = time_cuts(
            (table["create_time"] for table in counted(files.values(), ONLY_TIME, Counter())),
            valid_fraction=config.valid_fraction,
            test_fraction=config.test_fraction,
        )

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        seconds = pl.col("video_duration")
        for table in counted(files.values(), LAYOUT, account):
            if cuts is None:
                split = by_key(table["uid"], fractions)
            else:
                split = cut(table["create_time"], *cuts)
            yield table.with_columns(
                split,
                *(pl.when(pl.col(c) != UNKNOWN).then(pl.col(c)).alias(c) for c in IDS),
                pl.when(seconds >= 0).then(seconds.clip(0).log1p()).alias("duration_log"),
            )

    return RawStream(
        chunks=stream_chunks(tables, name="tiktok", tasks=TASKS, policy="refuse"),
        fields=feature_fields(IDS, numbers=["duration_log"], min_count=config.min_count),
        tasks=TASKS,
        group="uid",
        group_disjoint=config.split == "user",
        sources={name: file.sha256() for name, file in files.items()},
    )
