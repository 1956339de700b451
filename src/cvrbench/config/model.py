"""Configuration of the sharing strategies (group `model=`): one dataclass per strategy.

`hidden` are the widths of the shared network or of one expert, `tower` those of a task's own
network on top; an empty list leaves the part out where it may be empty. The last linear map to
the logit is implied.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from cvrbench.config.ncs import NCSConfig
from cvrbench.config.types import Count, Dropout, Layers, Options, Text, Width


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """What every strategy has."""

    kind: str
    embedding_dim: Width
    hidden: tuple[Width, ...]
    tower: tuple[Width, ...]
    dropout: Dropout


@dataclass(frozen=True, kw_only=True)
class SingleTaskConfig(NetworkOptions):
    """Own embeddings, own trunk and own tower per task."""

    kind: Literal["single_task"]


@dataclass(frozen=True, kw_only=True)
class SharedEmbeddingConfig(NetworkOptions):
    """Common embeddings, own trunk and own tower per task."""

    kind: Literal["shared_embedding"]


@dataclass(frozen=True, kw_only=True)
class SharedBottomConfig(NetworkOptions):
    """Common embeddings and trunk, own tower per task."""

    kind: Literal["shared_bottom"]


@dataclass(frozen=True, kw_only=True)
class MMoEConfig(NetworkOptions):
    """Experts shared by all tasks, mixed by one gate per task, or by one for all (OMoE)."""

    kind: Literal["mmoe"]
    n_experts: Count
    gate: Literal["per_task", "common"]
    hidden: Layers


@dataclass(frozen=True, kw_only=True)
class PLEConfig(NetworkOptions):
    """Progressive layered extraction; `levels=1` is CGC."""

    kind: Literal["ple"]
    levels: Count
    n_shared_experts: Annotated[int, Ge(0)]
    n_specific_experts: Annotated[int, Ge(0)]
    """Per task."""
    hidden: Layers
    """Widths of one expert, at every level."""

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
class AITMConfig(NetworkOptions):
    """Adaptive information transfer along the chain of tasks."""

    kind: Literal["aitm"]
    hidden: Layers
    """Widths of each task's own network."""
    calibrator: Annotated[float, Ge(0)]
    """Weight of the penalty where a task is predicted to be likelier than its parent."""


@dataclass(frozen=True, kw_only=True)
class CrossStitchConfig(NetworkOptions):
    """A network per task, whose activations are mixed after every layer."""

    kind: Literal["cross_stitch"]
    hidden: Layers
    """Widths of each task's own network."""
    mix: Literal["layer", "unit"]
    own: Annotated[float, Ge(0), Le(1)]
    """What a task begins with of its own activation; the others share the rest."""


@dataclass(frozen=True, kw_only=True)
class AdaTTConfig(NetworkOptions):
    """Adaptive task-to-task fusion: all experts for every task, and its own once more."""

    kind: Literal["adatt"]
    levels: Count
    n_shared_experts: Annotated[int, Ge(0)]
    n_specific_experts: Count
    """Per task."""
    hidden: Layers
    """Widths of one expert, at every level."""


@dataclass(frozen=True, kw_only=True)
class ResFlowConfig(NetworkOptions):
    """A network per task, each layer and the logit on top of the parent task's."""

    kind: Literal["resflow"]
    hidden: Layers


@dataclass(frozen=True, kw_only=True)
class DBMTLConfig(NetworkOptions):
    """A shared trunk, and towers that read those of the tasks above them."""

    kind: Literal["dbmtl"]
    relation: Layers
    """Widths of the network over a task's tower and its ancestors."""


@dataclass(frozen=True, kw_only=True)
class STEMConfig(NetworkOptions):
    """A table per task and a shared one; a task reads others' experts without teaching them."""

    kind: Literal["stem"]
    n_shared_experts: Count
    n_specific_experts: Count
    """Per task."""
    hidden: Layers
    """Widths of one expert."""
    gate_hidden: tuple[Width, ...]
    """Widths of the network before each gate's softmax."""


@dataclass(frozen=True, kw_only=True)
class SNRConfig(NetworkOptions):
    """Sub-networks routed to the tasks by gates that are drawn."""

    kind: Literal["snr_trans"]
    n_experts: Count
    hidden: Layers
    """Widths of one sub-network."""
    l0: Annotated[float, Ge(0)]
    """Weight of the expected number of open gates."""


@dataclass(frozen=True, kw_only=True)
class MSSMConfig(NetworkOptions):
    """Common fields and cells, of which gates that are drawn choose each task's own."""

    kind: Literal["mssm"]
    n_cells: Count
    """Per layer."""
    hidden: Layers
    """Widths of one cell, layer by layer."""
    l0: Annotated[float, Ge(0)]
    """Weight of the expected number of open gates."""


@dataclass(frozen=True, kw_only=True)
class PEPNetConfig(NetworkOptions):
    """Embeddings and layers scaled by gates over fields that are known beforehand."""

    kind: Literal["pepnet"]
    hidden: Layers
    prior: tuple[Text, ...]
    """Names of fields of ids, such as the user's and the item's."""
    gate_hidden: Width
    """Width of each gate's hidden layer."""


@dataclass(frozen=True, kw_only=True)
class DSelectKConfig(NetworkOptions):
    """MMoE whose gates select at most k experts."""

    kind: Literal["dselect_k"]
    n_experts: Annotated[int, Ge(2)]
    k: Count
    """Selectors of one expert each, per task."""
    gamma: Annotated[float, Gt(0)]
    """Width of the smooth step between 0 and 1; the narrower, the sooner a selector decides."""
    entropy: Annotated[float, Ge(0)]
    """Weight of the selectors' entropy."""
    hidden: Layers
    """Widths of one expert."""


ModelConfig = (
    SingleTaskConfig
    | SharedEmbeddingConfig
    | SharedBottomConfig
    | MMoEConfig
    | PLEConfig
    | AITMConfig
    | CrossStitchConfig
    | AdaTTConfig
    | ResFlowConfig
    | DBMTLConfig
    | STEMConfig
    | SNRConfig
    | MSSMConfig
    | PEPNetConfig
    | DSelectKConfig
    | NCSConfig
)
