"""Configuration of neuron-connection sharing (`model=ncs`): the network, the mask search, the step.

Each mask search has a dataclass with the keys that it reads and no others, so that two
configurations that compute the same are equal. `model.search=NAME` on the command line stands for
the keys of `conf/model/search/NAME.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field

from cvrbench.config.types import Count, Dropout, Fraction, Layers, Options, Width

Density = Annotated[float, Gt(0), Le(1)]
Epochs = Annotated[float, Gt(0)]
Choice = Literal["last", "validation", "joint"]
PARTS = ("trunk", "biases", "towers", "embeddings")


@dataclass(frozen=True, kw_only=True)
class Sparse(Options):
    """A search for masks of one density."""

    kind: str
    density: Density
    """Share of the masked connections that the sparsest candidate keeps, per task."""
    scope: Literal["global", "layer", "erk"]
    """One threshold over all layers, or one per layer; `erk`: small layers keep more."""


@dataclass(frozen=True, kw_only=True)
class Ranked(Sparse):
    """A search that ranks connections once and may cut the ranking at several densities."""

    rounds: Count
    """Candidates, each of which drops the same share of what the one before keeps."""
    choice: Choice
    """Candidate that is taken: the last, the best on validation for each task, or for all jointly.
    """
    epochs: Epochs | None
    """Epochs of the search; of the trainings that compare candidates, as many again."""

    def __post_init__(self) -> None:
        """Refuse rounds that nothing chooses among, and a choice among one."""
        if (self.rounds > 1) != (self.choice != "last"):
            raise ValueError(
                f"rounds={self.rounds} with choice={self.choice}: only the last round is used; "
                "choose among several rounds by choice=validation or joint, or set rounds=1 and "
                "choice=last"
            )


@dataclass(frozen=True, kw_only=True)
class Untrained(Ranked):
    """A search that trains only to choose among its candidates."""

    epochs: Epochs | None
    """Epochs of the trainings that compare candidates, together; null with `choice=last`."""

    def __post_init__(self) -> None:
        """Refuse epochs that nothing is trained for, and a comparison without any."""
        Ranked.__post_init__(self)
        if (self.epochs is None) != (self.choice == "last"):
            raise ValueError(
                f"epochs={'null' if self.epochs is None else self.epochs} with "
                f"choice={self.choice}: candidates are trained to be compared by "
                "choice=validation or joint, for so many epochs, and not otherwise (epochs=null)"
            )


@dataclass(frozen=True, kw_only=True)
class ImpSearch(Sparse):
    """Iterative magnitude pruning with rewinding."""

    kind: Literal["imp"]
    rounds: Count
    epochs: Epochs
    """At most, of all rounds, which share them; part of one takes part of the rows."""
    together: bool
    """Search for all tasks in one pass over the data, with common embeddings; else each alone."""
    early_bird: Fraction | None
    """End a round when the mask to be cut changes by less than this share; null: never."""
    choice: Choice | Literal["validation_before"] | Count
    """Candidate that is taken: as elsewhere; `validation_before` scores a candidate by the network
    that it was cut from, not by one trained under it; a number takes that round's."""

    def __post_init__(self) -> None:
        """Refuse a choice among one candidate, or of one that is not there."""
        if isinstance(self.choice, str):
            if self.rounds == 1 and self.choice != "last":
                raise ValueError(f"choice={self.choice} needs rounds above 1; got 1")
        elif self.choice > self.rounds:
            raise ValueError(
                f"choice={self.choice} takes a round's candidate, but there are {self.rounds}; "
                "raise rounds or take less"
            )
        elif self.choice == self.rounds:  # one computation has one name
            object.__setattr__(self, "choice", "last")


@dataclass(frozen=True, kw_only=True)
class OneShotSearch(Sparse):
    """One training, one cut by magnitude."""

    kind: Literal["one_shot"]
    epochs: Epochs
    together: bool
    """As in `imp`."""
    early_bird: Fraction | None
    """As in `imp`."""


