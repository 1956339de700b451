"""Criteo Attribution Modeling for Bidding (Diemert et al., AdKDD 2017): displays, clicks, sales.

Source: ailab.criteo.com, CC BY-NC-SA 4.0. Tab-separated with a header, 30 days in order of time,
-1 for none. `conversion` says whether a sale followed within 30 days, with or without a click, and
one sale is noted at every display before it. Task `cvr` is therefore a sale after a clicked display
(`conversion_and_click`), or the sale that Criteo ascribes to the display (`attribution`).

Never features: what is known only later (`conversion_*`, `attribution`, `click_pos`, `click_nb`,
`cpo`), and `cost`, which is known after the auction. The last displays' sales may lie beyond the
log's end; `last_day` cuts them off.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from cvrbench.config.dataset import CriteoAttributionConfig
from cvrbench.data.archives import locate
from cvrbench.data.raw import RawStream, click_conversion, cut, feature_fields, stream_chunks
from cvrbench.data.sources.delimited import Layout, counted

PATTERN = "criteo_attribution_dataset*.tsv"
DAY = 86_400
IDS = ("campaign", *(f"cat{k}" for k in range(1, 10)))
NONE = -1
READ = ("timestamp", "uid", "click", "conversion", "attribution", "time_since_last_click", *IDS)
LAYOUT = Layout(types=dict.fromkeys(READ, pl.Int64), separator="\t")
TASKS = click_conversion("click", "sale")


def load(config: CriteoAttributionConfig, raw: Path) -> RawStream:
    """Prepare to read the log."""
    files = locate(raw, [PATTERN], dataset="criteo_attribution")
    valid_from, test_from = config.valid_from_day * DAY, config.test_from_day * DAY
    until = (config.last_day + 1) * DAY

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for table in counted(files.values(), LAYOUT, account):
            kept = table.filter(pl.col("timestamp") < until)
            account["dropped: after the last day"] += len(table) - len(kept)
            if config.conversion == "conversion_and_click":
                alone = (kept["conversion"] == 1) & (kept["click"] == 0)
                account["counted as no sale: conversion = 1 with click = 0"] += int(alone.sum())
            split = cut(kept["timestamp"], valid_from, test_from)
            yield kept.with_columns(split, *_columns(config))

    return RawStream(
        chunks=stream_chunks(
            tables,
            name="criteo_attribution",
            tasks=TASKS,
            policy=config.unclicked_conversions,
        ),
        fields=feature_fields(
            (*IDS, "hour"), numbers=["since_click_log"], min_count=config.min_count
        ),
        tasks=TASKS,
        group="uid",
        unnested=config.unclicked_conversions == "keep",
        sources={name: file.sha256() for name, file in files.items()},
    )


def _columns(config: CriteoAttributionConfig) -> tuple[pl.Expr, ...]:
    sale = pl.col("attribution")
    if config.conversion == "conversion_and_click":
        sale = pl.when(pl.col("click") == 0).then(0).otherwise(pl.col("conversion"))
    since = pl.col("time_since_last_click")
    return (
        sale.alias("sale"),
        (pl.col("timestamp") // 3600 % 24).alias("hour"),
        pl.when(since >= 0).then(since.clip(0).log1p()).alias("since_click_log"),
        *(pl.when(pl.col(c) != NONE).then(pl.col(c)).alias(c) for c in IDS),
    )
