"""Two runs side by side: their making, their cost, and whether the test rows tell them apart."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cvrbench.config.validate import leaves
from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, StoreError
from cvrbench.evaluation import describe_metric
from cvrbench.record import RunRecord
from cvrbench.report.differences import Influence, InfluenceReader
from cvrbench.report.tables import Cell, Grid, number
from cvrbench.run_files import read_predictions, read_record
from cvrbench.stats.difference import RowDifference, row_difference

Sides = dict[str, Any]
"""`first` and `second`; one is absent where that run has nothing of the name."""
OTHER_ROWS = "their predictions are not of the same test rows"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two runs have in common and what not."""

    names: tuple[str, str]
    config: dict[str, Sides]
    """Keys and options that differ, no others."""
    origin: dict[str, Sides]
    """Data, versions, source tree and machine, whether they differ or not."""
    cost: dict[str, Sides]
    split: str
    """Whose metrics these are: `test`, or `valid` where a run was never tested."""
    tasks: tuple[Task, ...]
    metrics: dict[str, Sides]
    tests: dict[str, RowDifference]
    """Metric -> the second run's less the first's, on the same test rows."""
    untested: str | None
    """Why there are no tests."""
    clustered: bool
    """Whether test rows were taken user by user."""

    def difference(self, metric: str) -> float | None:
        """Give the second run's value less the first's, if both have one."""
        sides = self.metrics[metric]
        first, second = sides.get("first"), sides.get("second")
        return None if first is None or second is None else second - first


def pair(first: Path, second: Path) -> Pair:
    """Read two finished runs and compare them.

    Args:
        first: Folder of a run.
        second: Another, perhaps of another results folder.

    Raises:
        StoreError: A record cannot be read.
    """
    one, other = read_record(first), read_record(second)
    split = "test" if all("test" in run.metrics for run in (one, other)) else "valid"
    tests, untested = _tests(one, other, first, second)
    config = _sides(_made_of(one), _made_of(other))
    return Pair(
        names=(first.resolve().name, second.resolve().name),
        config={key: sides for key, sides in config.items() if _differ(sides)},
        origin=_sides(_origin(one), _origin(other)),
        cost=_sides(_cost(one), _cost(other)),
        split=split,
        tasks=tuple(Task(**task) for task in one.tasks),
        metrics=_sides(one.metrics.get(split, {}), other.metrics.get(split, {})),
        tests={metric: found for metric, (found, _) in tests.items()},
        untested=untested,
        clustered=any(clustered for _, clustered in tests.values()),
    )


def pair_json(found: Pair) -> dict[str, Any]:
    """Give the plain form."""
    metrics = {
        name: {
            **sides,
            "difference": found.difference(name),
            "paired": found.tests[name]._asdict() if name in found.tests else None,
        }
        for name, sides in found.metrics.items()
    }
    return {
        "runs": dict(zip(("first", "second"), found.names, strict=True)),
        "config": found.config,
        "origin": found.origin,
        "cost": found.cost,
        "split": found.split,
        "metrics": metrics,
        "clustered": found.clustered,
        "untested": found.untested,
    }


def header(metric: str, tasks: tuple[Task, ...]) -> str:
    """Give a metric's name with its space, where it is one of these tasks'."""
    try:
        return describe_metric(metric, tasks).header
    except ConfigError:
        return metric


def _tests(
    one: RunRecord, other: RunRecord, first: Path, second: Path
) -> tuple[dict[str, tuple[RowDifference, bool]], str | None]:
    """Test every AUC, log loss and GAUC that both have, or say why that cannot be."""
    for run in (one, other):
        if "test" not in run.metrics:
            return {}, f"{run.run_id} never scored its test rows"
    if (one.dataset, one.fingerprint) != (other.dataset, other.fingerprint):
        return {}, (
            f"they were tested on other rows: {one.dataset} with fingerprint {one.fingerprint}, "
            f"{other.dataset} with {other.fingerprint}"
        )
    if one.tasks != other.tasks:
        return {}, "their tasks are not the same"
    try:
        frames = (read_predictions(first), read_predictions(second))
        if not _same_rows(*frames):
            return {}, OTHER_ROWS
        reader = InfluenceReader(tuple(Task(**task) for task in one.tasks))
        moves = (reader.read(one, frames[0]), reader.read(other, frames[1]))
        both = [name for name in moves[0] if name in moves[1]]
        return {name: _test(moves[0][name], moves[1][name]) for name in both}, None
    except StoreError as problem:
        return {}, str(problem)


