"""Figures as inline SVG: drawn as for `--figures`, then made fit to live in one page."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.page.captions import ACROSS, COMPARED, SWEPT
from cvrbench.report.page.markup import Html, paragraph, tag, text
from cvrbench.report.plots import across, compared
from cvrbench.report.plots.style import save
from cvrbench.studies import StudySummary

DROPPED = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
REFERENCE = re.compile(r'(xlink:href="#|url\(#)([^")]+)')
DECIMALS = re.compile(r"(\.\d\d)\d+")
"""Hundredths of a point are finer than any screen; the rest is a third of the file."""


def compared_figures(part: DatasetReport, ident: str) -> list[Html]:
    """Draw what there is of one dataset, each figure with its reading."""
    return _shown(compared.compared_figures(part), COMPARED, ident)


def across_figures(parts: Sequence[DatasetReport], ident: str) -> list[Html]:
    """Draw what only several comparisons together show."""
    # Numbered: names of datasets are no ids of a page.
    figures = {f"{f.kind}-{n}": f for n, f in enumerate(across.across_figures(parts), 1)}
    about = {name: ACROSS[figure.kind] for name, figure in figures.items()}
    return _shown({name: figure.draw for name, figure in figures.items()}, about, ident)


def swept_figures(summary: StudySummary, ident: str) -> list[Html]:
    """Draw what there is of one sweep."""
    from cvrbench.report.plots.sweep import study_figures  # loads Optuna

    try:
        figures = study_figures(summary)
    except ValueError as problem:
        return [_missing("The figures of this sweep", problem)]
    drawers = {kind: partial(figures.get, kind) for kind in figures}
    about = {kind: SWEPT[kind.partition("-")[0]] for kind in figures}
    return _shown(drawers, about, ident)


def _shown(
    drawers: Mapping[str, Callable[[], Any]], about: Mapping[str, tuple[str, str]], ident: str
) -> list[Html]:
    found = []
    for kind, draw in drawers.items():
        title, reading = about[kind]
        try:
            source = _svg(draw())
        except (ValueError, TypeError) as problem:  # a name that is no text for matplotlib
            found.append(_missing(title, problem))
            continue
        if source:
            found.append(_figure(source, f"{ident}-{kind}", title, reading))
    return found


def _missing(what: str, problem: Exception) -> Html:
    return paragraph(f"{what}: could not be drawn ({str(problem).strip().splitlines()[0]}).")


def _svg(figure: Any) -> str:
    """Write a figure as SVG; nothing where there is no figure."""
    if figure is None:
        return ""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # A letter that the font lacks is a box in the picture; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph")
        return save(figure, Path(folder) / "figure.svg").read_text(encoding="utf-8")


def _figure(source: str, ident: str, title: str, reading: str) -> Html:
    caption = tag("figcaption", tag("strong", text(f"{title}.")), text(f" {reading}"))
    drawing = inline(source, ident, f"{title}. {reading}")
    box = tag("div", drawing, class_="chart", tabindex="0", role="region", aria_label=title)
    return tag("figure", box, caption, id=ident)


def inline(source: str, ident: str, label: str) -> Html:
    """Take a drawing of ours out of its file: no prologue, names of its own, sized by the page."""
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
        f'aria-label="{text(label)}" style="width:{width}pt;min-width:min({width}pt,34rem)">'
    )
    return Html(opening + re.sub(r"\s*\n\s*", "\n", body))
