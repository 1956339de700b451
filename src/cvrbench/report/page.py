"""The report as one HTML file: what `templates` is filled with.

Names in a report are other people's. The templates escape every value; the only values that they
take as markup are `page.css` and the drawings that `figures` wrote. The same records give the same
bytes: nothing on the page depends on the time or the place it was made at.
"""

import re
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cvrbench.report import as_written, escape_control
from cvrbench.report.comparison import (
    IGNORED,
    Comparison,
    Variant,
    examples_of,
    flat_settings,
    seeds_at_once,
)
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.figures import ACROSS, COMPARED, SWEPT, across, comparison
from cvrbench.report.figures.style import save
from cvrbench.report.grids import rows_grid, wins_grid
from cvrbench.report.studies import budgets_grid, trials_grid
from cvrbench.report.tables import Grid, cells
from cvrbench.runs.record import NUMBER_FREE, RunRecord
from cvrbench.runs.study import StudySummary
from cvrbench.system.files import explain_write, write_text

TEMPLATES = Path(__file__).with_name("templates")
TITLES = {
    "verdict": "Verdict",
    "rows": "Test rows",
    "values": "Values",
    "differences": "Differences",
    "transfer": "Transfer",
    "costs": "Costs",
    "more": "Log loss, GAUC, calibration, power",
    "figures": "Figures",
    "runs": "Runs behind each row",
}
"""Sections of every dataset, in reading order."""
LEFT_OUT = ("seed", *NUMBER_FREE)
"""Keys that a row's configuration leaves out: the table of runs has them, or no number does."""


