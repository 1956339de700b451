"""The runs behind each row: which they are, the commands that made them, what sets them apart."""

from collections.abc import Iterator, Mapping, Sequence

from cvrbench.record import NUMBER_FREE, RunRecord
from cvrbench.report.comparison import IGNORED, Comparison, Variant, examples_of, flat_settings
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.page.markup import Html, bullets, code, fold, join, paragraph, table
from cvrbench.report.page.warnings import seeds_words
from cvrbench.report.tables import Cell, Grid

LEFT_OUT = ("seed", *NUMBER_FREE)
"""What a configuration shows of no run: the table of runs has it, or it changes no number."""


def behind(part: DatasetReport, ident: str) -> Html:
    """Give a fold per row."""
    differing = differing_settings(part.comparison)
    rows = []
    for number, variant in enumerate(part.comparison.variants, 1):
        n = len(variant.runs)
        seeds = f"seed{'' if n == 1 else 's'} {seeds_words(variant)}"
        rows.append(
            fold(
                f"{variant.label}: {n} run{'' if n == 1 else 's'}, {seeds}",
                table(runs_grid(variant), f"{ident}-{number}"),
                *_commands(variant),
                *_chosen(part, variant.label),
                *_differing(differing[variant.label]),
                fold("Full configuration", code("\n".join(_lines(variant)))),
                paragraph(_environment(variant.runs), "note"),
            )
        )
    return join(rows)


def runs_grid(variant: Variant) -> Grid:
    """Give a row per run: what it looked at and what it cost."""
    return Grid(
        title=f"{variant.label}: runs",
        headers=(
            "run",
            "seed",
            "test scored",
            "best epoch",
            "search (s)",
            "train (s)",
            "examples, searches included",
            "device",
            "threads",
        ),
        rows=tuple(map(_run, variant.runs)),
        caption="Examples: rows that gradients were computed on.",
    )


def _run(run: RunRecord) -> tuple[Cell, ...]:
    examples = examples_of(run)
    texts = (
        run.run_id,
        str(run.seed),
        str(run.test_scored),
        f"{run.best_epoch:.2f}",
        f"{run.seconds.get('search', 0):.1f}",
        f"{run.seconds.get('train', 0):.1f}",
        f"{examples:,}",
        str(run.environment.get("device", "-")),
        str(run.environment.get("threads", "-")),
    )
    return tuple(map(Cell, texts))


def differing_settings(comparison: Comparison) -> dict[str, list[str]]:
    """Give of every row the settings in which it differs from some other row that has them."""
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


def _commands(variant: Variant) -> Iterator[Html]:
    """Give every command that made a run of the row, once, with the seeds that it made."""
    seeds: dict[str, list[int]] = {}
    for run in variant.runs:
        command = run.environment.get("command")
        seeds.setdefault(str(command) if command else "", []).append(run.seed)
    for command, made in seeds.items():
        which = "" if len(seeds) == 1 else f" of seed {', '.join(map(str, made))}"
        if command:
            yield paragraph(f"The command{which}:")
            yield code(command)
        else:
            yield paragraph(f"The record{which} has no command.")


def _chosen(part: DatasetReport, label: str) -> Iterator[Html]:
    """Give what a sweep chose for a row."""
    one, sweep = part.tuned.get(label), part.sweep_of(label)
    if one is None or sweep is None or sweep.chosen is None:
        return
    yield paragraph(
        f"Chosen by the sweep {one.sweep} after {one.trials} trials and {one.examples:,} examples:"
    )
    yield code(" ".join(["cvrbench run", *map(str, sweep.chosen.get("overrides", []))]))


def _differing(settings: Sequence[str]) -> Iterator[Html]:
    if settings:
        yield paragraph("Settings in which it differs from another row that has them:")
        yield bullets(settings)


def _lines(variant: Variant) -> Iterator[str]:
    run = variant.runs[0]
    for group, option in sorted(run.choices.items()):
        yield f"{group}={option}"
    for key, value in flat_settings(run.config):
        if key not in LEFT_OUT:
            yield f"{key}={value}"


def _environment(runs: Sequence[RunRecord]) -> str:
    """Say what the runs ran on, all that was met."""
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        told = run.environment.get("versions")
        for package, version in (told if isinstance(told, Mapping) else {}).items():
            versions.setdefault(str(package), {})[str(version)] = None
    words = [f"{package} {' and '.join(found)}" for package, found in versions.items()]
    commits = dict.fromkeys(filter(None, (_commit(run) for run in runs)))
    return "; ".join([", ".join(words) or "The records tell no versions", *commits]) + "."


def _commit(run: RunRecord) -> str:
    git = run.environment.get("git")
    if not isinstance(git, Mapping) or "commit" not in git:
        return ""
    changed = " with changed files" if git.get("dirty") else ""
    return f"source at commit {str(git['commit'])[:10]}{changed}"
