"""`cvrbench report`."""

from pathlib import Path
from typing import Annotated

import typer

from cvrbench.cli.console import errors, out, print_json
from cvrbench.errors import StoreError


def report(
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = Path("results"),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Write one PNG per dataset there"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per dataset")
    ] = False,
) -> None:
    """Compare all finished runs: one table per dataset, and figures on demand."""
    from cvrbench.report.frames import compare
    from cvrbench.report.tables import comparison_json, comparison_table
    from cvrbench.store import ResultStore

    store = ResultStore(results_dir)
    comparisons = compare(store.records())
    if not comparisons:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    for comparison in comparisons:
        if as_json:
            print_json(comparison_json(comparison))
        else:
            out.print(comparison_table(comparison))
        if figures is not None:
            from cvrbench.report.plots import comparison_figure, save

            name = f"{comparison.dataset}-{comparison.fingerprint[:6]}.png"
            written = save(comparison_figure(comparison), figures / name)
            errors.print(f"wrote {written}", soft_wrap=True)
    if (unfinished := store.unfinished()) and not as_json:
        errors.print(f"{len(unfinished)} unfinished runs are not counted; `cvrbench ls` lists them")