@dataclass(frozen=True, kw_only=True)
class SnipSearch(Untrained):
    """Connection sensitivity at initialisation."""

    kind: Literal["snip"]
    probe_batches: Count
    """Batches whose gradients rank the connections."""


@dataclass(frozen=True, kw_only=True)
class GraspSearch(Untrained):
    """Gradient flow at initialisation."""

    kind: Literal["grasp"]
    probe_batches: Count
    """Batches whose gradients rank the connections."""


@dataclass(frozen=True, kw_only=True)
class SynflowSearch(Untrained):
    """Synaptic flow at initialisation, without data."""

    kind: Literal["synflow"]


@dataclass(frozen=True, kw_only=True)
class GradientConflictSearch(Ranked):
    """Shared where the tasks' gradients agree, after a joint training."""

    kind: Literal["gradient_conflict"]
    epochs: Epochs
    probe_batches: Count
    """Batches whose gradients are compared."""
    rewind: bool
    """Whether survivors are set back to where the search began; else they go on as they are."""


@dataclass(frozen=True, kw_only=True)
class LearnedSearch(Ranked):
    """Gates that gradient descent opens and closes, under a budget."""

    kind: Literal["learned"]
    epochs: Epochs
    relaxation: Literal["straight_through", "hard_concrete"]
    """How a mask is made differentiable."""
    gate_rate: Annotated[float, Gt(0)]
    """Learning rate of the gates as a multiple of the weights'."""
    sharing: Annotated[float, Ge(0), Le(1)] | None
    """Wanted share of the tasks' union that is common; null: whatever helps."""
    rewind: bool
    """As in `gradient_conflict`."""


@dataclass(frozen=True, kw_only=True)
class Regrowing(Sparse):
    """Dynamic sparse training: connections are dropped and grown while the tasks train."""

    epochs: Epochs
    regrow_every: Count
    """Steps between two changes of the masks."""
    regrow_share: Annotated[float, Gt(0), Lt(1)]
    """Share of a task's connections replaced at first; it falls as a cosine."""
    rewind: bool
    """As in `gradient_conflict`."""


@dataclass(frozen=True, kw_only=True)
class SetSearch(Regrowing):
    """Connections that survive dropping the smallest and growing at random."""

    kind: Literal["set"]


@dataclass(frozen=True, kw_only=True)
class RiglSearch(Regrowing):
    """Connections that survive dropping the smallest and growing by gradient."""

    kind: Literal["rigl"]


@dataclass(frozen=True, kw_only=True)
class InitialSearch(Untrained):
    """Control: the largest weights before any training, the same for all tasks."""

    kind: Literal["initial"]


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Untrained):
    """Control: random masks, one per task."""

    kind: Literal["random"]


@dataclass(frozen=True, kw_only=True)
class IdenticalSearch(Untrained):
    """Control: one random mask for all tasks."""

    kind: Literal["identical"]


@dataclass(frozen=True, kw_only=True)
class OverlapSearch(Options):
    """Control: random masks, one per task, that overlap as much as is asked for in every layer."""

    kind: Literal["overlap"]
    density: Density
    """Share of the connections of each layer that a task keeps."""
    overlap: Annotated[float, Ge(0), Le(1)]
    """Jaccard index of every two tasks: connections that both keep, of those that either keeps."""


@dataclass(frozen=True, kw_only=True)
class DenseSearch(Options):
    """Control: every connection is kept."""

    kind: Literal["dense"]


Magnitude = ImpSearch | OneShotSearch
"""Searches that may train the tasks apart, and so end with weights that no common trunk can go on
with."""
ByGradient = (
    SnipSearch | GraspSearch | SynflowSearch | GradientConflictSearch | LearnedSearch | Regrowing
)
"""Searches that need a gradient per task and connection, which a table of embeddings has not."""
Finder = (
    ImpSearch
    | OneShotSearch
    | SnipSearch
    | GraspSearch
    | SynflowSearch
    | GradientConflictSearch
    | LearnedSearch
    | SetSearch
    | RiglSearch
    | InitialSearch
    | RandomSearch
    | IdenticalSearch
    | OverlapSearch
    | DenseSearch
)


