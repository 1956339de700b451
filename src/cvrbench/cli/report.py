"""`cvrbench report`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.console import errors, out, print_json
from cvrbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.report.differences import Differences
    from cvrbench.report.frames import Comparison
    from cvrbench.store import ResultStore


class Format(StrEnum):
    """What a report is printed as."""

    terminal = "terminal"
    md = "md"
    latex = "latex"
    csv = "csv"
    json = "json"


def report(
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = Path("results"),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Write one PNG per dataset there"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="ROW",
            help="Row to compare with; default: shared_bottom, shared_embedding or single_task",
        ),
    ] = None,
    layout: Annotated[
        Format, typer.Option("--format", help="How tables are printed; `json` is --json")
    ] = Format.terminal,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per dataset")
    ] = False,
) -> None:
    """Compare all finished runs: per dataset the values, and which differences are real."""
    from cvrbench.report.differences import choose_baselines
    from cvrbench.report.frames import compare
    from cvrbench.store import ResultStore

    store = ResultStore(results_dir)
    comparisons = compare(store.records())
    if not comparisons:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    rows = choose_baselines(comparisons, baseline)
    compared = [(c, _differences(c, row, store)) for c, row in zip(comparisons, rows, strict=True)]
    _print(compared, Format.json if as_json else layout)
    for comparison in comparisons:
        if figures is not None:
            _draw(comparison, figures)
    if (unfinished := store.unfinished()) and layout is Format.terminal and not as_json:
        errors.print(f"{len(unfinished)} unfinished runs are not counted; `cvrbench ls` lists them")


def _differences(
    comparison: "Comparison", baseline: str | None, store: "ResultStore"
) -> "Differences | None":
    """Differences to the baseline; None, with the reason on stderr, where there can be none."""
    from cvrbench.report.differences import against

    if baseline is None:
        return None
    try:
        return against(comparison, baseline, store)
    except StoreError as problem:
        errors.print(f"no differences for {comparison.dataset}: {problem}", soft_wrap=True)
        return None


def _draw(comparison: "Comparison", folder: Path) -> None:
    from cvrbench.report.plots import comparison_figure, save

    name = f"{comparison.dataset}-{comparison.fingerprint[:6]}.png"
    written = save(comparison_figure(comparison), folder / name)
    errors.print(f"wrote {written}", soft_wrap=True)


def _print(compared: "Sequence[tuple[Comparison, Differences | None]]", layout: Format) -> None:
    from cvrbench.report.export import to_csv, to_latex, to_markdown
    from cvrbench.report.grids import comparison_grid, difference_grid
    from cvrbench.report.tables import comparison_json, grid_table

    if layout is Format.csv:
        print(to_csv(compared), end="")
        return
    for comparison, found in compared:
        if layout is Format.json:
            print_json(comparison_json(comparison, found))
            continue
        grids = [comparison_grid(comparison)]
        if found is not None and any(found.verdicts.values()):
            grids.append(difference_grid(comparison, found))
        for grid in grids:
            match layout:
                case Format.terminal:
                    out.print(grid_table(grid))
                case Format.md:
                    print(to_markdown(grid))
                case Format.latex:
                    print(to_latex(grid))
