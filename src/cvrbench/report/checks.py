"""Has an AUC fallen? Today's results against what `cvrbench report --json` once printed."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError, model_validator

from cvrbench.errors import ConfigError
from cvrbench.report.comparison import Comparison
from cvrbench.report.dataset_report import comparison_json
from cvrbench.report.tables import Cell, Grid, number
from cvrbench.stats.difference import Estimate, auc_standard_error, welch_half_width
from cvrbench.system.files import read_bytes

Outcome = Literal["held", "fell", "missing", "other data", "undefined"]
FAILURES = ("fell", "missing", "other data", "undefined")
NORMAL = 1.96
MAKE_ONE = "make one with `cvrbench report --json > baseline.json`"


class Counts(BaseModel):
    """Test rows of one space."""

    rows: int
    positives: int


class Strategy(BaseModel):
    """A row of a report."""

    strategy: str
    settings: str | None = None
    metrics: dict[str, Estimate | None]


class Table(BaseModel):
    """One dataset's part of a report."""

    dataset: str
    fingerprint: str
    test: dict[str, Counts]
    strategies: list[Strategy]

    def aucs(self, row: Strategy) -> dict[str, Estimate]:
        """Return a row's AUC of every space in which it has one."""
        known = {f"{name}_auc": row.metrics.get(f"{name}_auc") for name in self.test}
        return {metric: value for metric, value in known.items() if value is not None}

    @model_validator(mode="after")
    def _has_possible_aucs(self) -> Self:
        for mean, half, n in (auc for row in self.strategies for auc in self.aucs(row).values()):
            if not 0 <= mean <= 1 or (half is not None and (n < 2 or not 0 <= half < math.inf)):
                raise ValueError(f"{mean} ± {half} of {n} seeds is no AUC")
        return self


@dataclass(frozen=True, kw_only=True)
class CheckedAuc:
    """One AUC, then and now."""

    dataset: str
    strategy: str
    metric: str | None = None
    """None where the whole row is missing or of other data."""
    outcome: Outcome
    then: Estimate | None = None
    now: Estimate | None = None
    tolerance: float | None = None
    """How far the AUC may fall."""
    basis: str | None = None
    """Origin of the tolerance; the two fingerprints of other data."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """All that was compared."""

    compared: tuple[CheckedAuc, ...]
    new: tuple[str, ...]
    """Rows that the baseline lacks."""

    @property
    def failures(self) -> list[CheckedAuc]:
        """Those for which the check fails."""
        return [one for one in self.compared if one.outcome in FAILURES]


def read_baseline(file: Path) -> list[Table]:
    """Read what `cvrbench report --json` printed; lines of sweeps are left out.

    Raises:
        ConfigError: The file cannot be read, or has no line of such a report.
    """
    try:
        lines = [
            json.loads(line) for line in read_bytes(file).decode().splitlines() if line.strip()
        ]
        tables = [line for line in lines if isinstance(line, dict) and "strategies" in line]
        found = [Table.model_validate(table) for table in tables]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "a table"
        reason = f"{place}: {first['msg']}"
        raise ConfigError(f"{file} is not what a report prints ({reason}); {MAKE_ONE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as a baseline ({error}); {MAKE_ONE}") from None
    if not found:
        raise ConfigError(f"{file} holds no dataset's report; {MAKE_ONE}")
    return found


def check_all(
    baseline: Sequence[Table], today: Sequence[Comparison], tolerance: float | None = None
) -> Check:
    """Compare every AUC of the baseline with today's.

    Args:
        baseline: Earlier results.
        today: Results of now.
        tolerance: How far an AUC may fall; None: as far as chance explains.
    """
    tables = [Table.model_validate(comparison_json(comparison)) for comparison in today]
    by_data = {(table.dataset, table.fingerprint): table for table in tables}
    compared, new = [], []
    for then in baseline:
        now = by_data.get((then.dataset, then.fingerprint))
        if now is None:
            compared += _without(then, [t for t in tables if t.dataset == then.dataset])
            continue
        partners = _partners(then, now)
        known = {one.strategy for one in partners.values() if one is not None}
        new += [f"{now.dataset}: {r.strategy}" for r in now.strategies if r.strategy not in known]
        for row in then.strategies:
            compared += _compare(then, row, now, partners[row.strategy], tolerance)
    old = {table.dataset for table in baseline}
    others = [table for table in tables if table.dataset not in old]
    new += [f"{table.dataset}: {row.strategy}" for table in others for row in table.strategies]
    return Check(compared=tuple(compared), new=tuple(new))


def _without(then: Table, others: Sequence[Table]) -> list[CheckedAuc]:
    """Return every row of a dataset as missing, or as of other data than today's."""
    gone = CheckedAuc(dataset=then.dataset, strategy="", outcome="missing")
    if others:
        words = f"{then.fingerprint}, now {others[0].fingerprint}"
        gone = replace(gone, outcome="other data", basis=words)
    return [replace(gone, strategy=row.strategy) for row in then.strategies]


