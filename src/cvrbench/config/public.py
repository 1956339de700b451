"""Configuration of public datasets that are read as streams."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from cvrbench.config.types import FORBID_EXTRA, Count, Fraction, Policy, Seed


@dataclass(frozen=True, kw_only=True)
class AliExpressConfig:
    """AliExpress search, one country; test pages are the provider's."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["aliexpress"]
    country: Literal["NL", "FR", "ES", "US", "RU"]
    valid_fraction: Fraction
    """Of training pages."""
    split_seed: Seed
    min_count: Count


@dataclass(frozen=True, kw_only=True)
class TenrecConfig:
    """Tenrec, one scenario: clicks, and a feedback given a click."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["tenrec"]
    scenario: str
    """Name of the csv file: ctr_data_1M, QK-video, QB-video, ..."""
    conversion: Literal["like", "share", "follow"]
    split: Literal["user", "random"]
    valid_fraction: Fraction
    test_fraction: Fraction
    split_seed: Seed
    negatives_per_positive: Annotated[float, Gt(0)] | None
    """Keep so many unclicked rows for each clicked one, as the official protocol does with 2; AUC
    and log loss can then not be compared with those of all rows."""
    min_count: Count
    unclicked_conversions: Policy


@dataclass(frozen=True, kw_only=True)
class TikTokConfig:
    """ICME 2019 short videos: finished and liked, two parallel labels."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["tiktok"]
    split: Literal["time", "user"]
    valid_fraction: Fraction
    test_fraction: Fraction
    split_seed: Seed
    min_count: Count


@dataclass(frozen=True, kw_only=True)
class CriteoAttributionConfig:
    """Criteo Attribution: clicks, and sales after a click; by day."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["criteo_attribution"]
    conversion: Literal["conversion_and_click", "attribution"]
    valid_from_day: Annotated[int, Ge(1)]
    test_from_day: Annotated[int, Ge(2)]
    last_day: Annotated[int, Ge(2)]
    """Later displays are left out: their sales may not be known yet."""
    min_count: Count
    unclicked_conversions: Policy

    def __post_init__(self) -> None:
        """Refuse days out of order."""
        if not self.valid_from_day < self.test_from_day <= self.last_day:
            raise ValueError("valid_from_day < test_from_day <= last_day must hold")


@dataclass(frozen=True, kw_only=True)
class KuaiRecConfig:
    """KuaiRec: watched, and watched again, by thresholds on the watch ratio."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["kuairec"]
    watched_above: Annotated[float, Gt(0)]
    """Task `ctr`: this share of the video, or more of it, was watched."""
    rewatched_above: Annotated[float, Gt(0)]
    """Task `cvr`, given the first: 2 is twice its length."""
    valid_fraction: Fraction
    """The last rows of the big matrix."""
    min_count: Count

    def __post_init__(self) -> None:
        """Refuse thresholds that do not nest."""
        if self.watched_above >= self.rewatched_above:
            raise ValueError("rewatched_above must be larger than watched_above")
