"""Where raw rows come from: one `case` per source."""

from pathlib import Path
from typing import assert_never

from cvrbench.config.dataset import (
    AdultConfig,
    AliExpressConfig,
    CensusIncomeConfig,
    CriteoAttributionConfig,
    DatasetConfig,
    HillstromConfig,
    KuaiRandConfig,
    KuaiRecConfig,
    SyntheticConfig,
    TableConfig,
    TabularConfig,
    TenrecConfig,
    TikTokConfig,
)
from cvrbench.data.raw import RawStream
from cvrbench.data.sources import kuaishou, logs, small_tables, synthetic, table


def raw_folders(config: DatasetConfig) -> tuple[str, ...]:
    """Return the folders in which a source's raw files may lie, the usual one first."""
    match config:
        case KuaiRandConfig():
            if config.variant == "pure":
                return ("kuairand", "kuairand_pure")
            return (f"kuairand_{config.variant}",)
        case SyntheticConfig() | TableConfig():
            return ()
        case _:
            return (config.kind,)


def load_raw(config: TabularConfig, raw: Path) -> RawStream:
    """Read, clean and split the raw rows of a dataset.

    Args:
        config: Which source, which tasks, which split.
        raw: Folder or archive with the raw files; not looked at by sources that need none.

    Raises:
        DataError: A file is missing, damaged, or not what the source expects.
    """
    match config:
        case SyntheticConfig():
            return synthetic.load(config)
        case KuaiRandConfig():
            return kuaishou.load_kuairand(config, raw)
        case CensusIncomeConfig():
            return small_tables.load_census_income(config, raw)
        case AdultConfig():
            return small_tables.load_adult(config, raw)
        case HillstromConfig():
            return small_tables.load_hillstrom(config, raw)
        case AliExpressConfig():
            return logs.load_aliexpress(config, raw)
        case TenrecConfig():
            return logs.load_tenrec(config, raw)
        case TikTokConfig():
            return logs.load_tiktok(config, raw)
        case CriteoAttributionConfig():
            return logs.load_criteo(config, raw)
        case KuaiRecConfig():
            return kuaishou.load_kuairec(config, raw)
        case TableConfig():
            return table.load(config)
        case _:
            assert_never(config)
