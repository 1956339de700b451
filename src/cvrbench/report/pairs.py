"""Two runs side by side: configuration, cost, and whether the test rows tell them apart."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrbench.config.validate import leaves
from cvrbench.data.schema import Task
from cvrbench.errors import ConfigError, StoreError
from cvrbench.metrics.evaluation import describe_metric
from cvrbench.report.comparison import seeds_at_once
from cvrbench.report.differences import InfluenceReader, Rows, few_users_of, few_users_words
from cvrbench.report.tables import Cell, Grid, number, p_value
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import read_predictions, read_record
from cvrbench.stats.difference import RowDifference, row_difference

Sides = dict[str, Any]
"""`first` and `second`; one is absent where that run has nothing of the name."""
SIDES = ("first", "second")
OTHER_ROWS = "their predictions are not of the same test rows"
REAL = 0.05
AT_ONCE = "seeds trained as one program"
TIMED = ("seconds, ", "examples per second")
"""What measures a machine's time, by how the key begins."""


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
    """Split of the metrics: `test`, or `valid` where a run was never tested."""
    tasks: tuple[Task, ...]
    metrics: dict[str, Sides]
    tests: dict[str, RowDifference]
    """Metric -> the second run's less the first's, on the same test rows."""
    untested: str | None
    """Why there are no tests."""
    clustered: bool
    """Whether test rows were taken user by user."""
    few_users: dict[str, float]
    """Space -> effective number of its users, where they are few."""

    def difference(self, metric: str) -> float | None:
        """Return the second run's value less the first's, if both have one."""
        first, second = (self.metrics[metric].get(side) for side in SIDES)
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
    try:
        tests, known = _tests(one, other, first, second)
        untested = None
    except StoreError as problem:
        tests, known, untested = {}, {}, str(problem)
    config = _sides(_config(one), _config(other))
    return Pair(
        names=(first.resolve().name, second.resolve().name),
        config={key: sides for key, sides in config.items() if _differ(sides)},
        origin=_sides(_origin(one), _origin(other)),
        cost=_sides(_cost(one), _cost(other)),
        split=split,
        tasks=tuple(Task(**task) for task in one.tasks),
        metrics=_sides(one.metrics.get(split, {}), other.metrics.get(split, {})),
        tests=tests,
        untested=untested,
        clustered=any(rows.users is not None for rows in known.values()),
        few_users=few_users_of(known),
    )


def pair_json(found: Pair) -> dict[str, Any]:
    """Return the plain form."""
    metrics = {
        name: {
            **sides,
            "difference": found.difference(name),
            "paired": found.tests[name]._asdict() if name in found.tests else None,
        }
        for name, sides in found.metrics.items()
    }
    return {
        "runs": dict(zip(SIDES, found.names, strict=True)),
        "config": found.config,
        "origin": found.origin,
        "cost": found.cost,
        "split": found.split,
        "metrics": metrics,
        "clustered": found.clustered,
        "few_users": found.few_users,
        "untested": found.untested,
    }


def _tests(
    one: RunRecord, other: RunRecord, first: Path, second: Path
) -> tuple[dict[str, RowDifference], dict[str, Rows]]:
    """Test every AUC, log loss and GAUC that both runs have; and return the rows of each space.

    Raises:
        StoreError: The runs cannot be tested against each other; the message is the reason.
    """
    for run in (one, other):
        if "test" not in run.metrics:
            raise StoreError(f"{run.run_id} never scored its test rows")
    if (one.dataset, one.fingerprint) != (other.dataset, other.fingerprint):
        raise StoreError(
            f"they were tested on other rows: {one.dataset} with fingerprint {one.fingerprint}, "
            f"{other.dataset} with {other.fingerprint}"
        )
    if one.tasks != other.tasks:
        raise StoreError("their tasks are not the same")
    reader = InfluenceReader(tuple(Task(**task) for task in one.tasks))
    before = reader.read(one, read_predictions(first))
    after = reader.read(other, read_predictions(second))
    if len(reader.known) > 1:
        raise StoreError(OTHER_ROWS)
    both = [name for name in before if name in after]
    found = {
        name: row_difference(
            after[name].value - before[name].value,
            after[name].gain_variance(before[name]),
            after[name].rows.freedom,
        )
        for name in both
    }
    return found, next(iter(reader.known.values()))


