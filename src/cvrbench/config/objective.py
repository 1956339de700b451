"""Configuration of the objectives (group `objective=`): one dataclass per objective."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from cvrbench.config.types import FORBID_EXTRA


@dataclass(frozen=True, kw_only=True)
class ClickSpaceConfig:
    """Each task learns in its own space: CVR on clicked rows."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["click_space"]


@dataclass(frozen=True, kw_only=True)
class EntireSpaceConfig:
    """CTR and CTCVR on all exposures, CVR through their product (ESMM)."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["entire_space"]


@dataclass(frozen=True, kw_only=True)
class ExposureSpaceConfig:
    """Each task learns its label on all exposures."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["exposure_space"]


@dataclass(frozen=True, kw_only=True)
class ESCM2IPWConfig:
    """CVR on clicked rows weighted by their inverse propensity, beside CTCVR on all exposures."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["escm2_ipw"]
    lambda_c: Annotated[float, Ge(0)]
    """Weight of the inverse-propensity-weighted loss."""
    lambda_g: Annotated[float, Ge(0)]
    """Weight of the entire-space loss."""
    floor: Annotated[float, Gt(0), Lt(1)]
    """Least propensity; a row weighs at most its inverse."""
    self_normalised: bool
    """Whether the weighted loss is divided by the sum of its weights instead of the rows."""


ObjectiveConfig = ClickSpaceConfig | EntireSpaceConfig | ExposureSpaceConfig | ESCM2IPWConfig