def _partners(then: Table, now: Table) -> dict[str, Strategy | None]:
    """Return today's row of each old one: of the same settings, or else of the same name.

    A row's name says what sets it apart from its neighbours, so it can change with them; its
    settings can change with the defaults of a new version.
    """
    left = list(now.strategies)
    found: dict[str, Strategy | None] = {}
    for key in ("settings", "strategy"):
        for row in then.strategies:
            if found.get(row.strategy) is None:
                own = getattr(row, key)
                one = next((o for o in left if own is not None and getattr(o, key) == own), None)
                found[row.strategy] = one
                left = [other for other in left if other is not one]
    return found


def _compare(
    table: Table, row: Strategy, today: Table, partner: Strategy | None, tolerance: float | None
) -> list[CheckedAuc]:
    """Compare every AUC that a row had."""
    gone = CheckedAuc(dataset=table.dataset, strategy=row.strategy, outcome="missing")
    if partner is None:
        return [gone]
    found, aucs = [], today.aucs(partner)
    for metric, then in table.aucs(row).items():
        one, now = replace(gone, metric=metric, outcome="undefined", then=then), aucs.get(metric)
        if now is not None:
            allowed, basis = _allowed(then, now, table.test[metric.removesuffix("_auc")])
            if tolerance is not None:
                allowed, basis = tolerance, "given"
            outcome: Outcome = "fell" if then.mean - now.mean > allowed else "held"
            one = replace(one, outcome=outcome, now=now, tolerance=allowed, basis=basis)
        found.append(one)
    return found


def _allowed(then: Estimate, now: Estimate, count: Counts) -> tuple[float, str]:
    """Return how far the mean may fall by chance: over seeds, or over test rows for one seed."""
    if then.half_width is not None and now.half_width is not None:
        return welch_half_width(then, now), "seeds"
    positives = max(count.positives, 1)
    negatives = max(count.rows - positives, 1)
    return NORMAL * auc_standard_error(then.mean, positives, negatives), "rows"


def check_grid(found: Check) -> Grid:
    """Return a row per AUC, failures first."""
    rows = sorted(found.compared, key=lambda one: one.outcome not in FAILURES)
    others = {one.dataset: one.basis for one in rows if one.outcome == "other data"}
    words = [f" Other data, so nothing to compare: {name} {of}." for name, of in others.items()]
    if found.new:
        words.append(f" New since, and not compared: {', '.join(found.new)}.")
    return Grid(
        title=f"{len(found.compared)} compared, {len(found.failures)} failed",
        headers=("strategy", "metric", "then", "now", "change", "may fall", "outcome"),
        rows=tuple(map(_cells, rows)),
        caption=(
            "May fall: half of the 95 % interval of the difference of two means over seeds "
            "(Welch); `rows` where one seed has no such interval: 1.96 standard errors of the test "
            f"rows (Hanley and McNeil); `given`: --tolerance.{''.join(words)}"
        ),
    )


def _cells(one: CheckedAuc) -> tuple[Cell, ...]:
    change, allowed = "-", "-"
    if one.then is not None and one.now is not None:
        change = f"{one.now.mean - one.then.mean:+.4f}"
        allowed = f"{number(one.tolerance)} {one.basis}"
    means = (number(None if e is None else e.mean) for e in (one.then, one.now))
    texts = (f"{one.dataset}: {one.strategy}", one.metric or "-", *means, change, allowed)
    return (*map(Cell, texts), Cell(one.outcome, strong=one.outcome in FAILURES))


def check_json(found: Check) -> dict[str, Any]:
    """Return the plain form."""
    return {
        "failed": len(found.failures),
        "new": list(found.new),
        "compared": [
            {
                **vars(one),
                "then": one.then and one.then._asdict(),
                "now": one.now and one.now._asdict(),
            }
            for one in found.compared
        ],
    }
