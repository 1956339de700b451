"""Configuration of the sharing strategies (group `model=`): one dataclass per strategy.

`hidden` are the widths of the shared network or of one expert, `tower` those of a task's own
network on top; an empty list leaves the part out where it may be empty. The last linear map to
the logit is implied.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from cvrbench.config.ncs import NCSConfig
from cvrbench.config.types import FORBID_EXTRA, Dropout, Layers, Width


@dataclass(frozen=True, kw_only=True)
class SingleTaskConfig:
    """Own embeddings, own trunk and own tower per task."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["single_task"]
    embedding_dim: Width
    hidden: tuple[Width, ...]
    tower: tuple[Width, ...]
    dropout: Dropout


@dataclass(frozen=True, kw_only=True)
class SharedEmbeddingConfig:
    """Common embeddings, own trunk and own tower per task."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["shared_embedding"]
    embedding_dim: Width
    hidden: tuple[Width, ...]
    tower: tuple[Width, ...]
    dropout: Dropout


@dataclass(frozen=True, kw_only=True)
class SharedBottomConfig:
    """Common embeddings and trunk, own tower per task."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["shared_bottom"]
    embedding_dim: Width
    hidden: tuple[Width, ...]
    tower: tuple[Width, ...]
    dropout: Dropout


@dataclass(frozen=True, kw_only=True)
class MMoEConfig:
    """Experts shared by all tasks, mixed by one gate per task, or by one for all (OMoE)."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["mmoe"]
    embedding_dim: Width
    n_experts: Annotated[int, Ge(1)]
    gate: Literal["per_task", "common"]
    hidden: Layers
    tower: tuple[Width, ...]
    dropout: Dropout


@dataclass(frozen=True, kw_only=True)
class PLEConfig:
    """Progressive layered extraction; `levels=1` is CGC."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["ple"]
    embedding_dim: Width
    levels: Annotated[int, Ge(1)]
    n_shared_experts: Annotated[int, Ge(0)]
    n_specific_experts: Annotated[int, Ge(0)]
    """Per task."""
    hidden: Layers
    """Widths of one expert, at every level."""
    tower: tuple[Width, ...]
    dropout: Dropout

    def __post_init__(self) -> None:
        """Refuse a level without any expert."""
        if self.n_shared_experts + self.n_specific_experts == 0:
            raise ValueError(
                "n_shared_experts and n_specific_experts are both 0; set at least one above 0"
            )
        if self.n_shared_experts == 0 and self.levels > 1:
            raise ValueError(
                "levels > 1 needs n_shared_experts >= 1: the shared path has no expert"
            )


@dataclass(frozen=True, kw_only=True)
class AITMConfig:
    """Adaptive information transfer along the chain of tasks."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["aitm"]
    embedding_dim: Width
    hidden: Layers
    """Widths of each task's own network."""
    tower: tuple[Width, ...]
    dropout: Dropout
    calibrator: Annotated[float, Ge(0)]
    """Weight of the penalty where a task is predicted to be likelier than its parent."""


ModelConfig = (
    SingleTaskConfig
    | SharedEmbeddingConfig
    | SharedBottomConfig
    | MMoEConfig
    | PLEConfig
    | AITMConfig
    | NCSConfig
)
