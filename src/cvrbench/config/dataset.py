"""Configuration of the datasets (group `dataset=`): one dataclass per source."""

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

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

    usual_metric: ClassVar[str] = "cvr_auc"

    @property
    def metric(self) -> str:
        """Validation metric by which a sweep chooses unless told otherwise."""
        return self.usual_metric


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
    private_pairs: Annotated[int, Ge(0)]
    """Products of two fields that a task alone reads, so many for each task; 0: none."""
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
class SyntheticWatchConfig(SyntheticConfig):
    """The same with a watch ratio after a click, of which `conversion_rate` is the mean."""

    kind: Literal["synthetic_watch"]  # type: ignore[assignment]
    concentration: Annotated[float, Gt(0)]
    """A ratio of mean m has the variance m (1 - m) / (1 + concentration)."""

    usual_metric = "cvr_xauc"


@dataclass(frozen=True, kw_only=True)
class KuaiRandConfig(SplitOptions):
    """KuaiRand, a video feed: clicks, and what follows them."""

    kind: Literal["kuairand"]
    variant: Literal["pure", "1k", "27k"]
    conversions: Annotated[
        tuple[
            Literal[
                "long_view", "is_like", "is_follow", "is_comment", "is_profile_enter", "watch_ratio"
            ],
            ...,
        ],
        MinLen(1),
    ]
    """The first becomes task `cvr`, any other a task of its own; all given a click. `watch_ratio`
    is a ratio: the share of the video that was played, at most 1."""
    split: Literal["time", "user", "random"]
    valid_from: date
    """First day of validation (`split=time`)."""
    test_from: date
    """First day of the test (`split=time`)."""
    test_fraction: Fraction
    unclicked_conversions: Policy

    @property
    def metric(self) -> str:
        """As `DatasetOptions.metric`."""
        return "cvr_xauc" if self.conversions[0] == "watch_ratio" else "cvr_auc"


@dataclass(frozen=True, kw_only=True)
class KuaiRandHistoryConfig(KuaiRandConfig):
    """KuaiRand-Pure with what was clicked and shown before each exposure."""

    kind: Literal["kuairand_history"]  # type: ignore[assignment]
    variant: Literal["pure"]
    history: Annotated[int, Ge(1), Le(200)]
    """Clicks of the user that an exposure sees at most, the latest."""

    def __post_init__(self) -> None:
        """Refuse to count a ratio."""
        if self.conversions[0] == "watch_ratio":
            raise ValueError(
                "conversions: the first is counted before every exposure, and watch_ratio is no "
                "count; put another before it, as [long_view, watch_ratio]"
            )


@dataclass(frozen=True, kw_only=True)
class CensusIncomeConfig(SplitOptions):
    """Census-Income (KDD), the MMoE paper's data; its official test half is the test split."""

    kind: Literal["census_income"]
    tasks: Literal["income_married", "education_married"]
    """The first or the second pair of tasks of Ma et al. (KDD 2018)."""
    validation: Literal["train_part", "test_half"]
    """From the training file (leak-free default), or half of the test file as others do."""

    usual_metric = "never_married_auc"


@dataclass(frozen=True, kw_only=True)
class AdultConfig(SplitOptions):
    """UCI Adult: income and never-married, official test file."""

    kind: Literal["adult"]

    usual_metric = "never_married_auc"


@dataclass(frozen=True, kw_only=True)
class HillstromConfig(SplitOptions):
    """Hillstrom's e-mail campaign: visit (as `ctr`), conversion given a visit (as `cvr`)."""

    kind: Literal["hillstrom"]
    test_fraction: Fraction