def _same_rows(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Whether labels and users agree, row by row."""
    told = [[n for n in f.columns if n.startswith("label_") or n == "group"] for f in (one, other)]
    return told[0] == told[1] and one.select(told[0]).equals(other.select(told[1]))


def _test(one: Influence, other: Influence) -> tuple[RowDifference, bool]:
    found = row_difference(other.value - one.value, other.gain_variance(one))
    return found, one.rows.users is not None


def _made_of(run: RunRecord) -> dict[str, Any]:
    options = {f"option of {group}": option for group, option in run.choices.items()}
    return {**options, **leaves(run.config)}


def _origin(run: RunRecord) -> dict[str, Any]:
    known = run.environment
    plain = ("python", "platform", "cpu", "cpu_count", "device", "threads", "command", "finished")
    return {
        "data": f"{run.dataset} {run.fingerprint}",
        **{f"version of {name}": value for name, value in known.get("versions", {}).items()},
        "git": _git(known.get("git")),
        **{key: known[key] for key in plain if key in known},
    }


def _git(state: object) -> str:
    if not isinstance(state, Mapping):
        return "no checkout"
    return f"{state.get('commit')}{' with changes' if state.get('dirty') else ''}"


def _cost(run: RunRecord) -> dict[str, Any]:
    return {
        "parameters": run.parameters,
        "of them embeddings": run.embedding_parameters,
        "multiply-adds per example": run.multiply_adds,
        **{f"seconds, {part}": seconds for part, seconds in run.seconds.items()},
        **{f"examples, {part}": n for part, n in run.examples.items()},
        "examples per second": run.examples_per_second,
        "best epoch": run.best_epoch,
        "test rows scored, times": run.test_scored,
    }


def _sides(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Sides]:
    """Put two mappings side by side, the first's order first."""
    both = (("first", first), ("second", second))
    return {
        key: {side: values[key] for side, values in both if key in values}
        for key in dict.fromkeys([*first, *second])
    }


def _differ(sides: Sides) -> bool:
    return len(sides) < 2 or json.dumps(sides["first"]) != json.dumps(sides["second"])


ABSENT = "-"
REAL = 0.05
HEADS = ("first", "second", "difference")


def making_grids(found: Pair) -> list[Grid]:
    """Give what differs in the configuration, and on what the runs ran: words, not numbers."""
    return [_config_grid(found), _origin_grid(found)]


def number_grids(found: Pair) -> list[Grid]:
    """Give what the runs cost and what they score."""
    return [_cost_grid(found), _metric_grid(found)]


def _config_grid(found: Pair) -> Grid:
    return Grid(
        title="configuration",
        headers=("key", *HEADS[:2]),
        rows=tuple((Cell(key), *_both(sides)) for key, sides in found.config.items()),
        caption="Only keys that differ." if found.config else "no key differs",
    )


def _origin_grid(found: Pair) -> Grid:
    """Versions that agree are one line; of anything else that agrees the value is told once."""
    rows, agreeing = [], []
    for key, sides in found.origin.items():
        same = len(sides) == 2 and sides["first"] == sides["second"]
        first, second = _both(sides)
        if same and key.startswith("version of "):
            agreeing.append(f"{key.removeprefix('version of ')} {sides['first']}")
        elif same:
            rows.append((Cell(key), first, Cell("the same")))
        else:
            rows.append((Cell(key), Cell(first.text, strong=True), Cell(second.text, strong=True)))
    return Grid(
        title="where they come from",
        headers=("of", *HEADS[:2]),
        rows=tuple(rows),
        caption=f"The same versions of {', '.join(agreeing)}." if agreeing else "",
    )


def _cost_grid(found: Pair) -> Grid:
    rows = []
    for key, sides in found.cost.items():
        first, second = sides.get("first"), sides.get("second")
        more = ""
        if first and second is not None:
            more = f"{100 * (second - first) / first:+.1f} %"
        rows.append((Cell(key), *_both(sides), Cell(more)))
    return Grid(title="cost", headers=("of", *HEADS), rows=tuple(rows), caption="")


def _metric_grid(found: Pair) -> Grid:
    rows = []
    for metric, sides in found.metrics.items():
        values = (Cell(number(sides.get("first"))), Cell(number(sides.get("second"))))
        difference = _difference(found.difference(metric), found.tests.get(metric))
        rows.append((Cell(header(metric, found.tasks)), *values, difference))
    return Grid(
        title=f"metrics of the {found.split} rows",
        headers=("metric", *HEADS),
        rows=tuple(rows),
        caption=_words(found),
    )


def _words(found: Pair) -> str:
    """Say what the differences are and what doubt is in them."""
    if found.untested is not None:
        return f"The second run less the first. No paired test: {found.untested}."
    drawn = "users, each with all of its rows" if found.clustered else "test rows"
    return (
        "The second run less the first. ± is the 95 % interval over redrawn "
        f"{drawn}, and p is two-sided (DeLong for AUC, paired on the same test rows; not adjusted "
        "for the number of metrics). Bold: p below 0.05. Seeds are not in it: two runs of one "
        "strategy differ by their seeds as well, so this tells these two networks apart, not two "
        "strategies; `cvrbench report` on several seeds does that."
    )


def _difference(value: float | None, test: RowDifference | None) -> Cell:
    if value is None:
        return Cell(ABSENT)
    if test is None:
        return Cell(f"{value:+.4f}")
    p = "p<0.001" if test.p < 0.001 else f"p={test.p:.3f}"
    return Cell(f"{value:+.4f} ± {test.half_width:.4f} {p}", strong=test.p < REAL)


def _both(sides: Sides) -> tuple[Cell, Cell]:
    return Cell(_value(sides, "first")), Cell(_value(sides, "second"))


def _value(sides: Sides, side: str) -> str:
    return _text(sides[side]) if side in sides else ABSENT


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value)