@dataclass(frozen=True, kw_only=True)
class Derived(Options):
    """A control that alters what another search finds."""

    kind: str
    base: Annotated[Finder, Field(discriminator="kind")]
    """The search whose masks are taken; `model.search.base=NAME` stands for that search's keys."""

    def __post_init__(self) -> None:
        """Refuse to go on with weights that were trained under other masks."""
        if getattr(self.base, "rewind", True) is False:
            raise ValueError(
                "base.rewind=false: this control compares masks, not weights trained "
                "under others; set base.rewind=true"
            )


@dataclass(frozen=True, kw_only=True)
class ShuffledSearch(Derived):
    """Control: a search's masks, every layer permuted."""

    kind: Literal["shuffled"]


@dataclass(frozen=True, kw_only=True)
class UnsharedSearch(Derived):
    """Control: a search's masks, but trunk weights of its own for every task."""

    kind: Literal["unshared"]


@dataclass(frozen=True, kw_only=True)
class RedrawnSearch(Derived):
    """Control: random masks with a search's densities, per task and layer."""

    kind: Literal["redrawn"]


@dataclass(frozen=True, kw_only=True)
class ReinitSearch(Derived):
    """Control: a search's masks over new initial weights."""

    kind: Literal["reinit"]


@dataclass(frozen=True, kw_only=True)
class PermutedSearch(Derived):
    """Control: what a search finds on noise; the training that follows reads the data."""

    kind: Literal["permuted"]
    permuted: Literal["labels", "features"]
    """What the search reads in another order: rows of labels, or each field by itself."""

    def __post_init__(self) -> None:
        """Refuse a search to which noise is all the same."""
        Derived.__post_init__(self)
        base = self.base
        reads = isinstance(base, SnipSearch | GraspSearch) or not isinstance(base, Untrained)
        if not isinstance(base, Sparse) or not (reads or getattr(base, "epochs", None)):
            raise ValueError(
                f"base={base.kind} reads no data, so that there is nothing to permute; "
                "take a search that does, as base=imp"
            )


@dataclass(frozen=True, kw_only=True)
class UnitsSearch(Derived):
    """Whole units of the trunk: those that have most of the connections that a search keeps."""

    kind: Literal["units"]


@dataclass(frozen=True, kw_only=True)
class LongerSearch(Derived):
    """Control: a search's masks, whose training gets the epochs that another search would take."""

    kind: Literal["longer"]
    extra_epochs: Epochs
    """Epochs under the masks before the final training, which goes on from there."""


Search = (
    Finder
    | ShuffledSearch
    | UnsharedSearch
    | RedrawnSearch
    | ReinitSearch
    | PermutedSearch
    | UnitsSearch
    | LongerSearch
)


