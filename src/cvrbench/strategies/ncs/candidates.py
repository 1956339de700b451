"""Candidates of a mask search: their densities, and which of them is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from torch import Tensor

from cvrbench.config.ncs import Finder, ImpSearch, Ranked
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import keep_best, keep_rates
from cvrbench.strategies.base import PretrainContext, Training
from cvrbench.strategies.ncs import NCS


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One mask per task, all of about one density."""

    density: float
    masks: MaskSet
    scores: Mapping[str, float] = field(default_factory=dict)
    """Task -> validation AUC that speaks for its mask; empty where none was measured."""

    def facts(self) -> dict[str, Any]:
        """Plain values for the record."""
        return {
            "density": self.density,
            "scores": dict(self.scores),
            "layers": self.masks.facts(),
            "dead_units": self.masks.dead_units(),
        }


def schedule(search: Ranked | ImpSearch) -> list[float]:
    """Return the densities of the candidates, sparser ones later."""
    return keep_rates(search.density, search.rounds)


def settings_of(ncs: NCS, **more: object) -> dict[str, object]:
    """Return the settings that a training under given masks depends on, and some more."""
    plain = {"dropout": ncs.trunk.dropout, "step": ncs.step, "masked_step": ncs.masked_step}
    return plain | more


def ranked(scores: Mapping[str, Tensor], among: MaskSet, search: Ranked) -> list[Candidate]:
    """Return one candidate per density, each the best by `scores` of what `among` keeps."""
    return [
        Candidate(density=density, masks=keep_best(scores, among, density, search.scope))
        for density in schedule(search)
    ]


def choose(
    ncs: NCS, candidates: Sequence[Candidate], context: PretrainContext, search: Finder
) -> tuple[MaskSet, Sequence[Candidate]]:
    """Take one mask per task; the network's weights stay what they are.

    `validation`: every task its best-scored candidate; candidates without scores are trained
    under, all tasks in one pass, each with weights of its own. `joint`: the candidate under which
    joint training validates best in the mean over the tasks, the same for all. A number names one.

    Returns:
        The masks, and the candidates with the scores by which they were chosen.
    """
    if not isinstance(search, ImpSearch | Ranked) or search.choice == "last":
        return candidates[-1].masks, candidates
    if isinstance(search.choice, int):
        return candidates[search.choice - 1].masks, candidates
    together = search.choice == "joint"
    unscored = [c for c in candidates if together or not c.scores]
    late = iter(_score(ncs, unscored, context, search, together=together))
    scored = [next(late) if together or not c.scores else c for c in candidates]
    if together:
        return max(scored, key=lambda c: mean(c.scores.values())).masks, scored
    chosen = [_best(scored, name).masks for name in ncs.tasks]
    return MaskSet.of_tasks(ncs.tasks, chosen), scored


def _best(candidates: Sequence[Candidate], task: str) -> Candidate:
    return max(candidates, key=lambda candidate: candidate.scores[task])


def _score(
    ncs: NCS,
    candidates: Sequence[Candidate],
    context: PretrainContext,
    search: ImpSearch | Ranked,
    *,
    together: bool,
) -> list[Candidate]:
    """Train a network under each candidate, the tasks with common weights or with their own."""
    epochs = search.epochs
    assert epochs is not None  # as configurations with a choice are checked

    def training(candidate: Candidate) -> Training:
        network = ncs.copy() if together else ncs.untied()
        network.set_masks(candidate.masks)
        return Training(
            network,
            label=f"choose density {candidate.density:.2f}",
            epochs=epochs / search.rounds,
            per_task=not together,
            depends=settings_of(ncs),
        )

    return [
        replace(candidate, scores=_of_tasks(context.train(training(candidate)).scores, ncs.tasks))
        for candidate in candidates
    ]


def _of_tasks(scores: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    return {name: scores[name] for name in tasks}
