"""Where a comparison is not fair: a sentence each, with the rows that it is about."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cvrbench.record import RunRecord
from cvrbench.report.comparison import Variant
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.studies import StudySummary

MOST = 6
"""Names that a sentence gives in full; of more it gives the number."""


def warnings_of(part: DatasetReport) -> list[str]:
    """Give every reason to doubt that the rows of a comparison had equal chances."""
    return [
        *_seed_sets(part),
        *_single_seeds(part),
        *_missing(part),
        *_versions(part),
        *_looks_at_test(part),
        *_tuned_and_presets(part),
        *_budgets(part),
        *_machines(part),
    ]


def warnings_between(parts: Sequence[DatasetReport]) -> list[str]:
    """Give the datasets that appear in more than one state, whose tables are not comparable."""
    states: dict[str, dict[str, None]] = {}
    for part in parts:
        states.setdefault(part.comparison.dataset, {})[part.comparison.fingerprint[:6]] = None
    return [
        f"{dataset} was prepared in {len(found)} ways ({', '.join(found)}): rows of different "
        "tables were tested on different data and do not compare."
        for dataset, found in states.items()
        if len(found) > 1
    ]


def _seed_sets(part: DatasetReport) -> list[str]:
    sets: dict[str, list[str]] = {}
    for variant in part.comparison.variants:
        sets.setdefault(seeds_words(variant), []).append(variant.label)
    if len(sets) < 2:
        return []
    return [
        f"Rows have different seeds ({_groups(sets)}): their means are over different draws, and "
        "differences use the seeds in common only."
    ]


def _single_seeds(part: DatasetReport) -> list[str]:
    rows = [v.label for v in part.comparison.variants if len({run.seed for run in v.runs}) == 1]
    if not rows:
        return []
    return [f"One seed only, and so no interval and no test: {_names(rows)}."]


def _missing(part: DatasetReport) -> list[str]:
    rows = [(row.label, row.missing) for row in part.comparison.variants]
    rows += [(row.label, row.missing) for row in part.comparison.absent]
    failed = [
        f"{label} seed {one.seed}"
        for label, missing in rows
        for one in missing
        if one.reason.startswith("failed")
    ]
    if not failed:
        return []
    return [
        f"Runs failed ({_names(failed)}): what is left of a row may be its lucky seeds. The table "
        "of values says why."
    ]


def _versions(part: DatasetReport) -> list[str]:
    found = []
    for package in ("cvrbench", "torch"):
        groups = _by(part, partial(version_of, package))
        if len(groups) > 1:
            found.append(
                f"Runs were made with different versions of {package} ({_groups(groups)}): a part "
                "of their differences may be the code's."
            )
    return found


def version_of(package: str, run: RunRecord) -> str | None:
    """Give the version of a package that a run was made with, where its record tells."""
    versions = run.environment.get("versions")
    told = versions.get(package) if isinstance(versions, Mapping) else None
    return None if told is None else str(told)


def _looks_at_test(part: DatasetReport) -> list[str]:
    most: dict[str, int] = {}
    for variant, run in part.runs():
        most[variant.label] = max(run.test_scored, most.get(variant.label, 0))
    often = {label: times for label, times in most.items() if times > 1}
    if not often:
        return []
    rows = _names([f"{label} ({times} times)" for label, times in often.items()])
    return [
        "The test split was scored more than once, so that somebody could choose by what they "
        f"saw: {rows}."
    ]


def _tuned_and_presets(part: DatasetReport) -> list[str]:
    tuned = [label for label, one in part.tuned.items() if one is not None]
    presets = [label for label, one in part.tuned.items() if one is None]
    if not tuned or not presets:
        return []
    return [
        f"A sweep tuned {_names(tuned)}, while {_names(presets)} ran as preset: a part of the "
        "differences between them is the tuning's."
    ]


def _budgets(part: DatasetReport) -> list[str]:
    budgets: dict[str, list[str]] = {}
    for variant in part.comparison.variants:
        if (sweep := part.sweep_of(variant.label)) is not None:
            budgets.setdefault(budget_words(sweep), []).append(variant.label)
    if len(budgets) < 2:
        return []
    return [
        f"Rows were tuned under different budgets ({_groups(budgets)}): who tried more had more "
        "chances to find something better."
    ]


def _machines(part: DatasetReport) -> list[str]:
    devices = _by(part, lambda run: _told(run, "device"))
    # Threads of the CPU say nothing of what ran on another device.
    threads = _by(
        part, lambda run: _told(run, "threads") if _told(run, "device") in (None, "cpu") else None
    )
    found = []
    if len(devices) > 1:
        found.append(
            f"Runs were made on different devices ({_groups(devices)}): their times do not "
            "compare, and rounding differs."
        )
    if len(threads) > 1:
        found.append(
            f"Runs had different numbers of threads ({_groups(threads)}): their times do not "
            "compare, and sums are rounded in another order."
        )
    return found


def _told(run: RunRecord, key: str) -> str | None:
    value = run.environment.get(key)
    return None if value is None else str(value)


def budget_words(summary: StudySummary) -> str:
    """Say what a sweep was allowed: `30 trials, 1 tuning seed`."""
    limits = [f"{value:,.10g} {key}" for key, value in summary.limits.items() if value is not None]
    seeds = len(summary.seeds)
    return ", ".join([*limits, f"{seeds} tuning seed{'' if seeds == 1 else 's'}"])


def seeds_words(variant: Variant) -> str:
    """Name the seeds of a row: `0-4` or `0, 2, 7`."""
    seeds = sorted({run.seed for run in variant.runs})
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _by(part: DatasetReport, of: Callable[[RunRecord], str | None]) -> dict[str, list[str]]:
    """Group rows by what their runs tell; a run that tells nothing is left out."""
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