def render(parts: Sequence[DatasetReport], sweeps: Sequence[StudySummary]) -> str:
    """Return the whole page in ASCII, so that no reader needs to know an encoding."""
    made_with = [f"{name} {_versions_of(parts, name)}" for name in ("cvrbench", "torch")]
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    page = (
        templates()
        .get_template("page.html.j2")
        .render(
            css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
            chapters=[_chapter(part, f"data-{n}") for n, part in enumerate(parts, 1)],
            made_with=", ".join(made_with),
            between=warnings_between(parts),
            titles=TITLES,
            across=across_figures(parts, "across"),
            sweeps=[_sweep(summary, f"sweep-{n}") for n, summary in enumerate(sweeps, 1)],
            n_sweeps=_count(len(sweeps), "sweep"),
            budgets=budgets_grid(sweeps),
        )
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def write(page: str, place: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        StoreError: The folder is not writable.
    """
    with explain_write(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, page)


@cache
def templates() -> Environment:
    """Return the templates; they escape markup and control characters in every value."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spell_out,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["as_written"] = as_written
    return found


def _spell_out(value: object) -> object:
    """Spell out control characters of a plain text; markup was made of such texts."""
    is_plain = isinstance(value, str) and not isinstance(value, Markup)
    return escape_control(str(value)) if is_plain else value


def _chapter(part: DatasetReport, ident: str) -> dict[str, Any]:
    """Return what the template shows of one dataset."""
    comparison, found = part.comparison, warnings_of(part)
    differing = differing_settings(comparison)
    return {
        "part": part,
        "ident": ident,
        "dataset": comparison.dataset,
        "name": f"{comparison.name} ({comparison.fingerprint[:6]})",
        "n_rows": _count(len(comparison.variants), "row"),
        "n_runs": _count(sum(1 for _ in part.runs()), "run"),
        "warnings": found,
        "n_warnings": _count(len(found), "warning"),
        "wins": wins_grid(part.verdict),
        "rows_grid": rows_grid(comparison),
        "undefined": list(_undefined(part)),
        "figures": compared_figures(part, f"{ident}-figure") if part.fits_a_page else [],
        "rows": [_row(part, variant, differing[variant.label]) for variant in comparison.variants],
    }


def _row(part: DatasetReport, variant: Variant, differing: list[str]) -> dict[str, Any]:
    """Return what is behind one row: its runs, their commands, and what sets it apart."""
    by_command: dict[str, list[int]] = {}
    for run in variant.runs:
        by_command.setdefault(str(run.environment.get("command") or ""), []).append(run.seed)
    n, sweep = len(variant.runs), part.sweep_of(variant.label)
    seeds = f"seed{'' if n == 1 else 's'} {seeds_words(variant)}"
    return {
        "summary": f"{variant.label}: {_count(n, 'run')}, {seeds}",
        "grid": runs_grid(variant),
        "commands": [{"command": one, "seeds": seeds} for one, seeds in by_command.items()],
        "tuned": part.tuned.get(variant.label),
        "overrides": ((sweep and sweep.chosen) or {}).get("overrides", []),
        "differing": differing,
        "configuration": "\n".join(_lines(variant.runs[0])),
        "environment": _versions_words(variant.runs),
    }


def _sweep(summary: StudySummary, ident: str) -> dict[str, Any]:
    """Return what the template shows of one sweep."""
    chosen = summary.chosen
    return {
        "summary": summary,
        "ident": ident,
        "budget": budget_words(summary),
        "overrides": summary.best_words() if chosen is None else chosen.get("overrides", []),
        "figures": swept_figures(summary, ident),
        "trials": trials_grid(summary),
    }


def runs_grid(variant: Variant) -> Grid:
    """Return a row per run: how often it was tested and what it cost."""
    headers = ("run", "seed", "test scored", "best epoch", "search (s)", "train (s)")
    return Grid(
        title=f"{variant.label}: runs",
        headers=(*headers, "examples, searches included", "device", "threads", "seeds at once"),
        rows=tuple(
            cells(
                run.run_id,
                str(run.seed),
                str(run.test_scored),
                f"{run.best_epoch:.2f}",
                f"{run.seconds.get('search', 0):.1f}",
                f"{run.seconds.get('train', 0):.1f}",
                f"{examples_of(run):,}",
                str(run.environment.get("device", "-")),
                str(run.environment.get("threads", "-")),
                seeds_at_once(run),
            )
            for run in variant.runs
        ),
        caption="Examples: rows that gradients were computed on. Seeds at once: trained as one "
        "program, whose seconds they share.",
    )


def differing_settings(comparison: Comparison) -> dict[str, list[str]]:
    """Return, per row, the settings in which it differs from another row that has them."""
    settings = {v.label: dict(flat_settings(v.runs[0].config)) for v in comparison.variants}
    values: dict[str, set[str]] = {}
    for one in settings.values():
        for key, value in one.items():
            values.setdefault(key, set()).add(value)
    return {
        label: [
            f"{key}={value}"
            for key, value in one.items()
            if len(values[key]) > 1 and key not in IGNORED and key != "model.kind"
        ]
        for label, one in settings.items()
    }


def _undefined(part: DatasetReport) -> Iterator[str]:
    """Yield why values are missing; once, where a value is missing in every run."""
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
    for reason, metrics in everywhere.items():
        yield f"No {', '.join(metrics)} ({reason})."
    for of, found in seeds.items():
        yield f"{of}, seed {', '.join(found)}"


def _lines(run: RunRecord) -> Iterator[str]:
    """Yield the configuration of a run as overrides."""
    for group, option in sorted(run.choices.items()):
        yield f"{group}={option}"
    for key, value in flat_settings(run.config):
        if key not in LEFT_OUT:
            yield f"{key}={value}"


def _versions_words(runs: Sequence[RunRecord]) -> str:
    """Return every version and commit that the runs were made with."""
    versions: dict[str, dict[str, None]] = {}
    commits: dict[str, None] = {}
    for run in runs:
        found, git = run.environment.get("versions"), run.environment.get("git")
        for package, version in (found if isinstance(found, Mapping) else {}).items():
            versions.setdefault(str(package), {})[str(version)] = None
        if isinstance(git, Mapping) and "commit" in git:
            changed = " with changed files" if git.get("dirty") else ""
            commits[f"source at commit {str(git['commit'])[:10]}{changed}"] = None
    words = [f"{package} {' and '.join(found)}" for package, found in versions.items()]
    return "; ".join([", ".join(words) or "The records tell no versions", *commits]) + "."


def _versions_of(parts: Sequence[DatasetReport], package: str) -> str:
    """Return every version of a package that a run was made with."""
    found = {version_of(package, run) for part in parts for _, run in part.runs()}
    return " and ".join(sorted(one for one in found if one is not None)) or "(version unknown)"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


DROPPED = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
ANCHOR = re.compile(r'(xlink:href="#|url\(#)([^")]+)')
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
            reading = f"{figure.get_label()}. {reading}"
            drawing = inline(_svg(figure), name, f"{title}: {reading}")
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
    used = {name for _, name in ANCHOR.findall(body)}
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{ident}-{m[1]}"' if m[1] in used else "", body)
    body = ANCHOR.sub(rf"\g<1>{ident}-\g<2>", body).replace("xlink:href=", "href=")
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


MOST = 6
"""Rows that a sentence names; of more it gives the number."""


def warnings_of(part: DatasetReport) -> list[str]:
    """Return every reason to doubt that the rows of a comparison had equal chances."""
    return [
        *_seeds(part),
        *_failures(part),
        *_versions(part),
        *_tuning(part),
        *_machines(part),
    ]


def warnings_between(parts: Sequence[DatasetReport]) -> list[str]:
    """Return a warning per dataset that was tested in more than one state."""
    states: dict[str, dict[str, None]] = {}
    for part in parts:
        states.setdefault(part.comparison.dataset, {})[part.comparison.fingerprint[:6]] = None
    return [
        f"{dataset} was prepared in {len(found)} ways ({', '.join(found)}): rows of different "
        "tables were tested on different data and do not compare."
        for dataset, found in states.items()
        if len(found) > 1
    ]


def _seeds(part: DatasetReport) -> Iterator[str]:
    variants = part.comparison.variants
    groups: dict[str, list[str]] = {}
    for variant in variants:
        groups.setdefault(seeds_words(variant), []).append(variant.label)
    if len(groups) > 1:
        yield (
            f"Rows have different seeds ({_groups(groups)}): their means are over different draws, "
            "and differences use the seeds in common only."
        )
    if single := [v.label for v in variants if len({run.seed for run in v.runs}) == 1]:
        yield f"One seed only, and so no interval and no test: {_names(single)}."


def _failures(part: DatasetReport) -> Iterator[str]:
    missing = [(row.label, row.missing) for row in part.comparison.variants]
    missing += [(row.label, row.missing) for row in part.comparison.absent]
    failed = [
        f"{label} seed {one.seed}"
        for label, seeds in missing
        for one in seeds
        if one.reason.startswith("failed")
    ]
    if failed:
        yield (
            f"Runs failed ({_names(failed)}): what is left of a row may be its lucky seeds. The "
            "table of values says why."
        )


def _versions(part: DatasetReport) -> Iterator[str]:
    for package in ("cvrbench", "torch"):
        groups = _by(part, partial(version_of, package))
        if len(groups) > 1:
            yield (
                f"Runs were made with different versions of {package} ({_groups(groups)}): a part "
                "of their differences may be the code's."
            )


def version_of(package: str, run: RunRecord) -> str | None:
    """Return the version of a package that a run was made with; None if its record has none."""
    versions = run.environment.get("versions")
    version = versions.get(package) if isinstance(versions, Mapping) else None
    return None if version is None else str(version)


def _tuning(part: DatasetReport) -> Iterator[str]:
    """Yield the ways in which somebody could have chosen rows by more than others had."""
    most: dict[str, int] = {}
    for variant, run in part.runs():
        most[variant.label] = max(run.test_scored, most.get(variant.label, 0))
    if often := [f"{label} ({times} times)" for label, times in most.items() if times > 1]:
        yield (
            "The test split was scored more than once, so that somebody could choose by what they "
            f"saw: {_names(often)}."
        )
    tuned = [label for label, one in part.tuned.items() if one is not None]
    presets = [label for label, one in part.tuned.items() if one is None]
    if tuned and presets:
        yield (
            f"A sweep tuned {_names(tuned)}, while {_names(presets)} ran as preset: a part of the "
            "differences between them is the tuning's."
        )
    budgets: dict[str, list[str]] = {}
    for variant in part.comparison.variants:
        if (sweep := part.sweep_of(variant.label)) is not None:
            budgets.setdefault(budget_words(sweep), []).append(variant.label)
    if len(budgets) > 1:
        yield (
            f"Rows were tuned under different budgets ({_groups(budgets)}): who tried more had "
            "more chances to find something better."
        )


def _machines(part: DatasetReport) -> Iterator[str]:
    devices = _by(part, lambda run: _environment(run, "device"))
    if len(devices) > 1:
        yield (
            f"Runs were made on different devices ({_groups(devices)}): their times do not "
            "compare, and rounding differs."
        )
    # How many threads the CPU had is nothing to a run on another device.
    on_cpu = (None, "cpu")
    threads = _by(
        part,
        lambda run: _environment(run, "threads") if _environment(run, "device") in on_cpu else None,
    )
    if len(threads) > 1:
        yield (
            f"Runs had different numbers of threads ({_groups(threads)}): their times do not "
            "compare, and sums are rounded in another order."
        )


def budget_words(summary: StudySummary) -> str:
    """Return the limits of a sweep: `30 trials, 1 tuning seed`."""
    limits = [f"{value:,.10g} {key}" for key, value in summary.limits.items() if value is not None]
    seeds = len(summary.seeds)
    return ", ".join([*limits, f"{seeds} tuning seed{'' if seeds == 1 else 's'}"])


def seeds_words(variant: Variant) -> str:
    """Return the seeds of a row: `0-4` or `0, 2, 7`."""
    seeds = sorted({run.seed for run in variant.runs})
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _environment(run: RunRecord, key: str) -> str | None:
    value = run.environment.get(key)
    return None if value is None else str(value)


def _by(part: DatasetReport, of: Callable[[RunRecord], str | None]) -> dict[str, list[str]]:
    """Group rows by a value of their runs; a run without the value is left out."""
    groups: dict[str, list[str]] = {}
    for variant, run in part.runs():
        value = of(run)
        if value is not None and variant.label not in groups.setdefault(value, []):
            groups[value].append(variant.label)
    return groups


def _groups(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value} for {_names(rows)}" for value, rows in groups.items())


def _names(rows: Sequence[str]) -> str:
    if len(rows) <= MOST:
        return ", ".join(rows)
    return f"{', '.join(rows[: MOST - 1])} and {len(rows) - MOST + 1} more"
