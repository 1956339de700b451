"""Configuration of Ali-CCP (`dataset=aliccp`, and what others made of it: `aliccp_aitm`, ...)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, MinLen

from cvrbench.config.types import FORBID_EXTRA, Count, Fraction, Policy, Seed

FieldName = Literal[
    "101", "109_14", "110_14", "121", "122", "124", "125", "126", "127", "127_14", "128", "129",
    "150_14", "205", "206", "207", "210", "216", "301", "508", "509", "702", "853",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AliCCPConfig:
    """Ali-CCP: Taobao's exposures, clicks and purchases (Ma et al., SIGIR 2018)."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["aliccp"]
    fields: Annotated[tuple[FieldName, ...], MinLen(1)]
    values: Literal["all", "last"]
    """Fields with several values a row: all of them as a weighted bag, or the last alone."""
    weights: Literal["keep", "drop", "numeric"]
    """Weights of those values: weigh a bag's values by them, weigh all alike, or make a number of
    the last one's, scaled to [0, 1] over all splits, as torch-rechub does (it sees the test)."""
    max_len: Annotated[int, Ge(1)] | None
    """Longest bag: the values with the largest weights are kept, in their order."""
    min_count: Count
    missing: Literal["own_id", "oov"]
    """Whether an absent value has an id of its own, or that of the rare and unknown ones."""
    validation: Literal["user", "random", "test_half", "test"]
    """`user`: users of the training file; `random`: its rows (a user is then on both sides);
    `test_half`: half of the test file's rows; `test`: the test rows serve as both."""
    valid_fraction: Fraction
    split_seed: Seed
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
