"""Public logs read as streams of rows: AliExpress, Tenrec, TikTok and Criteo Attribution.

**AliExpress search** (Li et al., CIKM 2020), one country at a time: browsed, clicked or bought.
tianchi.aliyun.com/dataset/74690, after login. Four files of a country, without headers: a line per
result page with the user's columns, a line per shown item with the items' columns, each for
training and test; both begin with the search id that joins them. The columns' roles are those of
MTReclib. Training and test are the provider's, in the order of time; validation pages are drawn
from the training pages. There is neither user nor item id: pages are the groups, and are held in
memory, 33 numbers of 4 bytes each, 0.13 GB per million pages.

**Tenrec** (Yuan et al., NeurIPS 2022): exposures of a feed, clicks, and likes, shares or follows.
Tencent, after agreeing to its licence. One csv with a header per scenario. There is no time column,
so rows can only be split by user or, as the official protocol does, at random. Items watched
before, `hist_1` to `hist_10`, become one bag; 0 fills it up and is left out.

**ICME 2019 short-video challenge** (TikTok): watched to the end, liked.
biendata.xyz/competition/icmechallenge2019, for academic use. One file without a header, twelve
columns separated by tabs; -1 is unknown. `finish` and `like` are parallel labels of an exposure: a
like needs no finished video. `create_time` orders the rows and is no feature.

**Criteo Attribution Modeling for Bidding** (Diemert et al., AdKDD 2017): displays, clicks, sales.
ailab.criteo.com, CC BY-NC-SA 4.0. Tab-separated with a header, 30 days in order of time, -1 for
none. `conversion` says whether a sale followed within 30 days, with or without a click, and one
sale is noted at every display before it. Task `cvr` is therefore a sale after a clicked display
(`conversion_and_click`), or the sale that Criteo ascribes to the display (`attribution`). Never
features: what is known only later (`conversion_*`, `attribution`, `click_pos`, `click_nb`, `cpo`),
and `cost`, which is known after the auction. The last displays' sales may lie beyond the log's end;
`last_day` cuts them off.
"""

from collections import Counter
from collections.abc import Iterator
from glob import escape
from pathlib import Path

import numpy as np
import polars as pl

from cvrbench.config.dataset import (
    AliExpressConfig,
    CriteoAttributionConfig,
    TenrecConfig,
    TikTokConfig,
)
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import (
    SPLIT,
    Fractions,
    RawStream,
    by_key,
    click_conversion,
    cut,
    feature_fields,
    row_uniforms,
    streamed,
    time_cuts,
)
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import Layout, counted, frames, read
from cvrbench.errors import DataError

SEARCH, LABEL = "search_id", "item_49"
USER_COLUMNS = (SEARCH, *(f"user_{k}" for k in range(2, 34)))
ITEM_COLUMNS = (SEARCH, *(f"item_{k}" for k in range(2, 50)))
USER_IDS = (*(f"user_{k}" for k in range(2, 9)), "user_32", "user_33")
ITEM_IDS = ("item_19", "item_34", "item_35", "item_36", "item_40", "item_41", "item_42")
USER_NUMBERS = tuple(f"user_{k}" for k in range(9, 32))
ITEM_NUMBERS = tuple(f"item_{k}" for k in range(2, 49) if f"item_{k}" not in ITEM_IDS)
BROWSED, CLICKED, BOUGHT = range(3)


