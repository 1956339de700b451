"""`cvrbench diff`: two runs side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cvrbench.cli.browse import ResultsDir
from cvrbench.cli.console import out, print_json
from cvrbench.cli.run import AsJson

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
    from cvrbench.report.tables import GridTable, words_table
    from cvrbench.runs.store import ResultStore

    store = ResultStore(results_dir)
    found = pair(store.folder(first), store.folder(second))
    if as_json:
        print_json(pair_json(found))
        return
    for side, name in zip(("first ", "second"), found.names, strict=True):
        out.print(Text.assemble(f"{side}  ", (name, "bold")), soft_wrap=True)
    for grid in making_grids(found):
        out.print()
        out.print(words_table(grid) if grid.rows else f"{grid.title}: {grid.caption}")
    for grid in number_grids(found):
        out.print()
        out.print(GridTable(grid))
