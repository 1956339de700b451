"""Masks that nothing was learned for: random ones, and none at all."""

from cvrbench.config.ncs import IdenticalSearch, RandomSearch
from cvrbench.masks.drawn import random_scores
from cvrbench.strategies.base import PretrainContext
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate, ranked
from cvrbench.system.rng import derive


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
