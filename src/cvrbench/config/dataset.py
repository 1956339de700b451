"""Configuration of the datasets (group `dataset=`): one dataclass per source."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from cvrbench.config.types import Count, Fraction, Options, Policy, Seed, Text

FieldName = Literal[
    "101", "109_14", "110_14", "121", "122", "124", "125", "126", "127", "127_14", "128", "129",
    "150_14", "205", "206", "207", "210", "216", "301", "508", "509", "702", "853",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """What every dataset has."""

    kind: str
    min_count: Count
    """An id with fewer training rows is one of the rare and unknown ones."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(DatasetOptions):
    """What a dataset has whose validation rows are drawn at random from the others."""

    valid_fraction: Fraction
    split_seed: Seed


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(DatasetOptions):
    """Exposures, clicks and conversions drawn from a known model; see `sources.synthetic`."""

    kind: Literal["synthetic"]
    rows: Annotated[int, Ge(100)]
    users: Count
    items: Count
    n_fields: Count
    """Further categorical fields."""
    cardinality: Count
    """Values of each further field."""
    zipf: Annotated[float, Ge(0)]
    """Skew of the values: the k-th most frequent has weight `1 / k ** zipf`."""
    click_rate: Fraction
    conversion_rate: Fraction
    """Share of clicked exposures that convert."""
    correlation: Annotated[float, Ge(-1), Le(1)]
    """Correlation of the two tasks' effects, apart from the conflicting ones."""
    conflict: Annotated[float, Ge(0)]
    """Strength of effects that act on the two tasks with opposite sign."""
    signal: Annotated[float, Gt(0)]
    """Standard deviation of each task's logit."""
    selection_bias: float
    """Log odds of a conversion with a click over those without one, the features being the same."""
    split: Literal["time", "user"]
    """`time`: the last rows are tested, users recur; `user`: no user is in two splits."""
    valid_fraction: Fraction
    test_fraction: Fraction
    data_seed: Seed


@dataclass(frozen=True, kw_only=True)
class KuaiRandConfig(SplitOptions):
    """KuaiRand, a video feed: clicks, and what follows them."""

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
    test_fraction: Fraction
    unclicked_conversions: Policy


@dataclass(frozen=True, kw_only=True)
class CensusIncomeConfig(SplitOptions):
    """Census-Income (KDD), the MMoE paper's data; its official test half is the test split."""

    kind: Literal["census_income"]
    tasks: Literal["income_married", "education_married"]
    """The first or the second pair of tasks of Ma et al. (KDD 2018)."""
    validation: Literal["train_part", "test_half"]
    """From the training file (leak-free default), or half of the test file as others do."""


@dataclass(frozen=True, kw_only=True)
class AdultConfig(SplitOptions):
    """UCI Adult: income and never-married, official test file."""

    kind: Literal["adult"]


@dataclass(frozen=True, kw_only=True)
class HillstromConfig(SplitOptions):
    """Hillstrom's e-mail campaign: visit (as `ctr`), conversion given a visit (as `cvr`)."""

    kind: Literal["hillstrom"]
    test_fraction: Fraction


@dataclass(frozen=True, kw_only=True)
class TableTask(Options):
    """A task of a table: a 0/1 column, defined where the parent's label is 1."""

    name: str
    label: str
    parent: str | None = None
    joint: str | None = None
    """Name of the product along the chain of parents; `<parent>_<name>` if not given."""


@dataclass(frozen=True, kw_only=True)
class TableConfig(SplitOptions):
    """The user's own CSV or Parquet file, described here column by column."""

    kind: Literal["table"]
    path: Text
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
    test_fraction: Fraction
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


@dataclass(frozen=True, kw_only=True)
class AliExpressConfig(SplitOptions):
    """AliExpress search, one country; test pages are the provider's."""

    kind: Literal["aliexpress"]
    country: Literal["NL", "FR", "ES", "US", "RU"]


