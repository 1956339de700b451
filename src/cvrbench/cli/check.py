"""`cvrbench check`: a guard against results that become worse."""

from pathlib import Path
from typing import Annotated

import typer

from cvrbench.cli.console import out, print_json, warn
from cvrbench.cli.run import AsJson


def check(
    baseline: Annotated[
        Path,
        typer.Argument(
            metavar="BASELINE.json", help="What `cvrbench report --json > BASELINE.json` wrote"
        ),
    ],
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = Path("results"),
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="How far an AUC may fall; default: as far as chance explains"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold today's results against earlier ones; exit with 1 if an AUC fell or a row is gone.

    Examples:
        cvrbench report --json > baseline.json

        cvrbench check baseline.json
    """
    from cvrbench.report.checks import check_all, check_grid, check_json, read_baseline
    from cvrbench.report.comparison import compare
    from cvrbench.report.tables import GridTable
    from cvrbench.runs.store import ResultStore

    known = read_baseline(baseline)
    survey = ResultStore(results_dir).survey()
    for one in survey.unreadable:
        warn(f"left out: {one.why}")
    found = check_all(known, compare(survey.records), tolerance)
    if as_json:
        print_json(check_json(found))
    else:
        out.print(GridTable(check_grid(found)))
    if found.failures:
        raise typer.Exit(1)