def load_aliexpress(config: AliExpressConfig, raw: Path) -> RawStream:
    """Prepare to read a country's four files."""
    country = config.country.lower()
    halves = [f"{country}_{of}_{half}" for half in ("train", "test") for of in ("user", "item")]
    found = locate(raw, [f"{h}*" for h in halves], dataset=f"aliexpress country={config.country}")
    files = [next(f for name, f in found.items() if name.startswith(half)) for half in halves]
    # The provider's halves are never split: test pages would validate.
    fractions = Fractions(config.valid_fraction, 0.0, config.split_seed)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for number, (users, items) in enumerate((files[:2], files[2:])):
            pages, is_test = _pages(users), number == 1
            for table in counted([items], _layout(ITEM_COLUMNS, ITEM_IDS), account):
                joined = table.join(pages, on=SEARCH, how="inner", maintain_order="left")
                account["dropped: search id has no page"] += len(table) - len(joined)
                _check_label(joined, items)
                split = pl.lit(2) if is_test else by_key(joined[SEARCH], fractions)
                yield joined.with_columns(
                    split.alias(SPLIT),
                    (pl.col(LABEL) >= CLICKED).cast(pl.UInt8).alias("click"),
                    (pl.col(LABEL) == BOUGHT).cast(pl.UInt8).alias("conversion"),
                ).drop(LABEL)

    ids, numbers = (*USER_IDS, *ITEM_IDS), (*USER_NUMBERS, *ITEM_NUMBERS)
    return streamed(
        tables,
        name="aliexpress",
        files=found,
        fields=feature_fields(ids, numbers=numbers, min_count=config.min_count),
        tasks=click_conversion("click", "conversion"),
        group=SEARCH,
    )


def _layout(columns: tuple[str, ...], ids: tuple[str, ...]) -> Layout:
    types: dict[str, type[pl.DataType]] = dict.fromkeys(columns, pl.Float32)
    types |= dict.fromkeys(ids, pl.Int32)
    types |= dict.fromkeys({SEARCH, LABEL} & set(columns), pl.Int64)
    return Layout(types=types, names=columns)


def _pages(file: RawFile) -> pl.DataFrame:
    pages = read(file, _layout(USER_COLUMNS, USER_IDS))
    twice = pages.filter(pages[SEARCH].is_duplicated())
    if len(twice):
        raise DataError(
            f"{file.where}: search id {twice[SEARCH][0]} stands in more than one line, expected "
            "one line per result page"
        )
    return pages


def _check_label(table: pl.DataFrame, file: RawFile) -> None:
    wrong = table.filter(~pl.col(LABEL).is_in([BROWSED, CLICKED, BOUGHT]))
    if len(wrong):
        raise DataError(
            f"{file.where}: the last column holds {wrong[LABEL][0]}, expected 0 browsed, 1 clicked "
            "or 2 bought"
        )


TENREC_IDS = ("user_id", "item_id", "video_category", "gender", "age")
HISTORY, PADDING = tuple(f"hist_{k}" for k in range(1, 11)), 0


def load_tenrec(config: TenrecConfig, raw: Path) -> RawStream:
    """Prepare to read a scenario's log."""
    files = locate(raw, [f"{escape(config.scenario)}.csv"], dataset="tenrec")
    (file,) = files.values()
    names = (*TENREC_IDS, *HISTORY, "click", config.conversion)
    layout = Layout(types=dict.fromkeys(names, pl.Int64), nullable={*TENREC_IDS[2:], *HISTORY})
    fractions = Fractions.of(config)
    kept_share = _kept_share(config, file)
    items = pl.concat_list(HISTORY).list.eval(pl.element().filter(pl.element() != PADDING))

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        row = 0
        for table in counted([file], layout, account):
            rows = pl.Series(np.arange(row, row + len(table)))
            row += len(table)
            key = table["user_id"] if config.split == "user" else rows
            table = table.with_columns(
                by_key(key, fractions), items.list.drop_nulls().alias("history")
            )
            if kept_share is not None:
                uniforms = row_uniforms(config.split_seed + 1, rows.to_numpy())
                kept = table.filter((pl.col("click") == 1) | pl.Series(uniforms < kept_share))
                account["dropped: sampled out, click = 0"] += len(table) - len(kept)
                table = kept
            yield table

    return streamed(
        tables,
        name="tenrec",
        files=files,
        fields=feature_fields(TENREC_IDS, lists=["history"], min_count=config.min_count),
        tasks=click_conversion("click", config.conversion),
        group="user_id",
        group_disjoint=config.split == "user",
        policy=config.unclicked_conversions,
    )


def _kept_share(config: TenrecConfig, file: RawFile) -> float | None:
    """Return the share of unclicked rows to keep; None if all are kept."""
    if config.negatives_per_positive is None:
        return None
    rows = clicks = 0
    for table in frames(file, Layout(types={"click": pl.Int64})):
        rows, clicks = rows + len(table), clicks + int((table["click"] == 1).sum())
    return config.negatives_per_positive * clicks / max(rows - clicks, 1)


