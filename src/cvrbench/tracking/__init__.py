"""Trackers: optional sinks that are told of a run while it lasts. The local record is the truth.

Every tracker works behind a thread of its own (`tracker.Tracker`): whatever it does, the run goes
on and its numbers stay the same.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import assert_never

from cvrbench.config.logger import (
    LoggerConfig,
    MLflowConfig,
    NoLoggerConfig,
    TensorBoardConfig,
    WandbConfig,
)
from cvrbench.errors import ConfigError
from cvrbench.tracking.on_mlflow import MLflow
from cvrbench.tracking.on_tensorboard import TensorBoard
from cvrbench.tracking.on_wandb import Wandb
from cvrbench.tracking.sink import Sink

__all__ = ["check_installed", "open_sink"]


def check_installed(logger: LoggerConfig) -> None:
    """Make sure that the tracker's package is there, before anything is trained.

    Raises:
        ConfigError: It is not; says what to install.
    """
    if logger.kind != "none" and find_spec(logger.kind) is None:
        raise ConfigError(
            f"logger={logger.kind} needs a package that is not installed: "
            f"pip install 'cvrbench[{logger.kind}]'"
        )


def open_sink(logger: LoggerConfig, results_dir: Path) -> Sink | None:
    """Give the sink of a configuration, None where nobody is to be told.

    Nothing is written or sent yet, and no package is imported.
    """
    match logger:
        case NoLoggerConfig():
            return None
        case TensorBoardConfig():
            return TensorBoard(Path(logger.folder or results_dir / "tensorboard"))
        case WandbConfig():
            return Wandb(logger, Path(logger.folder or results_dir))
        case MLflowConfig():
            return MLflow(logger, results_dir / "mlflow")
        case _:
            assert_never(logger)
