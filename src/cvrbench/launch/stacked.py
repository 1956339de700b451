"""Cells of a plan that differ in nothing but their seed, run at the same time in this process.

Each has its own folder, lock, checkpoints, history and record, as if it had run alone; what it
trains is one program with what the others train (`training.stacked`).
"""

from collections.abc import Sequence
from functools import partial

from cvrbench.config.compose import Composed
from cvrbench.runs import experiment
from cvrbench.runs.record import RunRecord
from cvrbench.training.callbacks import OnProgress, ignore, stop_on_interrupt
from cvrbench.training.stacked.seed_group import SeedGroup, in_seed_group


def run_stacked(
    cells: Sequence[Composed], *, force: bool = False, on_progress: OnProgress = ignore
) -> list[RunRecord | BaseException]:
    """Run cells as `experiment.run` does each.

    Args:
        cells: They differ in nothing but their seed.
        force: Run finished ones again.
        on_progress: Told of every step of the first that is left.

    Returns:
        Of each the record, or what `experiment.run` would have raised.
    """
    with stop_on_interrupt() as stop_requested:
        runs = [partial(_run, cell, force, on_progress) for cell in cells]
        return in_seed_group(runs, stop_requested)


def _run(cell: Composed, force: bool, on_progress: OnProgress, seed_group: SeedGroup) -> RunRecord:
    return experiment.run(cell, force=force, on_progress=on_progress, seed_group=seed_group)
