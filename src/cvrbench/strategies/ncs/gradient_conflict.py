"""Share where the tasks' gradients agree, part where they fight."""

from cvrbench.config.ncs import GradientConflictSearch
from cvrbench.masks.saliency import agreeing
from cvrbench.strategies.base import PretrainContext, Training
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate, ranked, settings_of
from cvrbench.strategies.ncs.gradients import gradient_sums


def gradient_conflict(
    ncs: NCS, context: PretrainContext, search: GradientConflictSearch
) -> list[Candidate]:
    """Train the dense trunk on all tasks, then let their gradients say who keeps what.

    Every connection goes to the task that needs it most and to those whose gradients agree with
    that task's; then each task keeps, down to the density, what it needs most of its own.
    """
    context.train(
        Training(
            ncs,
            label="search all tasks",
            epochs=search.epochs,
            per_task=True,
            depends=settings_of(ncs),
        )
    )
    sums = gradient_sums(ncs, context, search.probe_batches)
    return ranked(sums.need, agreeing(sums, ncs.masks), search)
