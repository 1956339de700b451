"""What `cvrbench report` says of sweeps."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cvrbench.cli.console import errors, print_json
from cvrbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.report.tables import Grid
    from cvrbench.studies import StudySummary


def read_sweeps(results_dir: Path) -> "list[StudySummary]":
    """Read every sweep of a results folder; one that cannot be read is named and left out."""
    from cvrbench.studies import Studies

    studies = Studies(results_dir)
    found = []
    for name in studies.names():
        try:
            found.append(studies.folder(name).read())
        except StoreError as problem:
            errors.print(f"no sweep {name}: {problem}", soft_wrap=True, markup=False)
    return found


def sweep_grids(summaries: "Sequence[StudySummary]") -> "list[Grid]":
    """Give what all sweeps cost as one table; none without sweeps."""
    from cvrbench.report.studies import budgets_grid

    return [budgets_grid(summaries)] if summaries else []


def print_sweeps_json(summaries: "Sequence[StudySummary]") -> None:
    """Print one object per sweep."""
    from cvrbench.report.studies import study_json

    for summary in summaries:
        print_json({"study": study_json(summary)})


def draw_sweeps(summaries: "Sequence[StudySummary]", folder: Path) -> None:
    """Write `sweep-NAME-KIND.png` of whatever can be drawn of each sweep."""
    from cvrbench.report.figures.style import save
    from cvrbench.report.figures.sweep import study_figures

    for summary in summaries:
        # A name is a folder's, but the file that tells it may have been edited.
        name = summary.name.replace(os.sep, "-")
        try:
            figures = study_figures(summary)
        except ValueError as problem:  # a study.json that somebody edited
            errors.print(f"no figures of {name}: {problem}", soft_wrap=True, markup=False)
            continue
        for kind, figure in figures.items():
            path = save(figure, folder / f"sweep-{name}-{kind}.png")
            errors.print(f"wrote {path}", soft_wrap=True, markup=False)
