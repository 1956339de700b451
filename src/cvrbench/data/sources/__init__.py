"""Where raw rows come from: one module per source, one `case` here."""

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
from cvrbench.data.sources import (
    aliexpress,
    census,
    criteo_attribution,
    hillstrom,
    kuairand,
    kuairec,
    synthetic,
    table,
    tenrec,
    tiktok,
)


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
            return kuairand.load(config, raw)
        case CensusIncomeConfig():
            return census.load_census_income(config, raw)
        case AdultConfig():
            return census.load_adult(config, raw)
        case HillstromConfig():
            return hillstrom.load(config, raw)
        case AliExpressConfig():
            return aliexpress.load(config, raw)
        case TenrecConfig():
            return tenrec.load(config, raw)
        case TikTokConfig():
            return tiktok.load(config, raw)
        case CriteoAttributionConfig():
            return criteo_attribution.load(config, raw)
        case KuaiRecConfig():
            return kuairec.load(config, raw)
        case TableConfig():
            return table.load(config)
        case _:
            assert_never(config)
