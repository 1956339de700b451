"""Pruning at initialisation, per task: connections are ranked before any training."""

from cvrbench.config.ncs import NCSConfig
from cvrbench.masks import saliency
from cvrbench.strategies.base import Lab
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.searches.candidates import Candidate, ranked, schedule
from cvrbench.strategies.searches.gradients import gradient_sums


def snip(ncs: NCS, lab: Lab, config: NCSConfig) -> list[Candidate]:
    """Keep the connections whose removal would change the task's loss most (Lee et al. 2019)."""
    sums = gradient_sums(ncs, lab, config.probe_batches)
    scores = saliency.snip(ncs.effective(), sums.total)
    return ranked(scores, ncs.masks, config, schedule(config))
