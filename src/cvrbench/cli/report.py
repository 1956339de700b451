"""`cvrbench report`, and `check`: a guard against results that become worse."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.padding import Padding

from cvrbench.cli.console import heading, out, print_json, reading_bar, warn, write
from cvrbench.cli.options import RESULTS, AsJson, ResultsDir, Run
from cvrbench.errors import ConfigError, StoreError
from cvrbench.report import MARGIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cvrbench.report.comparison import Filters
    from cvrbench.report.dataset_report import DatasetReport
    from cvrbench.report.differences import Method
    from cvrbench.runs.record import RunRecord
    from cvrbench.runs.store import ResultStore
    from cvrbench.runs.study import StudySummary


LEAST_DRAWS = 100
"""A variance from fewer bootstrap draws is a guess."""
Layout = Literal["terminal", "md", "latex", "csv", "json"]


Words = typer.Argument(
    metavar="[RESULTS_DIR] [KEY=VALUE[,VALUE]]...",
    help="Folder of results, and which runs: dataset=kuairand model=ncs,mmoe seed=0,1,2",
)
Baseline = typer.Option(
    metavar="ROW",
    help="Row to compare with; default: shared_bottom, shared_embedding or single_task",
)
Metric = typer.Option(
    metavar="NAME",
    help="What the verdict is about; default: AUC of the last task in its own space (cvr_auc)",
)
Margin = typer.Option(
    metavar="AUC",
    min=1e-5,
    max=0.5,
    help="Difference that matters: equivalence is shown within it, power told for it",
)
Bootstrap = typer.Option(
    metavar="DRAWS",
    min=0,
    help="Redraw the test rows so often for their doubt, at least 100; 0: by formula",
)
Figures = typer.Option(metavar="DIR", help="Draw what there is of every dataset there")
Titles = typer.Option("--titles", help="Write titles into these pictures, for slides")
Paper = typer.Option(
    metavar="DIR",
    help="Write what a paper needs there: tables, figures as PDF, methods, bibliography (LaTeX)",
)
Printed = typer.Option("--format", help="How tables are printed; `json` is --json")
Full = typer.Option("--full", help="Print every table of the page, not the main ones")
Html = typer.Option(
    metavar="FILE",
    help="Where the page with everything goes; default: RESULTS_DIR/report/index.html",
)
NoHtml = typer.Option("--no-html", help="Write no page; only the terminal's tables have one")


def report(
    words: Annotated[list[str] | None, Words] = None,
    figures: Annotated[Path | None, Figures] = None,
    titles: Annotated[bool, Titles] = False,
    paper: Annotated[Path | None, Paper] = None,
    baseline: Annotated[str | None, Baseline] = None,
    metric: Annotated[str | None, Metric] = None,
    margin: Annotated[float, Margin] = MARGIN,
    bootstrap: Annotated[int, Bootstrap] = 0,
    layout: Annotated[Layout, Printed] = "terminal",
    as_json: AsJson = False,
    full: Annotated[bool, Full] = False,
    html: Annotated[Path | None, Html] = None,
    no_html: Annotated[bool, NoHtml] = False,
) -> None:
    """Compare all finished runs: which strategy to take, how sure that is, and the tables."""
    from cvrbench.report.comparison import Filters
    from cvrbench.report.dataset_report import with_curves
    from cvrbench.report.differences import Method
    from cvrbench.runs.store import ResultStore

    if 0 < bootstrap < LEAST_DRAWS:
        raise ConfigError(f"--bootstrap {bootstrap}: take at least {LEAST_DRAWS} draws, or 0")
    words = [word.removeprefix("results_dir=") for word in words or []]
    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise ConfigError(
            f"{' and '.join(folders)}: one folder of results at a time; a filter is KEY=VALUE"
        )
    results_dir = Path(folders[0] if folders else "results")
    filters = Filters.parse(word for word in words if "=" in word)
    layout = "json" if as_json else layout
    if html is not None and (no_html or layout != "terminal"):
        raise ConfigError(
            f"--html {html} goes with the terminal's tables alone: leave out "
            f"{'--no-html' if no_html else f'--format {layout}'}"
        )
    store = ResultStore(results_dir)
    sweeps = filters.sweeps(_read_sweeps(results_dir))
    with_page = layout == "terminal" and not no_html
    drawn = figures is not None or paper is not None
    how, curves = Method(margin=margin, draws=bootstrap), drawn or with_page
    reports = _read(store, filters, sweeps, baseline, metric, how, curves=curves)
    if not reports and not sweeps:
        raise StoreError(
            f"{results_dir} holds no finished run with a scored test; run `cvrbench run model=ncs`"
        )
    if curves:
        reports = [with_curves(r, store) if drawn or r.fits_a_page else r for r in reports]
    _present(reports, layout=layout, full=full, figures=figures, titles=titles, sweeps=sweeps)
    if paper is not None:
        _write_paper(reports, paper)
    if with_page:
        _write_page(reports, sweeps, html, results_dir)


def present_runs(
    records: "Sequence[RunRecord]",
    store: "ResultStore",
    *,
    figures: Path | None = None,
    sweeps: "Sequence[StudySummary]" = (),
) -> None:
    """Print, and draw where wanted, what some runs, which sweeps chose, say against each other."""
    from cvrbench.report.dataset_report import build, with_curves

    reports = build(records, store, sweeps=sweeps)
    if figures is not None:
        reports = [with_curves(one, store) for one in reports]
    _present(reports, figures=figures)


def _read_sweeps(results_dir: Path) -> "list[StudySummary]":
    """Read every sweep of a results folder; one that cannot be read is named and left out."""
    from cvrbench.runs.study import Studies

    studies = Studies(results_dir)
    found = []
    for name in studies.names():
        try:
            found.append(studies.folder(name).read())
        except StoreError as problem:
            warn(f"no sweep {name}: {problem}")
    return found


def _read(
    store: "ResultStore",
    filters: "Filters",
    sweeps: "Sequence[StudySummary]",
    baseline: str | None,
    metric: str | None,
    how: "Method",
    *,
    curves: bool,
) -> "list[DatasetReport]":
    """Read and test what is asked for, and name what cannot be read."""
    from cvrbench.report.dataset_report import build

    survey = store.survey()
    for one in survey.unreadable:
        warn(f"left out: {one.why}")
    records = filters.records(survey.records)
    with reading_bar(len(records)) as advance:
        reports = build(
            records,
            store,
            begun=filters.begun(survey.begun),
            sweeps=sweeps,
            baseline=baseline,
            metric=metric,
            how=how,
            on_read=advance,
            curves=curves,
        )
    for report in reports:
        if report.untested is None and report.why_untested is not None:
            warn(report.why_untested)
    return reports


def _present(
    reports: "Sequence[DatasetReport]",
    *,
    layout: Layout = "terminal",
    full: bool = False,
    figures: Path | None = None,
    titles: bool = False,
    sweeps: "Sequence[StudySummary]" = (),
) -> None:
    """Print, and draw where wanted, what runs say against each other."""
    from cvrbench.report.dataset_report import report_json, to_csv
    from cvrbench.report.studies import budgets_grid, study_json
    from cvrbench.report.tables import GridTable, to_latex, to_markdown

    for report in reports:
        for problem in filter(None, (*report.problems, report.untested and report.why_untested)):
            warn(problem)
    if layout == "csv":
        write(to_csv([(report.comparison, report.differences) for report in reports]), end="")
    elif layout == "json":
        for report in reports:
            print_json(report_json(report))
        for summary in sweeps:
            print_json({"study": study_json(summary)})
    else:
        for report in reports:
            _print_verdict(report, layout)
        grids = [grid for report in reports for grid in report.grids(full=full)]
        for grid in [*grids, *([budgets_grid(sweeps)] if sweeps else [])]:
            if layout == "terminal":
                out.print(GridTable(grid))
            else:
                write(to_markdown(grid) if layout == "md" else to_latex(grid))
    if figures is not None:
        _draw(reports, sweeps, figures, titles=titles)


def _print_verdict(report: "DatasetReport", layout: Layout) -> None:
    """Print which row to take, before any table."""
    from cvrbench.report.tables import words_to_latex, words_to_markdown

    title, lines = report.verdict.title, report.verdict.lines
    if layout == "md":
        write(words_to_markdown(title, lines))
    elif layout == "latex":
        write(words_to_latex(title, lines))
    else:
        heading(title)
        for line in lines:
            if line.startswith("cvrbench ") or not out.is_terminal:  # whole, to be copied or read
                out.print(line, soft_wrap=True)
            else:
                out.print(Padding(line, (0, 0, 0, 2), expand=False))
        out.print()


def _write_page(
    reports: "Sequence[DatasetReport]",
    sweeps: "Sequence[StudySummary]",
    wanted: Path | None,
    results_dir: Path,
) -> None:
    """Write the page and name its file; results that cannot be written to are no failure."""
    from cvrbench.report.page import render, write
    from cvrbench.system.files import check_no_links

    place = wanted or results_dir / "report" / "index.html"
    try:
        if wanted is None:
            check_no_links(place.parent, within=results_dir)
        write(render(reports, sweeps), place)
    except StoreError as problem:
        if wanted is not None:
            raise
        warn(f"no page: {problem}; --html FILE puts it elsewhere")
        return
    warn(f"wrote {place}")


def _drawn(
    reports: "Sequence[DatasetReport]", sweeps: "Sequence[StudySummary]" = ()
) -> "Iterator[tuple[str, str, Any]]":
    """Yield the name, the caption and the drawing of every figure that has something to show."""
    from cvrbench.report.figures import ACROSS, COMPARED, SWEPT, caption
    from cvrbench.report.figures.across import across_figures
    from cvrbench.report.figures.comparison import compared_figures

    drawers = {
        f"{'' if kind == 'comparison' else f'{kind}-'}{report.comparison.slug}": (kind, draw)
        for report in reports
        for kind, draw in compared_figures(report).items()
    }
    drawers |= {one.name: (one.kind, one.draw) for one in across_figures(reports)}
    for name, (kind, draw) in drawers.items():
        if (figure := draw()) is not None:
            yield name, caption((COMPARED | ACROSS)[kind], figure), figure
    for summary in sweeps:
        from cvrbench.report.figures.sweep import study_figures  # loads Optuna

        try:
            for kind, figure in study_figures(summary).items():
                yield f"sweep-{summary.name}-{kind}", caption(SWEPT[kind], figure), figure
        except ValueError as problem:  # a study.json that somebody edited
            warn(f"no figures of {summary.name}: {problem}")


def _draw(
    reports: "Sequence[DatasetReport]",
    sweeps: "Sequence[StudySummary]",
    folder: Path,
    *,
    titles: bool,
) -> None:
    """Write every figure, and the captions of all; with titles these are in the pictures, too."""
    from cvrbench.report.figures.style import save
    from cvrbench.system.files import write_text

    captions = []
    for name, caption, figure in _drawn(reports, sweeps):
        captions.append(f"{name}: {caption}\n")
        for ending in ("png", "svg", "pdf"):  # no with_suffix: a name may end in `-0.3`
            warn(f"wrote {save(figure, folder / f'{name}.{ending}', titles=titles)}")
    if captions:
        write_text(folder / "captions.txt", "\n".join(captions))
        warn(f"wrote {folder / 'captions.txt'}")


def _write_paper(reports: "Sequence[DatasetReport]", folder: Path) -> None:
    from cvrbench.report.figures.style import save
    from cvrbench.report.paper import write_paper

    figures = []
    for name, caption, figure in _drawn(reports):
        file = f"figures/{re.sub('[^A-Za-z0-9-]', '-', name)}.pdf"  # LaTeX takes a dot for a suffix
        warn(f"wrote {save(figure, folder / file)}")
        figures.append((file, caption))
    for place in write_paper(reports, figures, folder):
        warn(f"wrote {place}")


def check(
    baseline: Annotated[
        Path,
        typer.Argument(
            metavar="BASELINE.json", help="What `cvrbench report --json > BASELINE.json` wrote"
        ),
    ],
    results_dir: Annotated[Path, typer.Argument(help="Folder of results")] = RESULTS,
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


def doctor(run: Run, results_dir: ResultsDir = RESULTS, as_json: AsJson = False) -> None:
    """Read a finished run and print what looks wrong, with the evidence and what to try.

    Examples:
        cvrbench doctor kuairand-ncs-s0
    """
    from cvrbench.report.doctor import examine
    from cvrbench.runs.store import ResultStore, read_record

    store = ResultStore(results_dir)
    folder = store.folder(run)
    record = read_record(folder)
    results = folder.parent.parent
    history = ResultStore(results).history(folder.name)
    findings = examine(record, history, _read_sweeps(results))
    if as_json:
        print_json({"run": record.run_id, "findings": [one._asdict() for one in findings]})
        return
    for one in findings:
        heading(f"{one.what}", f": {one.evidence}")
        out.print(f"  try: {one.advice}", soft_wrap=True)
    if not findings:
        out.print(f"{record.run_id}: nothing looks wrong of what `cvrbench doctor` looks at")
