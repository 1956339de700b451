"""Configuration of what starts runs (group `launcher=`): one dataclass per engine.

No part of a run's `Config` nor of its identity: whatever starts a run, its numbers are the same.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from cvrbench.config.types import FORBID_EXTRA, Count


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """In this process, one after another; several seeds of one configuration at once."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["local"]
    together: Literal["auto"] | Count
    """Most seeds that are trained as one program; 1: none are, auto: as many as pay."""


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """Several processes of this machine."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["processes"]
    workers: Count
    """Processes at once."""


@dataclass(frozen=True, kw_only=True)
class SubmititConfig:
    """Jobs of a Slurm cluster."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["submitit"]
    workers: Count
    """Most jobs at once."""
    cluster: Literal["auto", "slurm", "local"]
    partition: str | None
    minutes: Count
    """Time limit of a job."""
    memory_gb: Annotated[float, Gt(0)]
    cpus: Count
    gpus: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Tasks of a Ray cluster."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["ray"]
    workers: Count
    """Most tasks at once."""
    address: str | None
    """Address of a running cluster; null starts one on this machine."""
    cpus: Count
    gpus: Annotated[float, Ge(0)]


LauncherConfig = LocalConfig | ProcessesConfig | SubmititConfig | RayConfig
