"""Tenrec (Yuan et al., NeurIPS 2022): exposures of a feed, clicks, and likes, shares or follows.

Source: Tencent, after agreeing to its licence. One csv with a header per scenario. There is no time
column, so rows can only be split by user or, as the official protocol does, at random. Items
watched before, `hist_1` to `hist_10`, become one bag; 0 fills it up and is left out.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from cvrbench.config.dataset import TenrecConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import (
    Fractions,
    RawStream,
    by_key,
    click_conversion,
    feature_fields,
    row_uniforms,
    stream_chunks,
)
from cvrbench.data.sources.delimited import Layout, counted, frames

IDS = ("user_id", "item_id", "video_category", "gender", "age")
HISTORY = tuple(f"hist_{k}" for k in range(1, 11))
PADDING = 0


def load(config: TenrecConfig, raw: Path) -> RawStream:
    """Prepare to read a scenario's log."""
    (file,) = locate(raw, [f"{config.scenario}.csv"], dataset="tenrec").values()
    names = (*IDS, *HISTORY, "click", config.conversion)
    layout = Layout(types=dict.fromkeys(names, pl.Int64), nullable={*IDS[2:], *HISTORY})
    fractions = Fractions(config.valid_fraction, config.test_fraction, config.split_seed)
    tasks = click_conversion("click", config.conversion)
    kept_share = _kept_share(config, file)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        row = 0
        for table in counted([file], layout, account):
            rows = pl.Series(np.arange(row, row + len(table)))
            row += len(table)
            key = table["user_id"] if config.split == "user" else rows
            table = table.with_columns(by_key(key, fractions), _history())
            if kept_share is not None:
                uniforms = row_uniforms(config.split_seed + 1, rows.to_numpy())
                kept = table.filter((pl.col("click") == 1) | pl.Series(uniforms < kept_share))
                account["dropped: sampled out, click = 0"] += len(table) - len(kept)
                table = kept
            yield table

    return RawStream(
        chunks=stream_chunks(
            tables, name="tenrec", tasks=tasks, policy=config.unclicked_conversions
        ),
        fields=feature_fields(IDS, lists=["history"], min_count=config.min_count),
        tasks=tasks,
        group="user_id",
        group_disjoint=config.split == "user",
        unnested=config.unclicked_conversions == "keep",
        sources={file.name: file.sha256()},
    )


def _history() -> pl.Expr:
    items = pl.concat_list(HISTORY).list.eval(pl.element().filter(pl.element() != PADDING))
    return items.list.drop_nulls().alias("history")


def _kept_share(config: TenrecConfig, file: RawFile) -> float | None:
    """Return the share of unclicked rows to keep; None if all are kept."""
    if config.negatives_per_positive is None:
        return None
    rows = clicks = 0
    for table in frames(file, Layout(types={"click": pl.Int64})):
        rows, clicks = rows + len(table), clicks + int((table["click"] == 1).sum())
    return config.negatives_per_positive * clicks / max(rows - clicks, 1)
