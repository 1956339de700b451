"""A run's predictions for the rows of another table."""

from cvrbench.config.dataset import (
    AliExpressConfig,
    DatasetConfig,
    HillstromConfig,
    SyntheticConfig,
    TableConfig,
)


def takes_rows(config: DatasetConfig) -> bool:
    """Whether the fields of a dataset are columns of its raw rows, as they stand there.

    Others' are made of several files, or by rules that a new table need not follow: a bin, a
    logarithm, a number that stands for none.
    """
    if isinstance(config, TableConfig):
        changed = (config.hash, config.buckets, config.clip, config.log1p, config.weights)
        return not any((*changed, config.null_values))
    plain = SyntheticConfig | AliExpressConfig | HillstromConfig
    return isinstance(config, plain)
