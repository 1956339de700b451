"""Objectives (group `objective=`): on which rows each task learns, from which label, by which loss.

One module and one dataclass (`config.schema`) each, one `case` here.
"""

from typing import assert_never

from cvrbench.config.schema import (
    ClickSpaceConfig,
    EntireSpaceConfig,
    ESCM2IPWConfig,
    ExposureSpaceConfig,
    ObjectiveConfig,
)
from cvrbench.data.schema import Schema
from cvrbench.objectives.base import Objective, Predictions
from cvrbench.objectives.click_space import ClickSpace
from cvrbench.objectives.entire_space import EntireSpace
from cvrbench.objectives.escm2_ipw import ESCM2IPW
from cvrbench.objectives.exposure_space import ExposureSpace

__all__ = ["Objective", "Predictions", "build_objective"]


def build_objective(config: ObjectiveConfig, schema: Schema) -> Objective:
    """Bind an objective to the tasks of a dataset."""
    match config:
        case ClickSpaceConfig():
            return ClickSpace(schema)
        case EntireSpaceConfig():
            return EntireSpace(schema)
        case ExposureSpaceConfig():
            return ExposureSpace(schema)
        case ESCM2IPWConfig():
            return ESCM2IPW(config, schema)
        case _:
            assert_never(config)