@dataclass(frozen=True, kw_only=True)
class TenrecConfig(SplitOptions):
    """Tenrec, one scenario: clicks, and a feedback given a click."""

    kind: Literal["tenrec"]
    scenario: Text
    """Name of the csv file: ctr_data_1M, QK-video, QB-video, ..."""
    conversion: Literal["like", "share", "follow"]
    split: Literal["user", "random"]
    test_fraction: Fraction
    negatives_per_positive: Annotated[float, Gt(0)] | None
    """Keep so many unclicked rows for each clicked one, as the official protocol does with 2; AUC
    and log loss can then not be compared with those of all rows."""
    unclicked_conversions: Policy


@dataclass(frozen=True, kw_only=True)
class TikTokConfig(SplitOptions):
    """ICME 2019 short videos: finished and liked, two parallel labels."""

    kind: Literal["tiktok"]
    split: Literal["time", "user"]
    test_fraction: Fraction


@dataclass(frozen=True, kw_only=True)
class CriteoAttributionConfig(DatasetOptions):
    """Criteo Attribution: clicks, and sales after a click; by day."""

    kind: Literal["criteo_attribution"]
    conversion: Literal["conversion_and_click", "attribution"]
    valid_from_day: Count
    test_from_day: Annotated[int, Ge(2)]
    last_day: Annotated[int, Ge(2)]
    """Later displays are left out: their sales may not be known yet."""
    unclicked_conversions: Policy

    def __post_init__(self) -> None:
        """Refuse days out of order."""
        if not self.valid_from_day < self.test_from_day <= self.last_day:
            raise ValueError("valid_from_day < test_from_day <= last_day must hold")


@dataclass(frozen=True, kw_only=True)
class KuaiRecConfig(DatasetOptions):
    """KuaiRec: watched, and watched again, by thresholds on the watch ratio."""

    kind: Literal["kuairec"]
    watched_above: Annotated[float, Gt(0)]
    """Task `ctr`: this share of the video, or more of it, was watched."""
    rewatched_above: Annotated[float, Gt(0)]
    """Task `cvr`, given the first: 2 is twice its length."""
    valid_fraction: Fraction
    """The last rows of the big matrix."""

    def __post_init__(self) -> None:
        """Refuse thresholds that do not nest."""
        if self.watched_above >= self.rewatched_above:
            raise ValueError("rewatched_above must be larger than watched_above")


@dataclass(frozen=True, kw_only=True)
class AliCCPConfig(SplitOptions):
    """Ali-CCP: Taobao's exposures, clicks and purchases (Ma et al., SIGIR 2018)."""

    kind: Literal["aliccp"]
    fields: Annotated[tuple[FieldName, ...], MinLen(1)]
    values: Literal["all", "last"]
    """Fields with several values a row: all of them as a weighted bag, or the last alone."""
    weights: Literal["keep", "drop", "numeric"]
    """Weights of those values: weigh a bag's values by them, weigh all alike, or make a number of
    the last one's, scaled to [0, 1] over all splits, as torch-rechub does (it sees the test)."""
    max_len: Count | None
    """Longest bag: the values with the largest weights are kept, in their order."""
    missing: Literal["own_id", "oov"]
    """Whether an absent value has an id of its own, or that of the rare and unknown ones."""
    validation: Literal["user", "random", "test_half", "test"]
    """`user`: users of the training file; `random`: its rows (a user is then on both sides);
    `test_half`: half of the test file's rows; `test`: the test rows serve as both."""
    unclicked_conversions: Policy

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("a field is listed twice in fields")
        if self.values == "all" and self.weights == "numeric":
            raise ValueError("weights=numeric takes the last value's weight; set values=last")
        if self.values == "last" and self.weights == "keep":
            raise ValueError("values=last leaves no bag to weigh; set weights=drop or numeric")
        if self.values == "last" and self.max_len is not None:
            raise ValueError("values=last leaves no bag to shorten; set max_len=null")


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
