"""A cell of a plan as a job: its whole config goes along, so that what runs is what was checked."""

from pathlib import Path
from typing import Any

from cvrbench.config.compose import Composed
from cvrbench.config.validate import config_from_dict, config_to_dict
from cvrbench.errors import CellBusy
from cvrbench.runs import experiment
from cvrbench.runs.record import RunRecord


def cell_argument(cell: Composed, *, force: bool) -> dict[str, Any]:
    """Return a cell as plain values, for `run_cell`."""
    return {
        "config": config_to_dict(cell.config),
        "choices": cell.choices,
        "overrides": list(cell.overrides),
        "force": force,
    }


def run_cell(argument: dict[str, Any]) -> dict[str, Any] | None:
    """Run a cell; return its record as plain values, None where another process is running it."""
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
