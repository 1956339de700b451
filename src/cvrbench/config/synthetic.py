"""Configuration of the planted dataset (`dataset=synthetic`)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from cvrbench.config.types import FORBID_EXTRA, Count

Rate = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Exposures, clicks and conversions drawn from a known model; see `sources.synthetic`."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["synthetic"]
    rows: Annotated[int, Ge(100)]
    users: Count
    items: Count
    n_fields: Annotated[int, Ge(1)]
    """Further categorical fields."""
    cardinality: Count
    """Values of each further field."""
    zipf: Annotated[float, Ge(0)]
    """Skew of the values: the k-th most frequent has weight `1 / k ** zipf`."""
    click_rate: Rate
    conversion_rate: Rate
    """Of clicked exposures."""
    correlation: Annotated[float, Ge(-1), Le(1)]
    """Of the two tasks' effects, apart from the conflicting ones."""
    conflict: Annotated[float, Ge(0)]
    """Strength of effects that act on the two tasks with opposite sign."""
    signal: Annotated[float, Gt(0)]
    """Standard deviation of each task's logit."""
    split: Literal["time", "user"]
    """`time`: the last rows are tested, users recur; `user`: no user is in two splits."""
    valid_fraction: Rate
    test_fraction: Rate
    min_count: Count
    data_seed: Annotated[int, Ge(0)]
