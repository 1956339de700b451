"""The page: head, contents, a section per dataset, sweeps.

The same records give the same bytes: nothing in it is of the time or the place it was made at.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cvrbench.files import explain_write, write_text
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.grids import rows_grid
from cvrbench.report.page.captions import verdict_words
from cvrbench.report.page.figures import across_figures, compared_figures
from cvrbench.report.page.look import CSS
from cvrbench.report.page.markup import (
    NOTHING,
    Html,
    bullets,
    facts,
    join,
    paragraph,
    table,
    tag,
    text,
)
from cvrbench.report.page.runs import behind
from cvrbench.report.page.sweeps import sweeps_section
from cvrbench.report.page.warnings import version_of, warnings_between, warnings_of
from cvrbench.studies import StudySummary

NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may do with the page, should anything hostile ever get past the escaping."""


def render(parts: Sequence[DatasetReport], sweeps: Sequence[StudySummary]) -> str:
    """Write the whole page, in ASCII: whatever reads it needs no encoding."""
    names = list(dict.fromkeys(part.comparison.dataset for part in parts))
    title = f"cvrbench report: {', '.join(names) if names else 'sweeps'}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=NO_SCRIPTS),
        tag("title", text(title)),
        tag("style", Html(CSS)),
    )
    idents = [f"data-{number}" for number in range(1, len(parts) + 1)]
    warnings = [warnings_of(part) for part in parts]
    between = warnings_between(parts)
    together = across_figures(parts, "across")
    main = tag(
        "main",
        *(_dataset(*one) for one in zip(parts, idents, warnings, strict=True)),
        *([_across(together)] if together else []),
        sweeps_section(sweeps) if sweeps else NOTHING,
    )
    header = _header(parts, sweeps, idents, warnings, between)
    contents = _contents(parts, idents, sweeps, across=bool(together))
    body = tag("body", header, contents, main)
    page = f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _header(
    parts: Sequence[DatasetReport],
    sweeps: Sequence[StudySummary],
    idents: Sequence[str],
    warnings: Sequence[Sequence[str]],
    between: Sequence[str],
) -> Html:
    """Say what was compared, with what versions, and where to be careful."""
    careful = [
        _link(ident, f"{_name(part)}: {_count(len(found), 'warning')}")
        for part, ident, found in zip(parts, idents, warnings, strict=True)
        if found
    ]
    compared = [
        f"{_count(len(part.comparison.variants), 'row')} on {_name(part)}, "
        f"{_count(sum(1 for _ in part.runs()), 'run')}"
        for part in parts
    ]
    versions = [f"{name} {' and '.join(_versions(parts, name))}" for name in ("cvrbench", "torch")]
    told = [
        *([("compared", "; ".join(compared))] if compared else []),
        *([("made with", ", ".join(versions))] if parts else []),
        *([("tuning", _count(len(sweeps), "sweep"))] if sweeps else []),
    ]
    box = NOTHING
    if careful or between:
        links = tag("ul", *(tag("li", link) for link in careful))
        box = _aside(
            join([bullets(between) if between else NOTHING, links if careful else NOTHING])
        )
    return tag("header", tag("h1", text("cvrbench report")), facts(told), box)


def _versions(parts: Sequence[DatasetReport], package: str) -> list[str]:
    """Every version of a package that a run was made with."""
    found = {version_of(package, run) for part in parts for _, run in part.runs()}
    return sorted(version for version in found if version is not None) or ["(version unknown)"]


def _contents(
    parts: Sequence[DatasetReport],
    idents: Sequence[str],
    sweeps: Sequence[StudySummary],
    *,
    across: bool,
) -> Html:
    entries = []
    for part, ident in zip(parts, idents, strict=True):
        below = [_link(f"{ident}-{key}", title) for key, title in TITLES.items()]
        entries.append(
            tag("li", _link(ident, _name(part)), tag("ul", *(tag("li", one) for one in below)))
        )
    if across:
        entries.append(tag("li", _link("across", ACROSS)))
    if sweeps:
        below = [_link(f"sweep-{n}", one.name) for n, one in enumerate(sweeps, 1)]
        rest = tag("ul", *(tag("li", one) for one in below))
        entries.append(tag("li", _link("sweeps", "Sweeps"), rest))
    return tag("nav", tag("h2", text("Contents")), tag("ol", *entries), aria_label="Contents")


