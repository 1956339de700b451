"""AliExpress search (Li et al., CIKM 2020): browsed, clicked or bought, one country at a time.

Source: tianchi.aliyun.com/dataset/74690, after login. Four files of a country, without headers: a
line per result page with the user's columns, a line per shown item with the items' columns, each
for training and test; both begin with the search id that joins them. The columns' roles are those
of MTReclib. Training and test are the provider's, in the order of time; validation pages are drawn
from the training pages. There is neither user nor item id: pages are the groups.

Pages are held in memory: 33 numbers of 4 bytes each, 0.13 GB per million pages.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import polars as pl

from cvrbench.config.dataset import AliExpressConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.raw import (
    SPLIT,
    Fractions,
    RawStream,
    by_key,
    click_conversion,
    feature_fields,
    stream_chunks,
)
from cvrbench.data.sources.delimited import Layout, counted, read
from cvrbench.errors import DataError

SEARCH = "search_id"
USER_COLUMNS = (SEARCH, *(f"user_{k}" for k in range(2, 34)))
ITEM_COLUMNS = (SEARCH, *(f"item_{k}" for k in range(2, 50)))
LABEL = "item_49"
USER_IDS = (*(f"user_{k}" for k in range(2, 9)), "user_32", "user_33")
ITEM_IDS = ("item_19", "item_34", "item_35", "item_36", "item_40", "item_41", "item_42")
USER_NUMBERS = tuple(f"user_{k}" for k in range(9, 32))
ITEM_NUMBERS = tuple(f"item_{k}" for k in range(2, 49) if f"item_{k}" not in ITEM_IDS)
BROWSED, CLICKED, BOUGHT = range(3)
TASKS = click_conversion("click", "conversion")
Half = Literal["train", "test"]
HALVES: tuple[Half, ...] = ("train", "test")


def load(config: AliExpressConfig, raw: Path) -> RawStream:
    """Prepare to read a country's four files."""
    country = config.country.lower()
    patterns = [f"{country}_{of}_{half}*" for half in HALVES for of in ("user", "item")]
    found = locate(raw, patterns, dataset=f"aliexpress country={config.country}")
    files = {
        (of, half): next(f for n, f in found.items() if n.startswith(f"{country}_{of}_{half}"))
        for half in HALVES
        for of in ("user", "item")
    }
    # The provider's halves are never split: test pages would validate.
    fractions = Fractions(config.valid_fraction, 0.0, config.split_seed)

    def tables(account: Counter[str]) -> Iterator[pl.DataFrame]:
        for half in HALVES:
            items, pages = files["item", half], _pages(files["user", half])
            for table in counted([items], _layout(ITEM_COLUMNS, ITEM_IDS), account):
                joined = table.join(pages, on=SEARCH, how="inner", maintain_order="left")
                account["dropped: search id has no page"] += len(table) - len(joined)
                _check_label(joined, items)
                split = pl.lit(2) if half == "test" else by_key(joined[SEARCH], fractions)
                yield joined.with_columns(
                    split.alias(SPLIT),
                    (pl.col(LABEL) >= CLICKED).cast(pl.UInt8).alias("click"),
                    (pl.col(LABEL) == BOUGHT).cast(pl.UInt8).alias("conversion"),
                ).drop(LABEL)

    return RawStream(
        chunks=stream_chunks(tables, name="aliexpress", tasks=TASKS, policy="refuse"),
        fields=feature_fields(
            (*USER_IDS, *ITEM_IDS),
            numbers=(*USER_NUMBERS, *ITEM_NUMBERS),
            min_count=config.min_count,
        ),
        tasks=TASKS,
        group=SEARCH,
        sources={name: file.sha256() for name, file in found.items()},
    )


def _layout(columns: tuple[str, ...], ids: tuple[str, ...]) -> Layout:
    whole = {SEARCH, LABEL, *ids}
    types: dict[str, type[pl.DataType]] = {
        name: pl.Int64 if name in {SEARCH, LABEL} else pl.Int32 if name in whole else pl.Float32
        for name in columns
    }
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
