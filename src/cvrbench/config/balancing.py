"""Configuration of the balancing methods (group `balancing=`): one dataclass per method."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from cvrbench.config.types import FORBID_EXTRA


@dataclass(frozen=True, kw_only=True)
class EqualConfig:
    """The plain sum of the tasks' losses."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["equal"]
    compares_gradients: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class WeightedConfig:
    """A weighted sum; `weights` maps a task's name to its weight, 1 for tasks not named."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["weighted"]
    compares_gradients: ClassVar[bool] = False
    weights: dict[str, Annotated[float, Ge(0)]]


@dataclass(frozen=True, kw_only=True)
class UncertaintyConfig:
    """Weights learned as homoscedastic uncertainty."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["uncertainty"]
    compares_gradients: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class PCGradConfig:
    """Conflicting gradients projected off each other."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["pcgrad"]
    compares_gradients: ClassVar[bool] = True


BalancingConfig = EqualConfig | WeightedConfig | UncertaintyConfig | PCGradConfig
