"""Mask searches: which connections of an NCS trunk each task keeps. One function each.

A finder gives candidates, sparser ones later; validation, or the user, chooses one. `shuffled` and
`unshared` are no finders: they alter what another search found.
"""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from cvrbench.config.ncs import Finder, NCSConfig
from cvrbench.masks.drawn import shuffled
from cvrbench.strategies.base import PretrainContext, Training
from cvrbench.strategies.ncs import NCS, MaskSearch, SearchResult
from cvrbench.strategies.ncs.candidates import Candidate, settings_of
from cvrbench.strategies.ncs.dynamic_sparse import dynamic
from cvrbench.strategies.ncs.gradient_conflict import gradient_conflict
from cvrbench.strategies.ncs.imp import imp, one_shot
from cvrbench.strategies.ncs.learned import learned
from cvrbench.strategies.ncs.pruning_at_init import grasp, snip, synflow
from cvrbench.strategies.ncs.random_masks import dense, drawn
from cvrbench.strategies.ncs.selection import choose
from cvrbench.system.rng import derive


def build_search(config: NCSConfig) -> MaskSearch:
    """Return the search that a configuration names."""
    return partial(_search, config=config)


def _search(ncs: NCS, context: PretrainContext, *, config: NCSConfig) -> SearchResult:
    if config.warmup_epochs > 0:
        depends = settings_of(config)
        warm_up = Training(ncs, label="warm-up", epochs=config.warmup_epochs, depends=depends)
        context.train(warm_up)
    start = {name: tensor.clone() for name, tensor in ncs.state_dict().items()}
    candidates: Sequence[Candidate] = _find(config.finder, ncs, context, config)
    if config.rewind:
        ncs.load_state_dict(start)
    masks, candidates = choose(ncs, candidates, context, config)
    if config.search == "shuffled":
        masks = shuffled(masks, derive(context.seed, "masks", "shuffled"))
    return SearchResult(
        masks=masks,
        rounds=[candidate.facts() for candidate in candidates],
        own_weights=config.search == "unshared",
    )


def _find(finder: Finder, ncs: NCS, context: PretrainContext, config: NCSConfig) -> list[Candidate]:
    match finder:
        case "imp":
            return imp(ncs, context, config)
        case "one_shot":
            return one_shot(ncs, context, config)
        case "snip":
            return snip(ncs, context, config)
        case "grasp":
            return grasp(ncs, context, config)
        case "synflow":
            return synflow(ncs, config)
        case "gradient_conflict":
            return gradient_conflict(ncs, context, config)
        case "learned":
            return learned(ncs, context, config)
        case "set":
            return dynamic(ncs, context, config, "random")
        case "rigl":
            return dynamic(ncs, context, config, "gradient")
        case "random" | "identical":
            return drawn(ncs, context, config, identical=finder == "identical")
        case "dense":
            return dense(ncs)
        case _:
            assert_never(finder)
