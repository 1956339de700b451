"""`cvrbench diff`: two runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cvrbench.cli.browse import ResultsDir
from cvrbench.cli.console import out, print_json
from cvrbench.cli.run import AsJson
from cvrbench.report.escape import escape_control

if TYPE_CHECKING:
    from cvrbench.report.tables import Grid

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or a part of its name")]


def diff(
    first: Run,
    second: Run,
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Compare two runs: configuration, data, versions, cost, and metrics on the same test rows.

    Examples:
        cvrbench diff kuairand-mmoe-s0 kuairand-ncs-s0

        cvrbench diff results/runs/RUN elsewhere/runs/RUN
    """
    from cvrbench.report.pairs import making_grids, number_grids, pair, pair_json
    from cvrbench.report.tables import grid_table
    from cvrbench.store import ResultStore

    store = ResultStore(results_dir)
    found = pair(store.folder(first), store.folder(second))
    if as_json:
        print_json(pair_json(found))
        return
    for side, name in zip(("first ", "second"), found.names, strict=True):
        out.print(f"{side}  [bold]{escape(escape_control(name))}[/bold]", soft_wrap=True)
    for grid in making_grids(found):
        out.print()
        out.print(_words(grid) if grid.rows else f"{grid.title}: {grid.caption}")
    for grid in number_grids(found):
        out.print()
        out.print(grid_table(grid))


def _words(grid: "Grid") -> Table:
    """Draw a grid of words, which are folded where a number would not be."""
    table = Table(
        title=grid.title,
        title_justify="left",
        caption=escape(escape_control(grid.caption)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for header in grid.headers:
        table.add_column(header, overflow="fold")
    for row in grid.rows:
        table.add_row(
            *(Text(escape_control(cell.text), style="bold" if cell.strong else "") for cell in row)
        )
    return table
