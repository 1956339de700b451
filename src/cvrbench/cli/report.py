"""`cvrbench report`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.console import errors, out, print_json, reading_bar
from cvrbench.cli.report_sweeps import draw_sweeps, print_sweeps_json, read_sweeps, sweep_grids
from cvrbench.errors import ConfigError, StoreError
from cvrbench.report import MARGIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.record import RunRecord
    from cvrbench.report.comparison import Filters
    from cvrbench.report.dataset_report import DatasetReport
    from cvrbench.report.differences import Method
    from cvrbench.report.tables import Grid
    from cvrbench.store import ResultStore
    from cvrbench.studies import StudySummary


LEAST_DRAWS = 100
"""Of fewer bootstrap draws a variance is a guess."""


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
Margin = Annotated[
    float,
    typer.Option(
        metavar="AUC",
        min=1e-5,
        max=0.5,
        help="Difference that matters: equivalence is shown within it, power told for it",
    ),
]
Bootstrap = Annotated[
    int,
    typer.Option(
        metavar="DRAWS",
        min=0,
        help="Redraw the test rows so often for their doubt, at least 100; 0: by formula",
    ),
]
Full = Annotated[
    bool, typer.Option("--full", help="Print every table, as the page has them, not the main ones")
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


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RESULTS_DIR] [KEY=VALUE[,VALUE]]...",
        help="Folder of results, and which runs: dataset=kuairand model=ncs,mmoe seed=0,1,2",
    ),
]


def report(
    words: Words = None,
    figures: Figures = None,
    baseline: Baseline = None,
    margin: Margin = MARGIN,
    bootstrap: Bootstrap = 0,
    layout: Layout = Format.terminal,
    as_json: AsJson = False,
    full: Full = False,
    html: Html = None,
    no_html: NoHtml = False,
) -> None:
    """Compare all finished runs: per dataset the values, and which differences are real."""
    from cvrbench.report.comparison import Filters
    from cvrbench.report.dataset_report import with_curves
    from cvrbench.report.differences import Method
    from cvrbench.store import ResultStore

    if 0 < bootstrap < LEAST_DRAWS:
        raise ConfigError(f"--bootstrap {bootstrap}: take at least {LEAST_DRAWS} draws, or 0")
    results_dir = _folder(words or [])
    filters = Filters.parse(word for word in words or [] if "=" in word)
    store = ResultStore(results_dir)
    layout = Format.json if as_json else layout
    _refuse_html(html, layout, no_html=no_html)
    sweeps = filters.sweeps(read_sweeps(results_dir))
    parts = _read(store, filters, sweeps, baseline, Method(margin=margin, draws=bootstrap))
    if not parts and not sweeps:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    with_page = layout is Format.terminal and not no_html
    if figures is not None or with_page:
        drawn = figures is not None
        parts = [with_curves(p, store) if drawn or p.fits_a_page else p for p in parts]
    _present(parts, layout=layout, full=full, figures=figures, sweeps=sweeps)
    if with_page:
        _write_page(parts, sweeps, html, results_dir)


def _read(
    store: "ResultStore",
    filters: "Filters",
    sweeps: "Sequence[StudySummary]",
    baseline: str | None,
    how: "Method",
) -> "list[DatasetReport]":
    """Read and test what is asked for, and name what cannot be read."""
    from cvrbench.report.dataset_report import build
    from cvrbench.report.escape import escape_control

    survey = store.survey()
    for one in survey.unreadable:
        errors.print(f"left out: {escape_control(one.why)}", markup=False, soft_wrap=True)
    records = filters.records(survey.records)
    with reading_bar(len(records)) as advance:
        parts = build(
            records,
            store,
            begun=filters.begun(store.begun()),
            sweeps=sweeps,
            baseline=baseline,
            how=how,
            on_read=advance,
        )
    for part in parts:
        if part.untested is None and part.why_untested is not None:
            errors.print(part.why_untested, soft_wrap=True, markup=False)
    return parts


def _present(
    parts: "Sequence[DatasetReport]",
    *,
    layout: Format = Format.terminal,
    full: bool = False,
    figures: Path | None = None,
    sweeps: "Sequence[StudySummary]" = (),
) -> None:
    """Print, and draw where wanted, what runs say against each other."""
    for part in parts:
        for problem in filter(None, (*part.problems, part.untested and part.why_untested)):
            errors.print(problem, soft_wrap=True, markup=False)
    match layout:
        case Format.csv:
            _print_csv(parts)
        case Format.json:
            for part in parts:
                _print_json(part)
            print_sweeps_json(sweeps)
        case _:
            grids = [grid for part in parts for grid in part.grids(full=full)]
            for grid in [*grids, *sweep_grids(sweeps)]:
                _print_grid(grid, layout)
    if figures is not None:
        _draw(parts, figures)
        draw_sweeps(sweeps, figures)


def present_runs(
    records: "Sequence[RunRecord]", store: "ResultStore", *, figures: Path | None = None
) -> None:
    """Print, and draw where wanted, what some runs alone say against each other."""
    from cvrbench.report.dataset_report import build, with_curves

    parts = build(records, store)
    if figures is not None:
        parts = [with_curves(part, store) for part in parts]
    _present(parts, figures=figures)


def _folder(words: "Sequence[str]") -> Path:
    """Give the one word that is no filter, or the usual folder."""
    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise ConfigError(
            f"{' and '.join(folders)}: one folder of results at a time; a filter is KEY=VALUE"
        )
    return Path(folders[0] if folders else "results")


def _refuse_html(html: Path | None, layout: Format, *, no_html: bool) -> None:
    if html is not None and (no_html or layout is not Format.terminal):
        raise ConfigError(
            f"--html {html} goes with the terminal's tables alone: leave out "
            f"{'--no-html' if no_html else f'--format {layout.value}'}"
        )


def _write_page(
    parts: "Sequence[DatasetReport]",
    sweeps: "Sequence[StudySummary]",
    wanted: Path | None,
    results_dir: Path,
) -> None:
    """Write the page and say where it is; results that cannot be written to are no failure."""
    from cvrbench.report.page.render import render, write

    place = wanted or results_dir / "report" / "index.html"
    try:
        write(render(parts, sweeps), place)
    except StoreError as problem:
        if wanted is not None:
            raise
        errors.print(
            f"no page: {problem}; --html FILE puts it elsewhere", soft_wrap=True, markup=False
        )
        return
    errors.print(f"wrote {place}", soft_wrap=True, markup=False)


def _draw(parts: "Sequence[DatasetReport]", folder: Path) -> None:
    from cvrbench.report.figures.across import across_figures
    from cvrbench.report.figures.comparison import compared_figures
    from cvrbench.report.figures.style import save

    drawers = {
        f"{'' if kind == 'comparison' else f'{kind}-'}{part.comparison.slug}": draw
        for part in parts
        for kind, draw in compared_figures(part).items()
    }
    drawers |= {one.name: one.draw for one in across_figures(parts)}
    for name, draw in drawers.items():
        if (figure := draw()) is None:
            continue
        for ending in ("png", "svg"):  # no with_suffix: a name may end in `-0.3`
            path = save(figure, folder / f"{name}.{ending}")
            errors.print(f"wrote {path}", soft_wrap=True, markup=False)


def _print_csv(parts: "Sequence[DatasetReport]") -> None:
    from cvrbench.report.dataset_report import to_csv

    print(to_csv([(part.comparison, part.differences) for part in parts]), end="")


def _print_json(part: "DatasetReport") -> None:
    from cvrbench.report.dataset_report import comparison_json, transfer_json

    print_json(
        {
            **comparison_json(part.comparison, part.differences),
            "transfer": None if part.transfer is None else transfer_json(part.transfer),
            "tuned": {label: one and one._asdict() for label, one in part.tuned.items()},
        }
    )


def _print_grid(grid: "Grid", layout: Format) -> None:
    from cvrbench.report.tables import grid_table, to_latex, to_markdown

    match layout:
        case Format.md:
            print(to_markdown(grid))
        case Format.latex:
            print(to_latex(grid))
        case _:
            out.print(grid_table(grid, out.width))
