"""Figures as inline SVG: drawn as for `--figures`, then made fit to live in one page."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.escape import escape_control
from cvrbench.report.figures import across, comparison
from cvrbench.report.figures.style import save
from cvrbench.report.page.captions import ACROSS, COMPARED, SWEPT
from cvrbench.runs.study import StudySummary

DROPPED = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
REFERENCE = re.compile(r'(xlink:href="#|url\(#)([^")]+)')
DECIMALS = re.compile(r"(\.\d\d)\d+")
"""Hundredths of a point are finer than any screen; the rest is a third of the file."""


class Drawn(NamedTuple):
    """A figure on the page, or why it is not there."""

    ident: str
    title: str
    reading: str
    drawing: Markup | None
    problem: str = ""


def compared_figures(part: DatasetReport, ident: str) -> list[Drawn]:
    """Return the figures of one dataset."""
    return _drawn(comparison.compared_figures(part), COMPARED, ident)


def across_figures(parts: Sequence[DatasetReport], ident: str) -> list[Drawn]:
    """Return the figures that only several comparisons together have."""
    # Numbered: names of datasets are no ids of a page.
    figures = {f"{f.kind}-{n}": f for n, f in enumerate(across.across_figures(parts), 1)}
    return _drawn({name: figure.draw for name, figure in figures.items()}, ACROSS, ident)


def swept_figures(summary: StudySummary, ident: str) -> list[Drawn]:
    """Return the figures of one sweep."""
    from cvrbench.report.figures.sweep import study_figures  # loads Optuna

    try:
        figures = study_figures(summary)
    except ValueError as problem:
        return [Drawn(ident, "The figures of this sweep", "", None, _line(problem))]
    return _drawn({kind: partial(figures.get, kind) for kind in figures}, SWEPT, ident)


def _drawn(
    drawers: Mapping[str, Callable[[], Any]], captions: Mapping[str, tuple[str, str]], ident: str
) -> list[Drawn]:
    """Draw each kind of figure, `kind` or `kind-number`; a drawer may give no figure."""
    found = []
    for kind, draw in drawers.items():
        title, reading = captions[kind.partition("-")[0]]
        name = f"{ident}-{kind}"
        try:
            figure = draw()
            if figure is None:
                continue
            drawing = inline(_svg(figure), name, f"{title}. {reading}")
        except (ValueError, TypeError) as problem:  # a name that is no text for matplotlib
            found.append(Drawn(name, title, reading, None, _line(problem)))
            continue
        found.append(Drawn(name, title, reading, drawing))
    return found


def _line(problem: Exception) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)


def _svg(figure: Any) -> str:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # A letter that the font lacks is a box in the picture; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph")
        return save(figure, Path(folder) / "figure.svg").read_text(encoding="utf-8")


def inline(source: str, ident: str, label: str) -> Markup:
    """Return matplotlib's SVG as an element: no prologue, ids of its own, sized by the page."""
    start = source.index("<svg")
    body = DROPPED.sub("", source[source.index(">", start) + 1 :])
    used = {name for _, name in REFERENCE.findall(body)}
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{ident}-{m[1]}"' if m[1] in used else "", body)
    body = REFERENCE.sub(rf"\g<1>{ident}-\g<2>", body).replace("xlink:href=", "href=")
    body = re.sub(r' d="[^"]*"', lambda m: DECIMALS.sub(r"\1", m[0]), body)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', source)
    if box is None:
        raise ValueError("the drawing has no size")
    width, height = box.groups()
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(escape_control(label))}" '
        f'style="width:{width}pt;min-width:min({width}pt,34rem)">'
    )
    return Markup(opening + re.sub(r"\s*\n\s*", "\n", body))
