"""Warnings that a comparison is not fair: a sentence each, with the rows that it is about."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from cvrbench.report.comparison import Variant
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.runs.record import RunRecord
from cvrbench.runs.study import StudySummary

MOST = 6
"""Rows that a sentence names; of more it gives the number."""


def warnings_of(part: DatasetReport) -> list[str]:
    """Return every reason to doubt that the rows of a comparison had equal chances."""
    return [*_seeds(part), *_failures(part), *_versions(part), *_tuning(part), *_machines(part)]


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
