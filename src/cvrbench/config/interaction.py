"""Configuration of the interactions (group `interaction=`): one dataclass per interaction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cvrbench.config.types import FORBID_EXTRA, Count


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


@dataclass(frozen=True, kw_only=True)
class CrossConfig:
    """Layers of explicit feature crosses (DCNv2)."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["cross"]
    layers: Count
    """Crosses; the output has products of at most one feature more than there are of them."""
    rank: Count | None
    """Rank of each layer's matrix; null: full."""


InteractionConfig = NoInteractionConfig | DotConfig | CrossConfig
