"""Configuration of who is told of a run while it lasts (group `logger=`), one dataclass each.

Part of a run's `Config`, so that a resumed run goes on telling, but neither of its identity nor of
its record: whoever watches, the numbers are the same.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from cvrbench.config.types import FORBID_EXTRA

PASSWORD = re.compile(r"://[^/?#]*:.*@|^https?://[^/?#]*@|[?&]\w*(pass|token|secret)\w*=")
"""How a URI looks that holds one; over HTTP a user alone may be a token."""


@dataclass(frozen=True, kw_only=True)
class NoLoggerConfig:
    """Nobody."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig:
    """Event files that `tensorboard --logdir FOLDER` shows."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["tensorboard"]
    folder: str | None
    """One folder per run goes in here; null: `tensorboard` in the results folder."""


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases, or files for it."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["wandb"]
    project: str
    entity: str | None
    """User or team; null: the key's own."""
    mode: Literal["online", "offline", "disabled"]
    folder: str | None
    """Where its files go; null: the results folder."""


@dataclass(frozen=True, kw_only=True)
class MLflowConfig:
    """An MLflow server or database."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["mlflow"]
    tracking_uri: str | None
    """null: `$MLFLOW_TRACKING_URI`; without it a database of our own in the results folder."""
    experiment: str

    def __post_init__(self) -> None:
        """Refuse a password, which would be written beside the run's results."""
        if PASSWORD.search(self.tracking_uri or ""):
            raise ValueError(
                "tracking_uri holds a password, which must not be kept with results; leave it null "
                "and set MLFLOW_TRACKING_URI in the environment, or give the URI without it and "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


LoggerConfig = NoLoggerConfig | TensorBoardConfig | WandbConfig | MLflowConfig