@dataclass(frozen=True, kw_only=True)
class TableTask(Options):
    """A task of a table: a label column, defined where the parent's label is 1."""

    name: Text
    label: Text
    parent: str | None = None
    joint: str | None = None
    """Name of the product along the chain of parents; `<parent>_<name>` if not given."""
    positive: bool | int | float | str | None = None
    """The value that counts as 1, all others being 0; None: the column holds 0 and 1, 0.0 and 1.0,
    or false and true."""
    kind: Literal["binary", "ratio"] = "binary"
    """`ratio`: the column holds numbers from 0 to 1."""

    @property
    def product(self) -> str | None:
        """Name of the product along the chain of parents; None for a task without a parent."""
        return None if self.parent is None else self.joint or f"{self.parent}_{self.name}"


Paths = Text | tuple[Text, ...]


@dataclass(frozen=True, kw_only=True)
class SplitPaths(Options):
    """Files that are split already; without `valid`, validation rows come out of `train`."""

    train: Paths
    test: Paths
    valid: Paths | None = None


@dataclass(frozen=True, kw_only=True)
class TableConfig(SplitOptions):
    """The user's own files, described here column by column."""

    kind: Literal["table"]
    path: Paths | SplitPaths
    """Parquet or delimited text: a file, a folder of parts, or a list of either."""
    separator: Text | None = None
    """Between the values of a line; None: a tab in .tsv, else a comma."""
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ()
    """Words that stand for an absent value, in every text column."""
    ids: tuple[Text, ...]
    numbers: tuple[Text, ...]
    lists: tuple[Text, ...]
    """List columns of Parquet, or text with the values separated by `list_separator`."""
    list_separator: Text
    vectors: tuple[Text, ...] = ()
    """Columns of vectors of one length (pre-trained embeddings): lists of numbers, or text with the
    numbers separated by `vector_separator`. An absent vector is the mean."""
    vector_scale: Literal["standardised", "raw"] = "standardised"
    """Whether each number of a vector is standardised, or stays as it is (absent: zeros)."""
    vector_separator: Text = ","
    weights: dict[str, Text] = field(default_factory=dict)
    """List column -> the list column of the same lengths that holds its values' weights."""
    shared: dict[str, Text] = field(default_factory=dict)
    """Column of ids or lists -> another, whose vocabulary and rows of the embedding table it has:
    `{history: item_id}`."""
    hash: dict[str, Count] = field(default_factory=dict)
    """Column of ids or lists -> number of buckets that its values are hashed to."""
    buckets: dict[str, Annotated[int, Ge(2)] | Annotated[tuple[float, ...], MinLen(1)]] = field(
        default_factory=dict
    )
    """Column of numbers that is listed in `ids` -> ascending bounds between its buckets, or how
    many of about as many training rows each."""
    clip: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Column of `numbers` -> least and largest value; what lies beyond is set to them."""
    log1p: tuple[str, ...] = ()
    """Columns of `numbers` of which log(1 + x) is the feature, after `clip`."""
    tasks: Annotated[tuple[TableTask, ...], MinLen(1)]
    missing_labels: Literal["refuse", "drop", "hide"] = "refuse"
    """What happens to a row without a label; one below a parent's 0 is 0 whatever is chosen.
    `hide`: a training row teaches its other labels, rows of validation and test are left out."""
    weight: Text | None = None
    """Column of what a row counts in the training loss alone: 0, or between 1e-6 and 1e6."""
    group: Text | None
    """Column by which rows belong together (a user), for GAUC and `split=group`."""
    key: Text | None = None
    """Column that names a row, kept beside the predictions of a run."""
    split: Literal["time", "group", "random", "column"] | None
    """None: as the files in `path` are split, or else at random."""
    split_column: Text | None
    """`time`: the column to order by. `column`: holds `train`, `valid` or `test` in each row."""
    time_format: Text | None = None
    """How a text column of times is written, such as `%d.%m.%Y %H:%M`."""
    valid_from: int | float | str | None = None
    """Time from which on rows validate; None: by `valid_fraction`."""
    test_from: int | float | str | None = None
    """Time from which on rows test; None: by `test_fraction`."""
    test_fraction: Fraction
    unclicked_conversions: Policy

    @property
    def metric(self) -> str:
        """As `DatasetOptions.metric`: of the last task."""
        last = self.tasks[-1]
        return f"{last.name}_{'xauc' if last.kind == 'ratio' else 'auc'}"

    def __post_init__(self) -> None:
        """Refuse tasks that do not form chains, a split without its column, and keys in vain."""
        _check_tasks(self.tasks)
        self._check_columns()
        self._check_split()
        if self.separator is not None and (len(self.separator) > 1 or self.separator in '"\r\n'):
            raise ValueError(f"separator must be one character; got {self.separator!r}")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {self.encoding!r} is none that Python knows; such as utf-8, utf-16, "
                "latin-1 or gb18030"
            ) from None

    def _check_columns(self) -> None:
        features = (*self.ids, *self.numbers, *self.lists, *self.vectors)
        if not features:
            raise ValueError("name at least one feature column in ids, numbers, lists or vectors")
        if twice := [name for name in features if features.count(name) > 1]:
            raise ValueError(f"column {twice[0]!r} is listed twice among the features")
        labels = [task.label for task in self.tasks]
        if leaked := [name for name in labels if name in features]:
            raise ValueError(f"the label {leaked[0]!r} is among the features; take it out")
        if {self.group, self.split_column, self.key, self.weight} & set(labels):
            raise ValueError("a label cannot be the group, split_column, key or weight as well")
        for key, named, where in (
            ("weights", self.weights, self.lists),
            ("hash", self.hash, (*self.ids, *self.lists)),
            ("shared", (*self.shared, *self.shared.values()), (*self.ids, *self.lists)),
            ("buckets", self.buckets, self.ids),
            ("clip", self.clip, self.numbers),
            ("log1p", self.log1p, self.numbers),
        ):
            if strays := [name for name in named if name not in where]:
                place = dict.fromkeys(("hash", "shared"), "ids or lists")
                place |= {"weights": "lists", "buckets": "ids"}
                raise ValueError(
                    f"{key} names {strays[0]!r}, which is not listed in {place.get(key, 'numbers')}"
                )
        if both := [name for name in self.buckets if name in self.hash]:
            raise ValueError(f"column {both[0]!r} is in buckets and in hash; choose one")
        for column, owner in self.shared.items():
            if owner in self.shared:
                raise ValueError(
                    f"shared: {column!r} must name a column with a vocabulary of its own, not "
                    f"{owner!r}, which is listed in shared itself"
                )
            rules = self.hash, self.buckets
            if any(rule.get(column) != rule.get(owner) for rule in rules):
                raise ValueError(
                    f"{column!r} and {owner!r} share a vocabulary; say the same of both in hash "
                    "and buckets"
                )
        given = {
            name: bounds for name, bounds in self.buckets.items() if not isinstance(bounds, int)
        }
        for column, bounds in (*given.items(), *self.clip.items()):
            if not all(map(math.isfinite, bounds)) or any(a >= b for a, b in pairwise(bounds)):
                raise ValueError(
                    f"bounds of {column!r} must be finite and ascend; got {list(bounds)}"
                )
        outputs = [name for t in self.tasks for name in (t.name, t.product) if name is not None]
        taken = {"group", *(f"p_{o}" for o in outputs), *(f"label_{t.name}" for t in self.tasks)}
        if self.key in taken:
            raise ValueError(f"key {self.key!r} is a column that predictions have; rename it")
        if both := [name for name in features if name in {f"p_{o}" for o in outputs}]:
            raise ValueError(f"the feature {both[0]!r} has the name of a prediction; rename one")

    def _check_split(self) -> None:
        given = isinstance(self.path, SplitPaths)
        if given and self.split == "column":
            raise ValueError("path names the files of each split: set split=null")
        if isinstance(self.path, SplitPaths) and self.path.valid is not None and self.split:
            raise ValueError("path names the files of all three splits: set split=null")
        if self.split in {"time", "column"} and self.split_column is None:
            raise ValueError(f"split={self.split} needs split_column, the column to go by")
        if self.split == "group" and self.group is None:
            raise ValueError("split=group needs group, the column to go by")
        for key in ("time_format", "valid_from", "test_from"):
            if getattr(self, key) is not None and self.split != "time":
                raise ValueError(f"{key} has an effect with split=time alone; set it to null")
        if self.time_format is not None and not re.search("%[-_0]?[YyGsFDcx+]", self.time_format):
            raise ValueError(
                f"time_format={self.time_format!r} tells no year, without which times have no "
                "order; such as %Y-%m-%d"
            )
        form = self.time_format or ""
        if re.search("%[-_0]?[de]", form) and not re.search("%[-_0]?[mbBhsFDcx+]", form):
            raise ValueError(f"time_format={form!r} tells a day but no month; such as %Y-%m-%d")
        if given and self.test_from is not None:
            raise ValueError("path names the files of the test: set test_from=null")


def _check_tasks(tasks: Sequence[TableTask]) -> None:
    """Raise `ValueError` unless tasks form chains and every output has a name of its own."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"two tasks share a name; got {', '.join(names)}")
    of: dict[str, str] = {name: f"task {name!r}" for name in names}
    labels: dict[str, str] = {}
    for position, task in enumerate(tasks):
        if task.parent is not None and task.parent not in names[:position]:
            raise ValueError(
                f"parent {task.parent!r} of task {task.name!r} must be a task listed before it"
            )
        ratios = [other.name for other in tasks if other.kind == "ratio"]
        if task.parent in ratios:
            raise ValueError(
                f"task {task.name!r} has the ratio {task.parent!r} as its parent, which must be a "
                "label of 0 and 1"
            )
        if task.kind == "ratio" and task.positive is not None:
            raise ValueError(f"task {task.name!r} is a ratio, of which no value is `positive`")
        if task.joint is not None and task.parent is None:
            raise ValueError(f"task {task.name!r} has a joint but no parent; take one of the two")
        if (other := labels.setdefault(task.label, task.name)) != task.name:
            raise ValueError(f"tasks {other!r} and {task.name!r} have one label, {task.label!r}")
        if (joint := task.product) is not None:
            if joint in of:
                raise ValueError(
                    f"the joint of task {task.name!r} is called {joint!r} as {of[joint]} is; give "
                    "it another name: {name: ..., joint: ...}"
                )
            of[joint] = f"the joint of {task.name!r}"
    for name in of:
        if re.search(r"[/\\\x00-\x1f]|^\.|^mean$|_best$|.{65}", name):
            raise ValueError(
                f"a task or joint cannot be called {name!r}: no / or \\, no dot at its begin, at "
                "most 64 letters, and neither mean nor ..._best, which name metrics"
            )


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

    usual_metric = "like_auc"


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
class KuaiRecWatchConfig(DatasetOptions):
    """KuaiRec: watched, by a threshold, and beside it the watch ratio itself, at most 1."""

    kind: Literal["kuairec_watch"]
    watched_above: Annotated[float, Gt(0), Lt(1)]
    """Task `ctr`: more than this share of the video was watched."""
    valid_fraction: Fraction
    """The last rows of the big matrix."""

    usual_metric = "watch_xauc"


@dataclass(frozen=True, kw_only=True)
class LT4RecConfig(SplitOptions):
    """The sample of the NCS authors' log: clicks, and watch ratios of clicks; by user."""

    kind: Literal["lt4rec"]
    test_fraction: Fraction

    usual_metric = "cvr_xauc"


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
    | SyntheticWatchConfig
    | KuaiRandConfig
    | KuaiRandHistoryConfig
    | CensusIncomeConfig
    | AdultConfig
    | HillstromConfig
    | AliExpressConfig
    | TenrecConfig
    | TikTokConfig
    | CriteoAttributionConfig
    | KuaiRecConfig
    | KuaiRecWatchConfig
    | LT4RecConfig
    | TableConfig
)
"""Datasets that come as tables, and are prepared by `data.prepare`."""

DatasetConfig = TabularConfig | AliCCPConfig