def _name(part: DatasetReport) -> str:
    """Name a dataset in the state that was tested."""
    return f"{part.comparison.name} ({part.comparison.fingerprint[:6]})"


def _link(ident: str, words: str) -> Html:
    return tag("a", text(words), href=f"#{ident}")


ACROSS = "Several tables together"
TITLES = {
    "rows": "Test rows",
    "values": "Values",
    "differences": "Differences",
    "transfer": "Transfer",
    "costs": "Costs",
    "more": "Log loss, GAUC, calibration, power",
    "figures": "Figures",
    "runs": "Runs behind each row",
}
"""What there is of every dataset, in the order of reading."""


def _dataset(part: DatasetReport, ident: str, warnings: Sequence[str]) -> Html:
    comparison = part.comparison
    bodies = {
        "rows": table(rows_grid(comparison), f"{ident}-rows-table"),
        "values": join([table(part.values, f"{ident}-values-table"), *_undefined(part)]),
        "differences": _differences(part, f"{ident}-differences-table"),
        "transfer": _transfer(part, f"{ident}-transfer-table"),
        "costs": table(part.costs, f"{ident}-costs-table"),
        "more": _more(part, f"{ident}-more"),
        "figures": _figures(part, f"{ident}-figure"),
        "runs": behind(part, f"{ident}-runs-table"),
    }
    sections = (
        tag("section", tag("h3", text(TITLES[key])), body, id=f"{ident}-{key}")
        for key, body in bodies.items()
    )
    return tag(
        "section",
        tag("h2", text(f"{comparison.name} "), tag("small", text(comparison.fingerprint[:6]))),
        _aside(bullets(warnings)) if warnings else NOTHING,
        *sections,
        id=ident,
    )


def _aside(body: Html) -> Html:
    return tag("aside", tag("h3", text("Where the comparison is not fair")), body)


def _differences(part: DatasetReport, ident: str) -> Html:
    grid, found = part.differences_grid, part.differences
    if grid is None or found is None:
        why = part.why_untested or ""
        return paragraph(f"{why[:1].upper()}{why[1:]}.")
    return join([paragraph(verdict_words(part.comparison, found)), table(grid, ident)])


def _more(part: DatasetReport, ident: str) -> Html:
    grids = [*part.beyond_auc, *part.more_differences]
    return join([table(grid, f"{ident}-{number}") for number, grid in enumerate(grids, 1)])


def _across(figures: Sequence[Html]) -> Html:
    return tag("section", tag("h2", text(ACROSS)), *figures, id="across")


def _figures(part: DatasetReport, ident: str) -> Html:
    problems = [paragraph(f"Not all could be read: {problem}") for problem in part.problems]
    if not part.fits_a_page:
        n = len(part.comparison.variants)
        words = f"No figures of {n} rows: choose some, as in cvrbench report model=mmoe,ncs."
        return join([paragraph(words), *problems])
    return join([*compared_figures(part, ident), *problems])


def _transfer(part: DatasetReport, ident: str) -> Html:
    if part.transfer is not None and (grid := part.transfer_grid) is not None:
        words = verdict_words(part.comparison, part.transfer.gains)
        return join([paragraph(words), table(grid, ident)])
    if part.transfer is not None:
        return paragraph("The baseline is the tasks alone: the differences above are the gains.")
    return paragraph("No row single_task with two seeds in common to compare with.")


def _undefined(part: DatasetReport) -> Iterator[Html]:
    """Say why a value is missing; once, where it is missing in every run."""
    runs = list(part.runs())
    missing: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for variant, run in runs:
        for metric, reason in run.undefined.get("test", {}).items():
            missing.setdefault((reason, metric), []).append((variant.label, run.seed))
    everywhere: dict[str, list[str]] = {}
    seeds: dict[str, list[str]] = {}
    for (reason, metric), where in missing.items():
        if len(where) == len(runs):
            everywhere.setdefault(reason, []).append(metric)
            continue
        for label, seed in where:
            seeds.setdefault(f"{label}: no {metric} ({reason})", []).append(str(seed))
    words = [f"No {', '.join(metrics)} ({reason})." for reason, metrics in everywhere.items()]
    words += [f"{of}, seed {', '.join(found)}" for of, found in seeds.items()]
    if words:
        yield bullets(words)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def write(page: str, place: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        StoreError: The folder is not writable.
    """
    with explain_write(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, page)
