"""Configuration of neuron-connection sharing (`model=ncs`): the network, the mask search, the step.

Keys that the chosen search does not read change nothing; docs/reference/configuration.md says who
reads what.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from cvrbench.config.types import FORBID_EXTRA, Count, Dropout, Fraction, Layers, Width

Finder = Literal[
    "imp",
    "one_shot",
    "snip",
    "grasp",
    "synflow",
    "gradient_conflict",
    "learned",
    "set",
    "rigl",
    "random",
    "identical",
    "dense",
]
Derived = Literal["shuffled", "unshared"]
WITHOUT_COMMON_WEIGHTS = ("imp", "one_shot")
"""Searches that train the tasks apart and so end with weights that no common trunk can go on with.
"""
ONE_CANDIDATE = ("one_shot", "set", "rigl", "dense")
"""Searches that end with one mask, however many rounds there are."""
BY_GRADIENT = ("snip", "grasp", "synflow", "gradient_conflict", "learned", "set", "rigl")
"""Searches that need a gradient per task and connection, which a table of embeddings has not."""


@dataclass(frozen=True, kw_only=True)
class NCSConfig:
    """Neuron-connection sharing: each task trains its own masked part of one shared trunk."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["ncs"]
    embedding_dim: Width
    hidden: Layers
    tower: tuple[Width, ...]
    dropout: Dropout
    masked: Annotated[tuple[Literal["trunk", "biases", "towers", "embeddings"], ...], MinLen(1)]
    """Which parts have masks."""
    search: Literal[Finder, Derived]
    """How masks are found, or which control stands in for a search."""
    base: Finder | None
    """Whose masks `shuffled` and `unshared` take; null: those of `imp`."""
    density: Annotated[float, Gt(0), Le(1)]
    """Share of the masked connections that the last round keeps, per task."""
    rate: Fraction | None
    """Share of what is left that every round drops; then `density` follows and is not read."""
    rounds: Count
    """Rounds, each of which yields a candidate; without a rate all drop the same share."""
    scope: Literal["global", "layer"]
    """One threshold over all layers, or one per layer."""
    warmup_epochs: Annotated[float, Ge(0)]
    """Epochs of joint training before the search; survivors are rewound to its weights."""
    search_epochs: Annotated[float, Gt(0)]
    """At most, of the whole search; rounds share them, and part of one takes part of the rows."""
    together: bool
    """Search for all tasks in one pass over the data, with common embeddings; else each alone."""
    early_bird: Fraction | None
    """End a round when the mask to be cut changes by less than this share; null: never."""
    choice: Literal["validation", "joint", "last"]
    """Candidate masks: the best on validation for each task, or for all jointly; or the last."""
    take: Count | None
    """Number of the candidate that is taken, whatever `choice` says; null: as it says."""
    scored: Literal["under", "before"]
    """`imp`: a candidate is scored by the network trained under it, or that it was cut from."""
    rewind: bool
    """Whether survivors are set back to where the search began; else they go on as they are."""
    step: Literal["joint", "alternate"]
    """One optimiser step on all tasks, or one per task and batch."""
    masked_step: Literal["strict", "legacy"]
    """`alternate`: whether a weight outside the task's mask stays where it is."""
    probe_batches: Count
    """Batches whose gradients are compared or ranked."""
    relaxation: Literal["straight_through", "hard_concrete"]
    """`learned`: how a mask is made differentiable."""
    gate_rate: Annotated[float, Gt(0)]
    """`learned`: learning rate of the gates as a multiple of the weights'."""
    sharing: Annotated[float, Ge(0), Le(1)] | None
    """`learned`: wanted share of the tasks' union that is common; null: whatever helps."""
    regrow_every: Count
    """`set`, `rigl`: steps between two changes of the masks."""
    regrow_share: Annotated[float, Gt(0), Lt(1)]
    """`set`, `rigl`: share of a task's connections replaced at first; it falls as a cosine."""

    @property
    def finder(self) -> Finder:
        """The search that looks for masks, whatever is made of them then."""
        if self.search == "shuffled" or self.search == "unshared":
            return self.base or "imp"
        return self.search

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        used = self.finder
        n_candidates = 1 if used in ONE_CANDIDATE else self.rounds
        if self.take is not None and self.take > n_candidates:
            raise ValueError(
                f"take={self.take}, but search {used} yields {n_candidates} candidates; raise "
                "rounds or take less"
            )
        if not self.rewind and used in WITHOUT_COMMON_WEIGHTS:
            raise ValueError(
                f"rewind=false needs a search that trains one common trunk, which {used} does not "
                "leave; set rewind=true"
            )
        if not self.rewind and self.search in ("shuffled", "unshared"):
            raise ValueError(
                f"search={self.search} compares masks, not weights trained under others; set "
                "rewind=true"
            )
        if len(set(self.masked)) < len(self.masked):
            raise ValueError("a part is listed twice in masked")
        if "embeddings" in self.masked and used in BY_GRADIENT:
            raise ValueError(
                f"masked=[embeddings] needs a search that reads no gradients per connection; "
                f"search {used} does; use imp, one_shot or random"
            )