def _config(run: RunRecord) -> dict[str, Any]:
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
        AT_ONCE: seeds_at_once(run),
        "best epoch": run.best_epoch,
        "test rows scored, times": run.test_scored,
    }


def _sides(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Sides]:
    """Put two mappings side by side, the first's order first."""
    both = tuple(zip(SIDES, (first, second), strict=True))
    return {
        key: {side: values[key] for side, values in both if key in values}
        for key in dict.fromkeys([*first, *second])
    }


def _differ(sides: Sides) -> bool:
    return len(sides) < 2 or json.dumps(sides["first"]) != json.dumps(sides["second"])


def making_grids(found: Pair) -> list[Grid]:
    """Return what differs in the configuration, and on what the runs ran: words, not numbers.

    Versions that agree are one line; any other value that agrees stands once.
    """
    rows, agreeing = [], []
    for key, sides in found.origin.items():
        first, second = _cells(sides)
        if len(sides) < 2 or sides["first"] != sides["second"]:
            strong = (first._replace(strong=True), second._replace(strong=True))
            rows.append((Cell(key), *strong))
        elif key.startswith("version of "):
            agreeing.append(f"{key.removeprefix('version of ')} {sides['first']}")
        else:
            rows.append((Cell(key), first, Cell("the same")))
    config = Grid(
        title="configuration",
        headers=("key", *SIDES),
        rows=tuple((Cell(key), *_cells(sides)) for key, sides in found.config.items()),
        caption="Only keys that differ." if found.config else "no key differs",
    )
    origin = Grid(
        title="where they come from",
        headers=("of", *SIDES),
        rows=tuple(rows),
        caption=f"The same versions of {', '.join(agreeing)}." if agreeing else "",
    )
    return [config, origin]


def number_grids(found: Pair) -> list[Grid]:
    """Return what the runs cost and what they score."""
    costs = []
    alike = len({*found.cost[AT_ONCE].values()}) == 1
    for key, sides in found.cost.items():
        first, second = sides.get("first"), sides.get("second")
        more = ""
        if not alike and key.startswith(TIMED):
            more = "does not compare"
        elif first and second is not None and key != AT_ONCE:
            more = f"{100 * (second - first) / first:+.1f} %"
        costs.append((Cell(key), *_cells(sides), Cell(more)))
    metrics = [
        (
            Cell(_header(metric, found.tasks)),
            *(Cell(number(sides.get(side))) for side in SIDES),
            _difference(found.difference(metric), found.tests.get(metric)),
        )
        for metric, sides in found.metrics.items()
    ]
    return [
        Grid(
            title="cost",
            headers=("of", *SIDES, "difference"),
            rows=tuple(costs),
            caption="" if alike else "Seeds that are trained as one program share its seconds.",
        ),
        Grid(
            title=f"metrics of the {found.split} rows",
            headers=("metric", *SIDES, "difference"),
            rows=tuple(metrics),
            caption=_doubt(found),
        ),
    ]


def _header(metric: str, tasks: tuple[Task, ...]) -> str:
    """Return a metric's name with its space, where it is one of these tasks'."""
    try:
        return describe_metric(metric, tasks).header
    except ConfigError:
        return metric


def _doubt(found: Pair) -> str:
    """Return what the differences are and which doubt they account for."""
    if found.untested is not None:
        return f"The second run less the first. No paired test: {found.untested}."
    drawn = "users, each with all of its rows" if found.clustered else "test rows"
    return (
        "The second run less the first. ± is the 95 % interval over redrawn "
        f"{drawn}, and p is two-sided (DeLong for AUC, paired on the same test rows; not adjusted "
        "for the number of metrics). Bold: p below 0.05. Seeds are not in it: two runs of one "
        "strategy differ by their seeds as well, so this tells these two networks apart, not two "
        "strategies; `cvrbench report` on several seeds does that."
        f"{few_users_words(found.few_users)}"
    )


def _difference(value: float | None, test: RowDifference | None) -> Cell:
    if value is None or test is None:
        return Cell("-" if value is None else f"{value:+.4f}")
    words = f"{value:+.4f} ± {test.half_width:.4f} {p_value(test.p)}"
    return Cell(words, strong=test.p < REAL)


def _cells(sides: Sides) -> tuple[Cell, Cell]:
    first, second = (Cell(_text(sides[side]) if side in sides else "-") for side in SIDES)
    return first, second


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value)
