"""`cvrbench run seeds=auto`: rounds of seeds for the strategies that are not decided yet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cvrbench.cli.console import out, preparing_bar, warn
from cvrbench.cli.plan import run_plan, workers_here
from cvrbench.errors import ConfigError
from cvrbench.report import MARGIN, MOST_SEEDS

if TYPE_CHECKING:
    from cvrbench.config.compose import Composed
    from cvrbench.config.runtime import LauncherConfig
    from cvrbench.runs.record import RunRecord

FEWEST = 2
"""Seeds: with one there is no test."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When rounds of seeds end."""

    most_seeds: int = MOST_SEEDS
    minutes: float = float("inf")
    margin: float = MARGIN


def take_budget(words: Sequence[str]) -> tuple[Budget | None, list[str]]:
    """Split `seeds=auto` and its budget off the overrides; None where seeds are given.

    Raises:
        ConfigError: A value is wrong, or seeds are given as well.
    """
    own: dict[str, str] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        if key in ("seeds", "max_seeds", "max_minutes", "margin"):
            own[key] = value
        else:
            rest.append(word)
    if not own:
        return None, rest
    if own.get("seeds") != "auto":
        raise ConfigError(
            f"seeds={own.get('seeds', '')} is no choice: seeds=auto adds seeds until it is decided "
            "(with max_seeds=, max_minutes=, margin=); for given ones write seed=0..4"
        )
    if any(word.startswith("seed=") for word in rest):
        raise ConfigError("seeds=auto chooses the seeds; leave out seed=")
    budget = Budget(
        most_seeds=int(_number("max_seeds", own, MOST_SEEDS)),
        minutes=_number("max_minutes", own, float("inf")),
        margin=_number("margin", own, MARGIN),
    )
    if budget.most_seeds < FEWEST:
        raise ConfigError(f"max_seeds={budget.most_seeds}: it takes at least {FEWEST}")
    return budget, rest


def _number(key: str, own: dict[str, str], usual: float) -> float:
    try:
        value = float(own.get(key, usual))
    except ValueError:
        value = -1.0
    if not value > 0:
        raise ConfigError(f"{key}={own[key]} is no number above 0")
    return value


@dataclass(kw_only=True)
class _Rounds:
    """What is known of the rows so far."""

    budget: Budget
    records: "list[RunRecord]" = field(default_factory=list)
    rows: dict[str, str] = field(default_factory=dict)
    """Id of a run -> what its row has in common but the seed."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Row -> why it needs no more seeds."""

    def look(self, store_dir: Path) -> None:
        """Decide what can be decided, and print it."""
        from cvrbench.report.dataset_report import build
        from cvrbench.report.differences import Method
        from cvrbench.runs.store import ResultStore
        from cvrbench.stats.sequential import decided

        budget = self.budget
        reports = build(
            self.records,
            ResultStore(store_dir),
            most_seeds=budget.most_seeds,
            how=Method(margin=budget.margin),
        )
        for report in reports:
            ranking = report.verdict.ranking
            if ranking is None:
                continue
            first = {v.label: v.runs[0].run_id for v in report.comparison.variants}
            found = decided(ranking.found, ranking.best, budget.margin, budget.most_seeds)
            for number, reason in found.items():
                label = ranking.labels[number]
                row = self.rows[first[label]]
                if row not in self.stopped:
                    self.stopped[row] = reason
                    out.print(f"{label}: no more seeds: {reason}", soft_wrap=True)


def run_auto(
    words: Sequence[str],
    budget: Budget,
    launcher: "LauncherConfig",
    *,
    fail_fast: bool,
    as_json: bool,
) -> "tuple[list[RunRecord], list[str]]":
    """Run seeds in rounds until every row is decided, or the budget is spent.

    The same command goes on where it was: finished cells are read, and decisions follow from them.

    Returns:
        The records, and a line for each cell that failed.
    """
    from cvrbench.config.compose import plan
    from cvrbench.launch import check_installed
    from cvrbench.runs import planning
    from cvrbench.stats.sequential import rounds

    check_installed(launcher)
    state, failed, begun = _Rounds(budget=budget), [], time.monotonic()
    for number, (first, last) in enumerate(rounds(budget.most_seeds), 1):
        every = plan([*words, f"seed={first}..{last}"], multirun=True)
        cells = [cell for cell in every if cell.config.all_but_seed not in state.stopped]
        if not cells or (number == 1 and len({c.config.all_but_seed for c in cells}) < 2):
            if number == 1:
                raise ConfigError("seeds=auto compares: give two strategies or more (-m model=a,b)")
            break
        if (spent := (time.monotonic() - begun) / 60) > budget.minutes:
            warn(f"stopped after {spent:.0f} of {budget.minutes:g} minutes; not all is decided")
            break
        with preparing_bar() as on_rows:
            planning.check_plan(cells, at_once=workers_here(launcher), on_rows=on_rows)
        if not as_json:
            rows = len({cell.config.all_but_seed for cell in cells})
            out.print(f"round {number}: seeds {first}..{last} of {rows} rows", soft_wrap=True)
        records, lines = run_plan(
            cells, launcher, force=False, fail_fast=fail_fast, as_json=as_json, lonely=False
        )
        _add(state, cells, records)
        failed += lines
        state.look(Path(cells[0].config.results_dir))
    return state.records, failed


def _add(state: _Rounds, cells: "Sequence[Composed]", records: "Sequence[RunRecord]") -> None:
    from cvrbench.runs import planning

    rows = {planning.folder_of(cell).name: cell.config.all_but_seed for cell in cells}
    state.rows |= rows
    state.records += records
