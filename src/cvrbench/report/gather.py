"""From records to what every medium tells: grouped, tested, tuned rows named."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from cvrbench.errors import StoreError
from cvrbench.record import RunRecord
from cvrbench.report.calibration import calibrations
from cvrbench.report.differences import Method, against, choose_baselines
from cvrbench.report.frames import Comparison, compare
from cvrbench.report.learning import learnings
from cvrbench.report.part import Part
from cvrbench.report.sharing import agreements
from cvrbench.report.studies import tuned
from cvrbench.report.transfer import REFERENCE, transfer
from cvrbench.store import ResultStore, Unfinished
from cvrbench.studies import StudySummary

Found = TypeVar("Found")
MOST_PROBLEMS = 3
"""Runs that are named; of more there is a number."""


def gather(
    records: Sequence[RunRecord],
    store: ResultStore,
    *,
    begun: Sequence[Unfinished] = (),
    sweeps: Sequence[StudySummary] = (),
    baseline: str | None = None,
    how: Method | None = None,
    on_read: Callable[[], None] = lambda: None,
) -> list[Part]:
    """Compare all runs, dataset by dataset; what cannot be tested says why.

    Args:
        records: Finished runs.
        store: Where their predictions are.
        begun: Runs without a record.
        sweeps: All of the results folder.
        baseline: Row to compare with; None for a usual one.
        how: Margin and bootstrap draws; None for the usual.
        on_read: Told of every run whose predictions are read.

    Raises:
        ConfigError: No comparison has the wanted baseline.
    """
    comparisons = compare(records, begun)
    rows = choose_baselines(comparisons, baseline)
    return [
        _part(comparison, row, store, sweeps, how or Method(), on_read)
        for comparison, row in zip(comparisons, rows, strict=True)
    ]


def with_curves(part: Part, store: ResultStore) -> Part:
    """Read what only figures show; what cannot be read is said in `problems`."""
    comparison, problems = part.comparison, list(part.problems)

    def read(what: str, reader: Callable[[Comparison, ResultStore], list[Found]]) -> list[Found]:
        try:
            return reader(comparison, store)
        except StoreError as problem:
            problems.append(f"no {what} for {comparison.name}: {problem}")
            return []

    return replace(
        part,
        agreements=tuple(read("gradients", agreements)),
        learnings=tuple(read("learning curves", learnings)),
        calibrations=tuple(read("calibration", calibrations)),
        problems=tuple(problems),
    )


def _part(
    comparison: Comparison,
    baseline: str | None,
    store: ResultStore,
    sweeps: Sequence[StudySummary],
    how: Method,
    on_read: Callable[[], None],
) -> Part:
    labels = {variant.label for variant in comparison.variants}
    wanted = [row for row in (baseline, REFERENCE) if row is not None and row in labels]
    problems: list[str] = []
    found = against(
        comparison,
        list(dict.fromkeys(wanted)),
        store,
        how,
        on_read=on_read,
        on_problem=problems.append,
    )
    tested = any(any(one.verdicts.values()) for one in found.values())
    problems = [f"left out of {comparison.name}'s differences: {one}" for one in sorted(problems)]
    if len(problems) > MOST_PROBLEMS:
        more = len(problems) - MOST_PROBLEMS
        problems = [*problems[:MOST_PROBLEMS], f"and {more} more of {comparison.name}"]
    return Part(
        comparison=comparison,
        differences=None if baseline is None else found.get(baseline),
        transfer=transfer(comparison, found.get(REFERENCE)),
        tuned=tuned(comparison, sweeps),
        sweeps=tuple(sweeps),
        untested=None if tested or not problems else "no predictions could be read",
        problems=tuple(problems),
    )
