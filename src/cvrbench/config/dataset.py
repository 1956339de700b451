"""Configuration of the datasets (group `dataset=`): one dataclass per source."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from cvrbench.config.aliccp import AliCCPConfig
from cvrbench.config.public import (
    AliExpressConfig,
    CriteoAttributionConfig,
    KuaiRecConfig,
    TenrecConfig,
    TikTokConfig,
)
from cvrbench.config.synthetic import SyntheticConfig
from cvrbench.config.types import FORBID_EXTRA, Count, Fraction, Policy, Seed


@dataclass(frozen=True, kw_only=True)
class KuaiRandConfig:
    """KuaiRand, a video feed: clicks, and what follows them."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["kuairand"]
    variant: Literal["pure", "1k", "27k"]
    conversions: Annotated[
        tuple[Literal["long_view", "is_like", "is_follow", "is_comment", "is_profile_enter"], ...],
        MinLen(1),
    ]
    """The first becomes task `cvr`, any other a task of its own; all given a click."""
    split: Literal["time", "user", "random"]
    valid_from: date
    """First day of validation (`split=time`)."""
    test_from: date
    """First day of the test (`split=time`)."""
    valid_fraction: Fraction
    test_fraction: Fraction
    split_seed: Seed
    min_count: Count
    unclicked_conversions: Policy


@dataclass(frozen=True, kw_only=True)
class CensusIncomeConfig:
    """Census-Income (KDD), the MMoE paper's data; its official test half is the test split."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["census_income"]
    tasks: Literal["income_married", "education_married"]
    """The first or the second pair of tasks of Ma et al. (KDD 2018)."""
    validation: Literal["train_part", "test_half"]
    """From the training file (leak-free default), or half of the test file as others do."""
    valid_fraction: Fraction
    split_seed: Seed
    min_count: Count


@dataclass(frozen=True, kw_only=True)
class AdultConfig:
    """UCI Adult: income and never-married, official test file."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["adult"]
    valid_fraction: Fraction
    split_seed: Seed
    min_count: Count


@dataclass(frozen=True, kw_only=True)
class HillstromConfig:
    """Hillstrom's e-mail campaign: visit (as `ctr`), conversion given a visit (as `cvr`)."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["hillstrom"]
    valid_fraction: Fraction
    test_fraction: Fraction
    split_seed: Seed
    min_count: Count


@dataclass(frozen=True, kw_only=True)
class TableTask:
    """A task of a table: a 0/1 column, defined where the parent's label is 1."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    name: str
    label: str
    parent: str | None = None
    joint: str | None = None
    """Name of the product along the chain of parents; `<parent>_<name>` if not given."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The user's own CSV or Parquet file, described here column by column."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["table"]
    path: str
    """A .csv, .csv.gz or .parquet file."""
    ids: tuple[str, ...]
    numbers: tuple[str, ...]
    lists: tuple[str, ...]
    """List columns of Parquet, or text with the values separated by `list_separator`."""
    list_separator: str
    tasks: Annotated[tuple[TableTask, ...], MinLen(1)]
    group: str | None
    """Column by which rows belong together (a user), for GAUC and `split=group`."""
    split: Literal["time", "group", "random", "column"]
    split_column: str | None
    """`time`: the column to order by. `column`: holds `train`, `valid` or `test` in each row."""
    valid_fraction: Fraction
    test_fraction: Fraction
    split_seed: Seed
    min_count: Count
    unclicked_conversions: Policy

    def __post_init__(self) -> None:
        """Refuse tasks that do not form chains, and a split without its column."""
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"two tasks share a name; got {', '.join(names)}")
        for position, task in enumerate(self.tasks):
            if task.parent is not None and task.parent not in names[:position]:
                raise ValueError(
                    f"parent {task.parent!r} of task {task.name!r} must be a task listed before it"
                )
        if not (self.ids or self.numbers or self.lists):
            raise ValueError("name at least one feature column in ids, numbers or lists")
        if self.split in {"time", "column"} and self.split_column is None:
            raise ValueError(f"split={self.split} needs split_column, the column to go by")
        if self.split == "group" and self.group is None:
            raise ValueError("split=group needs group, the column to go by")


TabularConfig = (
    SyntheticConfig
    | KuaiRandConfig
    | CensusIncomeConfig
    | AdultConfig
    | HillstromConfig
    | AliExpressConfig
    | TenrecConfig
    | TikTokConfig
    | CriteoAttributionConfig
    | KuaiRecConfig
    | TableConfig
)
"""Datasets that come as tables, and are prepared by `data.prepare`."""

DatasetConfig = TabularConfig | AliCCPConfig
