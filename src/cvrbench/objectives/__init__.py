"""Objectives (group `objective=`): on which rows each task learns, from which label, by which loss.

One module and one dataclass (`config.schema`) each, one `case` here.
"""

from typing import assert_never

from cvrbench.config.schema import (
    ClickSpaceConfig,
    DCMTConfig,
    EntireSpaceConfig,
    ESCM2DRConfig,
    ESCM2IPWConfig,
    ExposureSpaceConfig,
    NISEConfig,
    ObjectiveConfig,
)
from cvrbench.data.schema import Schema
from cvrbench.objectives.base import Objective, Predictions
from cvrbench.objectives.click_space import ClickSpace
from cvrbench.objectives.debiased import DCMT, ESCM2DR, ESCM2IPW, NISE
from cvrbench.objectives.entire_space import EntireSpace
from cvrbench.objectives.exposure_space import ExposureSpace

__all__ = ["Objective", "Predictions", "build_objective"]


def build_objective(config: ObjectiveConfig, schema: Schema) -> Objective:
    """Bind an objective to the tasks of a dataset."""
    match config:
        case ClickSpaceConfig():
            return ClickSpace(schema, config.losses)
        case EntireSpaceConfig():
            return EntireSpace(schema, config.losses)
        case ExposureSpaceConfig():
            return ExposureSpace(schema, config.losses)
        case ESCM2IPWConfig():
            return ESCM2IPW(config, schema)
        case ESCM2DRConfig():
            return ESCM2DR(config, schema)
        case DCMTConfig():
            return DCMT(config, schema)
        case NISEConfig():
            return NISE(config, schema)
        case _:
            assert_never(config)
