"""Configuration of the interactions (group `interaction=`): one dataclass per interaction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cvrbench.config.types import FORBID_EXTRA


@dataclass(frozen=True, kw_only=True)
class NoInteractionConfig:
    """The embedded fields as they are, one after another."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["none"]


InteractionConfig = NoInteractionConfig
