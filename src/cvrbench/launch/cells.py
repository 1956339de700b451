"""Cells of a plan: one as a job of an engine, or several that differ in their seed, run at once.

A job takes the whole config along, so that what runs is what was checked. Cells that run at once
have each their own folder, lock, checkpoints, history and record, as if each had run alone.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cvrbench.config.compose import Composed
from cvrbench.config.validate import config_from_dict, config_to_dict
from cvrbench.errors import CellBusy
from cvrbench.runs import experiment
from cvrbench.runs.record import RunRecord
from cvrbench.training.callbacks import OnProgress, ignore, stop_on_interrupt
from cvrbench.training.stacked.seed_group import SeedGroup, in_seed_group


def cell_argument(cell: Composed, *, force: bool) -> dict[str, Any]:
    """Return a cell as plain values, for `run_cell`."""
    return {
        "config": config_to_dict(cell.config),
        "choices": cell.choices,
        "overrides": list(cell.overrides),
        "force": force,
        "argv": sys.argv,
    }


def run_cell(argument: dict[str, Any]) -> dict[str, Any] | None:
    """Run a cell; return its record as plain values, None where another process is running it."""
    sys.argv = list(argument["argv"])  # the command that a record names is the plan's
    cell = Composed(
        config=config_from_dict(argument["config"]),
        choices=argument["choices"],
        overrides=tuple(argument["overrides"]),
    )
    try:
        return experiment.run(cell, force=argument["force"]).to_json()
    except CellBusy:
        return None


def record_of(value: dict[str, Any] | None) -> RunRecord | None:
    """Return the record in what `run_cell` returned."""
    return None if value is None else RunRecord.from_json(value, Path(value["run_id"]))


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
