"""`cvrbench report`."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.console import errors, out, print_json
from cvrbench.cli.report_sweeps import draw_sweeps, print_sweeps_json, read_sweeps, sweep_grids
from cvrbench.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.record import RunRecord
    from cvrbench.report.differences import Differences
    from cvrbench.report.frames import Comparison
    from cvrbench.report.grids import Grid
    from cvrbench.report.html.parts import Part
    from cvrbench.report.sharing import Agreement
    from cvrbench.report.transfer import Transfer
    from cvrbench.store import ResultStore
    from cvrbench.studies import StudySummary


class Format(StrEnum):
    """What a report is printed as."""

    terminal = "terminal"
    md = "md"
    latex = "latex"
    csv = "csv"
    json = "json"


Figures = Annotated[
    Path | None,
    typer.Option("--figures", metavar="DIR", help="Draw what there is of every dataset there"),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="ROW",
        help="Row to compare with; default: shared_bottom, shared_embedding or single_task",
    ),
]
Layout = Annotated[
    Format, typer.Option("--format", help="How tables are printed; `json` is --json")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per dataset and sweep")
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Where the page with everything goes; default: RESULTS_DIR/report/index.html",
    ),
]
NoHtml = Annotated[
    bool, typer.Option("--no-html", help="Write no page; only the terminal's tables come with one")
]


def report(
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = Path("results"),
    figures: Figures = None,
    baseline: Baseline = None,
    layout: Layout = Format.terminal,
    as_json: AsJson = False,
    html: Html = None,
    no_html: NoHtml = False,
) -> None:
    """Compare all finished runs: per dataset the values, and which differences are real."""
    from cvrbench.report.harmless import harmless
    from cvrbench.store import ResultStore

    store = ResultStore(results_dir)
    layout = Format.json if as_json else layout
    if html is not None and (no_html or layout is not Format.terminal):
        raise ConfigError(
            f"--html {html} goes with the terminal's tables alone: leave out "
            f"{'--no-html' if no_html else f'--format {layout.value}'}"
        )
    for one in store.survey().unreadable:
        errors.print(f"left out: {harmless(one.why)}", markup=False, soft_wrap=True)
    sweeps = read_sweeps(results_dir)
    parts = present(
        store.records(), store, baseline=baseline, layout=layout, figures=figures, sweeps=sweeps
    )
    if not parts and not sweeps:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    if layout is not Format.terminal:
        return
    if unfinished := store.unfinished():
        errors.print(f"{len(unfinished)} unfinished runs are not counted; `cvrbench ls` lists them")
    if not no_html:
        _write_page(parts, store, sweeps, html, results_dir)


def _write_page(
    parts: "Sequence[Part]",
    store: "ResultStore",
    sweeps: "Sequence[StudySummary]",
    wanted: Path | None,
    results_dir: Path,
) -> None:
    """Write the page and say where it is; results that cannot be written to are no failure."""
    from cvrbench.report.html.page import render, write

    page = render([replace(part, agreements=_agreements(part, store)) for part in parts], sweeps)
    place = wanted or results_dir / "report" / "index.html"
    try:
        write(page, place)
    except StoreError as problem:
        if wanted is not None:
            raise
        errors.print(
            f"no page: {problem}; --html FILE puts it elsewhere", soft_wrap=True, markup=False
        )
        return
    errors.print(f"wrote {place}", soft_wrap=True, markup=False)


def present(
    records: "Sequence[RunRecord]",
    store: "ResultStore",
    *,
    baseline: str | None = None,
    layout: Format = Format.terminal,
    figures: Path | None = None,
    sweeps: "Sequence[StudySummary]" = (),
) -> "list[Part]":
    """Print, and draw where wanted, what runs say against each other; give what was found."""
    from cvrbench.report.differences import choose_baselines
    from cvrbench.report.frames import compare

    comparisons = compare(records)
    rows = choose_baselines(comparisons, baseline) if comparisons else []
    parts = [
        _part(comparison, row, store, sweeps)
        for comparison, row in zip(comparisons, rows, strict=True)
    ]
    _print(parts, layout, sweeps)
    if figures is not None:
        for part in parts:
            _draw(part, store, figures)
        draw_sweeps(sweeps, figures)
    return parts


def _part(
    comparison: "Comparison",
    baseline: str | None,
    store: "ResultStore",
    sweeps: "Sequence[StudySummary]",
) -> "Part":
    """Test what can be tested; what cannot, is told on stderr and in the part."""
    from cvrbench.report.differences import against
    from cvrbench.report.html.parts import Part
    from cvrbench.report.studies import tuned
    from cvrbench.report.transfer import transfer

    found: Differences | None = None
    gain: Transfer | None = None
    problems = []
    what = "differences"
    try:
        if baseline is not None:
            found = against(comparison, baseline, store)
            what = "transfer"
            gain = transfer(comparison, store, found)
    except StoreError as problem:
        problems.append(f"no {what} for {comparison.dataset}: {problem}")
        errors.print(problems[-1], soft_wrap=True, markup=False)
    return Part(
        comparison=comparison,
        differences=found,
        transfer=gain,
        tuned=tuned(comparison, sweeps),
        sweeps=tuple(sweeps),
        problems=tuple(problems),
    )


def _draw(part: "Part", store: "ResultStore", folder: Path) -> None:
    from cvrbench.report.plots.comparison import comparison_figure
    from cvrbench.report.plots.masks_compared import masks_figure
    from cvrbench.report.plots.sharing import agreement_figure, gates_figure
    from cvrbench.report.plots.style import save
    from cvrbench.report.plots.transfer import transfer_figure
    from cvrbench.report.sharing import gatings

    comparison, gain = part.comparison, part.transfer
    dataset = comparison.dataset
    figures = {
        "": comparison_figure(comparison),
        "masks-": masks_figure(comparison),
        "gradients-": agreement_figure(dataset, _agreements(part, store)),
        "gates-": gates_figure(dataset, gatings(comparison)),
        "transfer-": None if gain is None else transfer_figure(comparison, gain),
    }
    for kind, figure in figures.items():
        if figure is not None:
            name = f"{kind}{dataset}-{comparison.fingerprint[:6]}.png"
            errors.print(f"wrote {save(figure, folder / name)}", soft_wrap=True, markup=False)


def _agreements(part: "Part", store: "ResultStore") -> "tuple[Agreement, ...]":
    from cvrbench.report.sharing import agreements

    try:
        return tuple(agreements(part.comparison, store))
    except StoreError as problem:
        words = f"no gradients for {part.comparison.dataset}: {problem}"
        errors.print(words, soft_wrap=True, markup=False)
        return ()


def _print(parts: "Sequence[Part]", layout: Format, sweeps: "Sequence[StudySummary]") -> None:
    from cvrbench.report.export import to_csv

    match layout:
        case Format.csv:
            print(to_csv([(part.comparison, part.differences) for part in parts]), end="")
        case Format.json:
            for part in parts:
                _print_json(part)
            print_sweeps_json(sweeps)
        case _:
            grids = [grid for part in parts for grid in part.grids]
            for grid in [*grids, *sweep_grids(sweeps)]:
                _print_grid(grid, layout)


def _print_json(part: "Part") -> None:
    from cvrbench.report.tables import comparison_json
    from cvrbench.report.transfer import transfer_json

    print_json(
        {
            **comparison_json(part.comparison, part.differences),
            "transfer": None if part.transfer is None else transfer_json(part.transfer),
            "tuned": {label: one and one._asdict() for label, one in part.tuned.items()},
        }
    )


def _print_grid(grid: "Grid", layout: Format) -> None:
    from cvrbench.report.export import to_latex, to_markdown
    from cvrbench.report.tables import grid_table

    match layout:
        case Format.md:
            print(to_markdown(grid))
        case Format.latex:
            print(to_latex(grid))
        case _:
            out.print(grid_table(grid))
