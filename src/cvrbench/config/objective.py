"""Configuration of the objectives (group `objective=`): one dataclass per objective."""

from dataclasses import dataclass
from typing import ClassVar, Literal

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


ObjectiveConfig = ClickSpaceConfig | EntireSpaceConfig | ExposureSpaceConfig
