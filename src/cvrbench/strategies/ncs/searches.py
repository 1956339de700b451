"""Mask searches: which connections of an NCS trunk each task keeps. One function each.

A finder gives candidates, sparser ones later; validation, or the user, chooses one. Controls such
as `shuffled` and `permuted` are no finders: they alter what another search finds, or what it reads.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import assert_never

from cvrbench.config.ncs import (
    DenseSearch,
    Finder,
    GradientConflictSearch,
    GraspSearch,
    IdenticalSearch,
    ImpSearch,
    InitialSearch,
    LearnedSearch,
    LongerSearch,
    NCSConfig,
    OneShotSearch,
    OverlapSearch,
    PermutedSearch,
    RandomSearch,
    RedrawnSearch,
    ReinitSearch,
    RiglSearch,
    SetSearch,
    ShuffledSearch,
    SnipSearch,
    SynflowSearch,
    UnitsSearch,
    UnsharedSearch,
)
from cvrbench.masks.ranking import (
    overlapping,
    random_scores,
    redrawn,
    shuffled,
    whole_units,
)
from cvrbench.strategies.base import PretrainContext, Training
from cvrbench.strategies.ncs import NCS, MaskSearch, SearchResult
from cvrbench.strategies.ncs.by_gradient import gradient_conflict, grasp, snip, synflow
from cvrbench.strategies.ncs.candidates import Candidate, choose, ranked, settings_of
from cvrbench.strategies.ncs.dynamic_sparse import dynamic
from cvrbench.strategies.ncs.imp import imp, one_shot
from cvrbench.strategies.ncs.learned import learned
from cvrbench.system.rng import derive


def build_search(config: NCSConfig) -> MaskSearch:
    """Return the search that a configuration names."""
    return partial(_search, config=config)


def _search(ncs: NCS, context: PretrainContext, *, config: NCSConfig) -> SearchResult:
    if config.warmup_epochs > 0:
        depends = settings_of(ncs)
        warm_up = Training(ncs, label="warm-up", epochs=config.warmup_epochs, depends=depends)
        context.train(warm_up)
    start = {name: tensor.clone() for name, tensor in ncs.state_dict().items()}
    search = config.search
    noisy = context.permuted(search.permuted) if isinstance(search, PermutedSearch) else None
    with noisy or nullcontext():
        candidates: Sequence[Candidate] = _find(config.finder, ncs, context)
        if getattr(config.finder, "rewind", True):
            ncs.load_state_dict(start)
        masks, candidates = choose(ncs, candidates, context, config.finder)
    seed = derive(context.seed, "masks", search.kind)
    match search:
        case ShuffledSearch():
            masks = shuffled(masks, seed)
        case RedrawnSearch():
            masks = redrawn(masks, seed)
        case UnitsSearch():
            masks = whole_units(masks)
        case ReinitSearch():
            ncs.redraw(seed)
        case LongerSearch(extra_epochs=epochs):
            ncs.set_masks(masks)
            context.train(Training(ncs, "train longer", epochs, depends=settings_of(ncs)))
    return SearchResult(
        masks=masks,
        rounds=[candidate.facts() for candidate in candidates],
        own_weights=isinstance(search, UnsharedSearch),
    )


def _find(search: Finder, ncs: NCS, context: PretrainContext) -> list[Candidate]:
    match search:
        case ImpSearch():
            return imp(ncs, context, search)
        case OneShotSearch():
            return one_shot(ncs, context, search)
        case SnipSearch():
            return snip(ncs, context, search)
        case GraspSearch():
            return grasp(ncs, context, search)
        case SynflowSearch():
            return synflow(ncs, search)
        case GradientConflictSearch():
            return gradient_conflict(ncs, context, search)
        case LearnedSearch():
            return learned(ncs, context, search)
        case SetSearch() | RiglSearch():
            return dynamic(ncs, context, search)
        case InitialSearch():
            weights = {name: weight.detach().abs() for name, weight in ncs.masked().items()}
            return ranked(weights, ncs.masks, search)
        case RandomSearch() | IdenticalSearch():
            return drawn(ncs, context, search)
        case OverlapSearch(density=density, overlap=overlap):
            seed = derive(context.seed, "masks", "overlap")
            return [
                Candidate(density=density, masks=overlapping(ncs.masks, density, overlap, seed))
            ]
        case DenseSearch():
            return dense(ncs)
        case _:
            assert_never(search)


def drawn(
    ncs: NCS, context: PretrainContext, search: RandomSearch | IdenticalSearch
) -> list[Candidate]:
    """Draw masks of every density: one per task, or one for all."""
    identical = isinstance(search, IdenticalSearch)
    seed = derive(context.seed, "masks", "identical" if identical else "random")
    scores = random_scores(ncs.masks, seed, identical=identical)
    return ranked(scores, ncs.masks, search)


def dense(ncs: NCS) -> list[Candidate]:
    """Keep everything: shared-bottom under another name."""
    return [Candidate(density=1.0, masks=ncs.masks)]
