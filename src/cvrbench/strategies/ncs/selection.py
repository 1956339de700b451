"""Which candidate masks are taken: validation's choice, per task or jointly, or the last."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean

from cvrbench.config.ncs import NCSConfig
from cvrbench.masks.mask_set import MaskSet
from cvrbench.strategies.base import PretrainContext, Training
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate, epochs_of_round, settings_of


def choose(
    ncs: NCS, candidates: Sequence[Candidate], context: PretrainContext, config: NCSConfig
) -> tuple[MaskSet, Sequence[Candidate]]:
    """Take one mask per task; the network's weights stay what they are.

    `validation`: every task its best-scored candidate; candidates without scores are trained
    under, all tasks in one pass, each with weights of its own. `joint`: the candidate under which
    joint training validates best in the mean over the tasks, the same for all. `take` names one.

    Returns:
        The masks, and the candidates with the scores by which they were chosen.
    """
    if config.take is not None:
        return candidates[config.take - 1].masks, candidates
    if config.choice == "last" or len(candidates) == 1:
        return candidates[-1].masks, candidates
    if config.choice == "joint":
        scored = _score(ncs, candidates, context, config, together=True)
        return max(scored, key=lambda c: mean(c.scores.values())).masks, scored
    unscored = [candidate for candidate in candidates if not candidate.scores]
    late = iter(_score(ncs, unscored, context, config, together=False))
    scored = [candidate if candidate.scores else next(late) for candidate in candidates]
    chosen = [_best(scored, name).masks for name in ncs.tasks]
    return MaskSet.of_tasks(ncs.tasks, chosen), scored


def _best(candidates: Sequence[Candidate], task: str) -> Candidate:
    return max(candidates, key=lambda candidate: candidate.scores[task])


def _score(
    ncs: NCS,
    candidates: Sequence[Candidate],
    context: PretrainContext,
    config: NCSConfig,
    *,
    together: bool,
) -> list[Candidate]:
    """Train a network under each candidate, the tasks with common weights or with their own."""

    def training(candidate: Candidate) -> Training:
        network = ncs.copy() if together else ncs.untied()
        network.set_masks(candidate.masks)
        return Training(
            network,
            label=f"choose density {candidate.density:.2f}",
            epochs=epochs_of_round(config),
            per_task=not together,
            depends=settings_of(config),
        )

    return [
        replace(candidate, scores=_of_tasks(context.train(training(candidate)).scores, ncs.tasks))
        for candidate in candidates
    ]


def _of_tasks(scores: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    return {name: scores[name] for name in tasks}
