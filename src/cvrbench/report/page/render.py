"""The report as one HTML file: what the templates beside this module are filled with.

Names in a report are other people's. The templates escape every value; the only values that they
take as markup are `page.css` and the drawings that `figures` wrote. The same records give the same
bytes: nothing on the page depends on the time or the place it was made at.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cvrbench.report.comparison import IGNORED, Comparison, Variant, examples_of, flat_settings
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.escape import escape_control
from cvrbench.report.grids import rows_grid
from cvrbench.report.page.captions import verdict_words
from cvrbench.report.page.figures import across_figures, compared_figures, swept_figures
from cvrbench.report.page.warnings import (
    budget_words,
    seeds_words,
    version_of,
    warnings_between,
    warnings_of,
)
from cvrbench.report.studies import budgets_grid, trials_grid
from cvrbench.report.tables import Grid, cells
from cvrbench.runs.record import NUMBER_FREE, RunRecord
from cvrbench.runs.study import StudySummary
from cvrbench.system.files import explain_write, write_text

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
"""Sections of every dataset, in reading order."""
LEFT_OUT = ("seed", *NUMBER_FREE)
"""Keys that a row's configuration leaves out: the table of runs has them, or no number does."""


def render(parts: Sequence[DatasetReport], sweeps: Sequence[StudySummary]) -> str:
    """Return the whole page in ASCII, so that no reader needs to know an encoding."""
    made_with = [f"{name} {_versions(parts, name)}" for name in ("cvrbench", "torch")]
    page = (
        templates()
        .get_template("page.html.j2")
        .render(
            css=Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8")),
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
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spell_out,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


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
        "rows_grid": rows_grid(comparison),
        "undefined": list(_undefined(part)),
        "verdict": part.tested and verdict_words(comparison, part.tested),
        "transfer_verdict": part.transfer and verdict_words(comparison, part.transfer.gains),
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
        "environment": _environment(variant.runs),
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
        headers=(*headers, "examples, searches included", "device", "threads"),
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
            )
            for run in variant.runs
        ),
        caption="Examples: rows that gradients were computed on.",
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


def _environment(runs: Sequence[RunRecord]) -> str:
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


def _versions(parts: Sequence[DatasetReport], package: str) -> str:
    """Return every version of a package that a run was made with."""
    found = {version_of(package, run) for part in parts for _, run in part.runs()}
    return " and ".join(sorted(one for one in found if one is not None)) or "(version unknown)"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
