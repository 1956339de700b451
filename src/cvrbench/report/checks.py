"""Has an AUC fallen? Today's results against what `cvrbench report --json` once printed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cvrbench.errors import ConfigError
from cvrbench.report.comparison import Comparison
from cvrbench.report.dataset_report import comparison_json
from cvrbench.report.tables import Cell, Grid, number
from cvrbench.stats.intervals import Estimate, auc_standard_error, welch_half_width

Outcome = Literal["held", "fell", "missing", "other data", "undefined"]
FAILURES = ("fell", "missing", "other data", "undefined")
NORMAL = 1.96


class Strategy(NamedTuple):
    """A row of a report."""

    label: str
    settings: str | None
    aucs: dict[str, Estimate]
    """Metric -> what the report says of it; none that is undefined."""


class Table(NamedTuple):
    """One dataset's part of a report."""

    dataset: str
    fingerprint: str
    counts: dict[str, dict[str, int]]
    rows: list[Strategy]


@dataclass(frozen=True, kw_only=True)
class CheckedAuc:
    """One AUC, then and now."""

    dataset: str
    strategy: str
    metric: str
    """Empty where the whole row is missing or of other data."""
    outcome: Outcome
    then: Estimate | None = None
    now: Estimate | None = None
    tolerance: float | None = None
    """How far it may fall."""
    basis: str = ""
    """Where the tolerance is from."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """All that was compared."""

    compared: tuple[CheckedAuc, ...]
    new: tuple[str, ...]
    """Rows that the baseline has not."""

    @property
    def failures(self) -> list[CheckedAuc]:
        """Those for which the check fails."""
        return [one for one in self.compared if one.outcome in FAILURES]


def read_baseline(file: Path) -> list[Table]:
    """Read what `cvrbench report --json` printed; lines of sweeps are left out.

    Raises:
        ConfigError: The file cannot be read, or has no line of such a report.
    """
    made = "make one with `cvrbench report --json > baseline.json`"
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
        objects = [json.loads(line, parse_constant=_refuse) for line in lines]
        found = [_table(one) for one in objects if "strategies" in one]
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as a baseline ({error}); {made}") from None
    except (LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{file} is not what a report prints ({reason}); {made}") from None
    if not found:
        raise ConfigError(f"{file} holds no dataset's report; {made}")
    return found


def check(
    baseline: Sequence[Table], today: Sequence[Comparison], tolerance: float | None = None
) -> Check:
    """Compare every AUC of the baseline with today's.

    Args:
        baseline: What was.
        today: What is.
        tolerance: How far an AUC may fall; without it what its own doubt allows.
    """
    tables = [_table(comparison_json(comparison)) for comparison in today]
    by_data = {(table.dataset, table.fingerprint): table for table in tables}
    compared, new = [], []
    for then in baseline:
        now = by_data.get((then.dataset, then.fingerprint))
        if now is None:
            compared += _without(then, [t for t in tables if t.dataset == then.dataset])
            continue
        partners = _partners(then, now)
        known = {one.label for one in partners.values() if one is not None}
        new += [f"{now.dataset}: {one.label}" for one in now.rows if one.label not in known]
        for row in then.rows:
            compared += _guard(then, row, partners[row.label], tolerance)
    old = {table.dataset for table in baseline}
    new += [f"{t.dataset}: {one.label}" for t in tables if t.dataset not in old for one in t.rows]
    return Check(compared=tuple(compared), new=tuple(new))


def check_grid(found: Check) -> Grid:
    """Give a row per AUC, what failed first."""
    rows = sorted(found.compared, key=lambda one: one.outcome not in FAILURES)
    others = {one.dataset: one.basis for one in rows if one.outcome == "other data"}
    words = [f" Other data, so nothing to compare: {name} {of}." for name, of in others.items()]
    if found.new:
        words.append(f" New since, and not compared: {', '.join(found.new)}.")
    return Grid(
        title=f"{len(found.compared)} compared, {len(found.failures)} failed",
        headers=("strategy", "metric", "then", "now", "change", "may fall", "outcome"),
        rows=tuple(_cells(one) for one in rows),
        caption=(
            "May fall: half of the 95 % interval of the difference of two means over seeds "
            "(Welch); `rows` where one seed has no such interval: 1.96 standard errors of the test "
            f"rows (Hanley and McNeil); `given`: --tolerance.{''.join(words)}"
        ),
    )


def check_json(found: Check) -> dict[str, Any]:
    """Give the plain form."""

    def plain(one: Estimate | None) -> dict[str, Any] | None:
        return None if one is None else one._asdict()

    return {
        "failed": len(found.failures),
        "new": list(found.new),
        "compared": [
            {
                "dataset": one.dataset,
                "strategy": one.strategy,
                "metric": one.metric or None,
                "outcome": one.outcome,
                "then": plain(one.then),
                "now": plain(one.now),
                "tolerance": one.tolerance,
                "basis": one.basis or None,
            }
            for one in found.compared
        ],
    }


def _table(line: Mapping[str, Any]) -> Table:
    """Read one object of `cvrbench report --json`."""
    counts = {str(name): _counts(of) for name, of in line["test"].items()}
    rows = []
    for row in line["strategies"]:
        known = {f"{name}_auc": row["metrics"].get(f"{name}_auc") for name in counts}
        aucs = {metric: _estimate(value) for metric, value in known.items() if value is not None}
        rows.append(Strategy(str(row["strategy"]), row.get("settings"), aucs))
    return Table(str(line["dataset"]), str(line["fingerprint"]), counts, rows)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value in JSON")


def _counts(of: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(of[key]) for key in ("rows", "positives")}


def _estimate(value: Mapping[str, Any]) -> Estimate:
    half_width = value["half_width"]
    mean, half = float(value["mean"]), None if half_width is None else float(half_width)
    n = int(value["n"])
    if not 0 <= mean <= 1 or (half is not None and (n < 2 or not 0 <= half < math.inf)):
        raise ValueError(f"{mean} ± {half} of {n} seeds is no AUC")
    return Estimate(mean, half, n)


def _without(then: Table, others: Sequence[Table]) -> list[CheckedAuc]:
    """Say of every row of a dataset that it is gone, or that its data are others now."""
    outcome: Outcome = "other data" if others else "missing"
    words = f"{then.fingerprint}, now {others[0].fingerprint}" if others else ""
    return [
        CheckedAuc(
            dataset=then.dataset, strategy=one.label, metric="", outcome=outcome, basis=words
        )
        for one in then.rows
    ]


def _partners(then: Table, now: Table) -> dict[str, Strategy | None]:
    """Find today's row of each old one: of the same settings, or else of the same name.

    A row's name tells what sets it apart from its neighbours, so it can change with them; its
    settings can change with the defaults of a new version.
    """
    left = list(now.rows)
    found: dict[str, Strategy | None] = {}
    for same in (_same_settings, _same_label):
        for row in then.rows:
            if found.get(row.label) is None:
                found[row.label] = one = next((o for o in left if same(row, o)), None)
                left = [other for other in left if other is not one]
    return found


def _same_settings(one: Strategy, other: Strategy) -> bool:
    return one.settings is not None and one.settings == other.settings


def _same_label(one: Strategy, other: Strategy) -> bool:
    return one.label == other.label


def _guard(
    table: Table, then: Strategy, now: Strategy | None, tolerance: float | None
) -> list[CheckedAuc]:
    """Compare every AUC that a row had."""
    gone = CheckedAuc(dataset=table.dataset, strategy=then.label, metric="", outcome="missing")
    if now is None:
        return [gone]
    found = []
    for metric, before in then.aucs.items():
        after = now.aucs.get(metric)
        if after is None:
            found.append(replace(gone, metric=metric, outcome="undefined", then=before))
            continue
        allowed, basis = _allowed(before, after, table.counts[metric.removesuffix("_auc")])
        if tolerance is not None:
            allowed, basis = tolerance, "given"
        fell = before.mean - after.mean > allowed
        found.append(
            replace(
                gone,
                metric=metric,
                outcome="fell" if fell else "held",
                then=before,
                now=after,
                tolerance=allowed,
                basis=basis,
            )
        )
    return found


def _allowed(then: Estimate, now: Estimate, count: Mapping[str, int]) -> tuple[float, str]:
    """Give how far the mean may fall by chance: over seeds, or, of one seed, over test rows."""
    if then.half_width is not None and now.half_width is not None:
        return welch_half_width(then, now), "seeds"
    positives = max(count["positives"], 1)
    negatives = max(count["rows"] - positives, 1)
    return NORMAL * auc_standard_error(then.mean, positives, negatives), "rows"


def _cells(one: CheckedAuc) -> tuple[Cell, ...]:
    change, allowed = "-", "-"
    if one.then is not None and one.now is not None:
        change = f"{one.now.mean - one.then.mean:+.4f}"
        allowed = f"{number(one.tolerance)} {one.basis}"
    means = (number(None if e is None else e.mean) for e in (one.then, one.now))
    texts = (f"{one.dataset}: {one.strategy}", one.metric or "-", *means, change, allowed)
    return (*map(Cell, texts), Cell(one.outcome, strong=one.outcome in FAILURES))
