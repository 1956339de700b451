"""Where raw rows come from: one `case` per source."""

from pathlib import Path
from typing import assert_never

from cvrbench.config import dataset
from cvrbench.data.raw import RawStream
from cvrbench.data.sources import kuaishou, logs, lt4rec, small_tables, synthetic, table


def raw_folders(config: dataset.DatasetConfig) -> tuple[str, ...]:
    """Return the folders in which a source's raw files may lie, the usual one first."""
    match config:
        case dataset.KuaiRandConfig():
            if config.variant == "pure":
                return ("kuairand", "kuairand_pure")
            return (f"kuairand_{config.variant}",)
        case dataset.SyntheticConfig() | dataset.TableConfig():
            return ()
        case dataset.KuaiRecWatchConfig():
            return ("kuairec",)
        case dataset.LT4RecConfig():
            return ("lt4rec", "lt4rec_sample")
        case _:
            return (config.kind,)


def load_raw(config: dataset.TabularConfig, raw: Path) -> RawStream:
    """Read, clean and split the raw rows of a dataset.

    Args:
        config: Which source, which tasks, which split.
        raw: Folder or archive with the raw files; not looked at by sources that need none.

    Raises:
        DataError: A file is missing, damaged, or not what the source expects.
    """
    match config:
        case dataset.SyntheticConfig():
            return synthetic.load(config)
        case dataset.KuaiRandConfig():
            return kuaishou.load_kuairand(config, raw)
        case dataset.CensusIncomeConfig():
            return small_tables.load_census_income(config, raw)
        case dataset.AdultConfig():
            return small_tables.load_adult(config, raw)
        case dataset.HillstromConfig():
            return small_tables.load_hillstrom(config, raw)
        case dataset.AliExpressConfig():
            return logs.load_aliexpress(config, raw)
        case dataset.TenrecConfig():
            return logs.load_tenrec(config, raw)
        case dataset.TikTokConfig():
            return logs.load_tiktok(config, raw)
        case dataset.CriteoAttributionConfig():
            return logs.load_criteo(config, raw)
        case dataset.KuaiRecConfig() | dataset.KuaiRecWatchConfig():
            return kuaishou.load_kuairec(config, raw)
        case dataset.LT4RecConfig():
            return lt4rec.load_lt4rec(config, raw)
        case dataset.TableConfig():
            return table.load(config)
        case _:
            assert_never(config)
