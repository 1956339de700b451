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
    plain = TableConfig | SyntheticConfig | AliExpressConfig | HillstromConfig
    return isinstance(config, plain)
