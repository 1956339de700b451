"""Configuration of the interactions (group `interaction=`): one dataclass per interaction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cvrbench.config.types import FORBID_EXTRA


@dataclass(frozen=True, kw_only=True)
class NoInteractionConfig:
    """The embedded fields as they are, one after another."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class DotConfig:
    """Dot products of every two embedded fields, joined to the fields (DLRM)."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["dot"]


InteractionConfig = NoInteractionConfig | DotConfig