@dataclass(frozen=True, kw_only=True)
class NCSConfig(Options):
    """Neuron-connection sharing: each task trains its own masked part of one shared trunk."""

    kind: Literal["ncs"]
    embedding_dim: Width
    hidden: Layers
    tower: tuple[Width, ...]
    dropout: Dropout
    masked: Annotated[tuple[Literal["trunk", "biases", "towers", "embeddings"], ...], MinLen(1)]
    """Which parts have masks."""
    warmup_epochs: Annotated[float, Ge(0)]
    """Epochs of joint training before the search; survivors are rewound to its weights."""
    step: Literal["joint", "alternate"]
    """One optimiser step on all tasks, or one per task and batch."""
    masked_step: Literal["strict", "legacy"]
    """`alternate`: whether a weight outside the task's mask stays where it is."""
    search: Annotated[Search, Field(discriminator="kind")]
    """How masks are found, or which control stands in for a search."""

    @property
    def finder(self) -> Finder:
        """The search that looks for masks, whatever is made of them then."""
        return self.search.base if isinstance(self.search, Derived) else self.search

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or are without effect."""
        if len(set(self.masked)) < len(self.masked):
            raise ValueError("a part is listed twice in masked")
        object.__setattr__(self, "masked", tuple(sorted(self.masked, key=PARTS.index)))
        if self.masked_step == "legacy" and self.step == "joint":
            raise ValueError("masked_step=legacy is about step=alternate; set that as well")
        if "embeddings" in self.masked and isinstance(self.finder, ByGradient):
            raise ValueError(
                "masked=[embeddings] needs a search that reads no gradients per connection; "
                f"search {self.finder.kind} does; use imp, one_shot or random"
            )


SEARCH = "model.search"
BASE = "model.search.base"
MOVED = {"search_epochs": "epochs", "take": "choice"}
"""Keys that had another name while they stood beside `search`."""
NAMES = {SEARCH: 0, f"{SEARCH}.kind": 0, BASE: 1, f"{BASE}.kind": 1, "model.base": 1}
"""Keys that take the name of a search, the outer one first."""


def search_kinds() -> dict[str, type]:
    """Return the dataclass of every mask search by its name."""
    return {get_args(cls.__annotations__["kind"])[0]: cls for cls in get_args(Search)}


def derived_kinds() -> set[str]:
    """Return the names of the controls that alter what another search finds."""
    return {kind for kind, cls in search_kinds().items() if issubclass(cls, Derived)}


def from_flat(model: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a saved config of `model=ncs` whose search's keys stand beside `search`.

    Keys that the search did not read are left out; they had no effect.
    """
    finder = model["search"]
    derived = finder in ("shuffled", "unshared")
    cls = search_kinds()[(model["base"] or "imp") if derived else finder]
    flat = {**model, "kind": model["base"] or "imp" if derived else finder}
    flat["epochs"] = flat["search_epochs"]
    rounds = flat["rounds"]
    if flat["rate"] is not None:
        flat["density"] = (1 - flat["rate"]) ** rounds
    if issubclass(cls, ImpSearch):
        before = flat["choice"] == "validation" and flat["scored"] == "before"
        flat["choice"] = flat["take"] or ("validation_before" if before else flat["choice"])
        if rounds == 1:
            flat["choice"] = "last"
    elif flat["take"] is not None:
        flat |= {"density": flat["density"] ** (flat["take"] / rounds), "choice": "last"}
    if not issubclass(cls, ImpSearch) and "last" in (flat["choice"], "last" if rounds == 1 else ""):
        flat |= {"rounds": 1, "choice": "last"}
    if issubclass(cls, Untrained) and flat["choice"] == "last":
        flat["epochs"] = None
    found = {field.name: flat[field.name] for field in fields(cls)}
    network = {field.name: model[field.name] for field in fields(NCSConfig)}
    if model["step"] == "joint":
        network["masked_step"] = "strict"
    return {**network, "search": {"kind": finder, "base": found} if derived else found}


def short_forms(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration's mask search by their short keys."""
    search = model.get("search")
    if not isinstance(search, Mapping):
        return {}
    base = search.get("base", {})
    keys = {name: value for name, value in (base | search).items() if name not in ("kind", "base")}
    names = {SEARCH: search.get("kind")} | ({BASE: base.get("kind")} if base else {})
    return names | {f"model.{name}": value for name, value in keys.items()}


def readers(key: str) -> set[str]:
    """Return the mask searches that read a key, in whichever form it is written."""
    name = key.removeprefix("model.").removeprefix("search.").removeprefix("base.")
    name = MOVED.get(name, name)
    return {
        k for k, cls in search_kinds().items() if name in {f.name for f in fields(cls)} - {"kind"}
    }