UNKNOWN = -1
TIKTOK_COLUMNS = (
    "uid", "user_city", "item_id", "author_id", "item_city", "channel", "finish", "like",
    "music_id", "did", "create_time", "video_duration",
)  # fmt: skip
TIKTOK_IDS = ("uid", "user_city", "item_id", "author_id", "item_city", "channel", "music_id", "did")


def load_tiktok(config: TikTokConfig, raw: Path) -> RawStream:
    """Prepare to read the log."""
    files = locate(raw, ["final_track*_train.txt"], dataset="tiktok")
    fractions = Fractions.of(config)
    cuts: tuple[float, float] | None = None

    def rows(columns: tuple[str, ...], account: Counter[str]) -> Iterator[pl.DataFrame]:
        types = dict.fromkeys(columns, pl.Int64)
        layout = Layout(types=types, names=TIKTOK_COLUMNS, separator="\t")
        return counted(files.values(), layout, account)

    if config.split == "time":
        times = (table["create_time"] for table in rows(("create_time",), Counter()))
        cuts = time_cuts(
            times, valid_fraction=config.valid_fraction, test_fraction=config.test_fraction
        )

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        seconds = pl.col("video_duration")
        for table in rows(TIKTOK_COLUMNS, account):
            split = cut(table["create_time"], *cuts) if cuts else by_key(table["uid"], fractions)
            yield table.with_columns(
                split,
                *_known(TIKTOK_IDS),
                pl.when(seconds >= 0).then(seconds.clip(0).log1p()).alias("duration_log"),
            )

    return streamed(
        tables,
        name="tiktok",
        files=files,
        fields=feature_fields(TIKTOK_IDS, numbers=["duration_log"], min_count=config.min_count),
        tasks=(Task(name="finish", label="finish"), Task(name="like", label="like")),
        group="uid",
        group_disjoint=config.split == "user",
    )


def _known(columns: tuple[str, ...]) -> list[pl.Expr]:
    """Ids, absent where they are unknown."""
    return [pl.when(pl.col(c) != UNKNOWN).then(pl.col(c)).alias(c) for c in columns]


DAY = 86_400
CRITEO_IDS = ("campaign", *(f"cat{k}" for k in range(1, 10)))
CRITEO_COLUMNS = (
    "timestamp", "uid", "click", "conversion", "attribution", "time_since_last_click", *CRITEO_IDS,
)  # fmt: skip


def load_criteo(config: CriteoAttributionConfig, raw: Path) -> RawStream:
    """Prepare to read the log."""
    files = locate(raw, ["criteo_attribution_dataset*.tsv"], dataset="criteo_attribution")
    layout = Layout(types=dict.fromkeys(CRITEO_COLUMNS, pl.Int64), separator="\t")
    after_click, sale = config.conversion == "conversion_and_click", pl.col("attribution")
    if after_click:
        sale = pl.when(pl.col("click") == 0).then(0).otherwise(pl.col("conversion"))
    since = pl.col("time_since_last_click")

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for table in counted(files.values(), layout, account):
            kept = table.filter(pl.col("timestamp") < (config.last_day + 1) * DAY)
            account["dropped: after the last day"] += len(table) - len(kept)
            if after_click:
                alone = (kept["conversion"] == 1) & (kept["click"] == 0)
                account["counted as no sale: conversion = 1 with click = 0"] += int(alone.sum())
            yield kept.with_columns(
                cut(kept["timestamp"], config.valid_from_day * DAY, config.test_from_day * DAY),
                sale.alias("sale"),
                (pl.col("timestamp") // 3600 % 24).alias("hour"),
                pl.when(since >= 0).then(since.clip(0).log1p()).alias("since_click_log"),
                *_known(CRITEO_IDS),
            )

    ids = (*CRITEO_IDS, "hour")
    return streamed(
        tables,
        name="criteo_attribution",
        files=files,
        fields=feature_fields(ids, numbers=["since_click_log"], min_count=config.min_count),
        tasks=click_conversion("click", "sale"),
        group="uid",
        policy=config.unclicked_conversions,
    )
