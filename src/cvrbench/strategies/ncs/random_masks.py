"""Masks that nothing was learned for: random ones, and none at all."""

from cvrbench.config.ncs import NCSConfig
from cvrbench.masks.drawn import random_scores
from cvrbench.strategies.base import PretrainContext
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate, ranked, schedule
from cvrbench.system.rng import derive


def drawn(
    ncs: NCS, context: PretrainContext, config: NCSConfig, *, identical: bool
) -> list[Candidate]:
    """Draw masks of every density; `identical` draws one for all tasks."""
    seed = derive(context.seed, "masks", "identical" if identical else "random")
    scores = random_scores(ncs.masks, seed, identical=identical)
    return ranked(scores, ncs.masks, config, schedule(config))


def dense(ncs: NCS) -> list[Candidate]:
    """Keep everything: shared-bottom under another name."""
    return [Candidate(density=1.0, masks=ncs.masks)]
