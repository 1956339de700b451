"""Two runs side by side, as tables."""

import json
from typing import Any

from cvrbench.report.grids import Cell, Grid, number
from cvrbench.report.pairs import Pair, Sides, header
from cvrbench.stats.difference import RowDifference

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
