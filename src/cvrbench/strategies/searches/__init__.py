"""Mask searches: which connections of an NCS trunk each task keeps. One function each.

A finder gives candidates, sparser ones later; validation, or the user, chooses one. `shuffled` and
`unshared` are no finders: they alter what another search found.
"""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from cvrbench.config.ncs import Finder, NCSConfig
from cvrbench.masks.drawn import shuffled
from cvrbench.rng import derive
from cvrbench.strategies.base import Lab, Training
from cvrbench.strategies.ncs import NCS, Found, MaskSearch
from cvrbench.strategies.searches.at_start import grasp, snip, synflow
from cvrbench.strategies.searches.candidates import Candidate, settings_of
from cvrbench.strategies.searches.choose import choose
from cvrbench.strategies.searches.conflict import gradient_conflict
from cvrbench.strategies.searches.drawn import dense, drawn
from cvrbench.strategies.searches.dynamic import dynamic
from cvrbench.strategies.searches.imp import imp, one_shot
from cvrbench.strategies.searches.learned import learned


def build_search(config: NCSConfig) -> MaskSearch:
    """Give the search that a configuration names."""
    return partial(_search, config=config)


def _search(ncs: NCS, lab: Lab, *, config: NCSConfig) -> Found:
    if config.warmup_epochs > 0:
        depends = settings_of(config)
        warm_up = Training(ncs, label="warm-up", epochs=config.warmup_epochs, depends=depends)
        lab.train(warm_up)
    start = {name: tensor.clone() for name, tensor in ncs.state_dict().items()}
    candidates: Sequence[Candidate] = _find(config.finder, ncs, lab, config)
    if config.rewind:
        ncs.load_state_dict(start)
    masks, candidates = choose(ncs, candidates, lab, config)
    if config.search == "shuffled":
        masks = shuffled(masks, derive(lab.seed, "masks", "shuffled"))
    return Found(
        masks=masks,
        rounds=[candidate.facts() for candidate in candidates],
        own_weights=config.search == "unshared",
    )


def _find(finder: Finder, ncs: NCS, lab: Lab, config: NCSConfig) -> list[Candidate]:
    match finder:
        case "imp":
            return imp(ncs, lab, config)
        case "one_shot":
            return one_shot(ncs, lab, config)
        case "snip":
            return snip(ncs, lab, config)
        case "grasp":
            return grasp(ncs, lab, config)
        case "synflow":
            return synflow(ncs, config)
        case "gradient_conflict":
            return gradient_conflict(ncs, lab, config)
        case "learned":
            return learned(ncs, lab, config)
        case "set":
            return dynamic(ncs, lab, config, "random")
        case "rigl":
            return dynamic(ncs, lab, config, "gradient")
        case "random" | "identical":
            return drawn(ncs, lab, config, identical=finder == "identical")
        case "dense":
            return dense(ncs)
        case _:
            assert_never(finder)
