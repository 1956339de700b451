"""Which candidate masks are taken: validation's choice, per task or jointly, or the last."""

from collections.abc import Sequence

import torch

from cvrbench.config.ncs import NCSConfig
from cvrbench.masks.mask_set import MaskSet
from cvrbench.strategies.base import Lab
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.searches.candidates import Candidate


def choose(
    ncs: NCS, candidates: Sequence[Candidate], lab: Lab, config: NCSConfig
) -> tuple[MaskSet, Sequence[Candidate]]:
    """Take one mask per task; the network's weights stay what they are.

    `validation`: every task its best-scored candidate; candidates without scores are trained
    under, all tasks in one pass, each with weights of its own. `joint`: the candidate under which
    joint training validates best, the same for all tasks.

    Returns:
        The masks, and the candidates with the scores by which they were chosen.
    """
    if config.choice == "last" or len(candidates) == 1:
        return candidates[-1].masks, candidates
    start = {name: tensor.clone() for name, tensor in ncs.state_dict().items()}
    if config.choice == "joint":
        best = max(candidates, key=lambda candidate: _joint_score(ncs, candidate, lab, config))
        ncs.load_state_dict(start)
        return best.masks, candidates
    scored = [c if c.scores else _score_apart(ncs, c, lab, config) for c in candidates]
    ncs.load_state_dict(start)
    chosen = [_best(scored, name).masks for name in ncs.tasks]
    layers = chosen[0].keep
    keep = {n: torch.stack([m.keep[n][t] for t, m in enumerate(chosen)]) for n in layers}
    return MaskSet(ncs.tasks, keep), scored


def _best(candidates: Sequence[Candidate], task: str) -> Candidate:
    return max(candidates, key=lambda candidate: candidate.scores[task])


def _joint_score(ncs: NCS, candidate: Candidate, lab: Lab, config: NCSConfig) -> float:
    start = {name: tensor.clone() for name, tensor in ncs.state_dict().items()}
    ncs.set_masks(candidate.masks)
    label = f"choose density {candidate.density:.2f}"
    score = lab.train(ncs, label=label, epochs=config.search_epochs).score
    ncs.load_state_dict(start)
    return score


def _score_apart(ncs: NCS, candidate: Candidate, lab: Lab, config: NCSConfig) -> Candidate:
    twin = ncs.apart()
    twin.set_masks(candidate.masks)
    label = f"choose density {candidate.density:.2f}"
    result = lab.train(twin, label=label, epochs=config.search_epochs, apart=True)
    return Candidate(density=candidate.density, masks=candidate.masks, scores=result.scores)
