"""What panels of many strategies have in common: their points, lines and keys."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from cvrbench.report.figures.style import FAINT, GRID, LOOKS, look, mark, row_name
from cvrbench.stats.intervals import Estimate

TOGETHER = len(LOOKS)
"""More lines than these in one panel are a tangle; the rest get a row of panels of their own."""
LETTERS = 26
"""Of a line of a key."""
TOUCHING, STEP = 0.02, 0.03
"""Of an axis: what is nearer than the first is moved apart by the second."""
BEHIND: dict[str, Any] = {"color": FAINT, "linewidth": 0.6, "alpha": 0.5, "zorder": 1}
"""The strategies of the other rows, so that every row can be compared with all."""


class Line(NamedTuple):
    """A line over places, and the band about it; both bounds are the line where there is none."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def rows_of(n: int) -> list[range]:
    """Give the strategies of each row of panels.

    >>> rows_of(7)
    [range(0, 5), range(5, 7)]
    """
    return [range(start, min(start + TOGETHER, n)) for start in range(0, n, TOGETHER)]


def handle(label: str, **style: Any) -> Line2D:
    """Give an entry of a key."""
    return Line2D([], [], label=label, **style)


def key(labels: Sequence[str]) -> list[Line2D]:
    """Explain every strategy's point."""
    styles = [mark(number) for number in range(len(labels))]
    return [
        handle(
            row_name(label, LETTERS),
            linestyle="none",
            marker=style.shape,
            color=style.color,
            markerfacecolor=style.face,
        )
        for label, style in zip(labels, styles, strict=True)
    ]


def height_of(handles: Sequence[Line2D]) -> float:
    """Give the inches that a key of so many lines takes."""
    return 0.18 * sum(1 + str(handle.get_label()).count("\n") for handle in handles) + 0.2


def explain_all(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a key beside all panels, below the headline."""
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=8, handlelength=2.6
    )


class Spread(NamedTuple):
    """Places along an axis, those that would hide each other moved apart."""

    moved: list[float]
    centres: list[float]
    """Where they really are, each group of them once, from left to right."""


def side_by_side(places: Sequence[float], *, is_log: bool) -> Spread:
    """Move equal places apart, by hundredths of the axis.

    >>> side_by_side([1.0, 1.0, 11.0], is_log=False)
    Spread(moved=[0.85, 1.15, 11.0], centres=[1.0, 11.0])
    """
    at = np.log(places) if is_log else np.asarray(places, dtype=np.float64)
    width = float(np.ptp(at)) or abs(float(at[0])) or 1.0
    order = np.argsort(at, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(at[order]) > TOUCHING * width) + 1)
    moved = at.copy()
    for group in groups:
        moved[group] += (np.arange(len(group)) - (len(group) - 1) / 2) * STEP * width
    back = np.exp if is_log else np.asarray
    return Spread(
        [float(one) for one in back(moved)],
        [float(back(at[group].mean())) for group in groups],
    )


def point(axis: Axes, number: int, x: Estimate, y: Estimate) -> None:
    """Draw the n-th strategy's mean and its intervals."""
    style = mark(number)
    axis.errorbar(
        x.mean,
        y.mean,
        xerr=x.half_width,
        yerr=y.half_width,
        fmt=style.shape,
        color=style.color,
        markerfacecolor=style.face,
        markersize=6.5,
        elinewidth=1,
        zorder=4,
    )


def draw_lines(axis: Axes, lines: Sequence[Line | None], shown: range, *, dots: bool) -> None:
    """Draw the strategies of one row over those of all others."""
    for number, line in enumerate(lines):
        if line is None:
            continue
        if number not in shown:
            axis.plot(line.x, line.y, **BEHIND)
            continue
        style = look(number)
        axis.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.15, linewidth=0)
        axis.plot(
            line.x,
            line.y,
            color=style.color,
            linestyle=style.line,
            linewidth=1.4,
            marker=style.marker if dots else "",
            markersize=4,
        )


def line_key(axis: Axes, labels: Sequence[str], shown: range) -> None:
    """Explain the lines of one row beside its last panel."""
    handles = []
    for number in shown:
        style = look(number)
        handles.append(
            handle(
                row_name(labels[number], LETTERS),
                color=style.color,
                linestyle=style.line,
                marker=style.marker,
                markersize=4,
            )
        )
    if len(labels) > len(shown):
        handles.append(handle("the others", **BEHIND))
    axis.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=8,
        handlelength=3,
    )


def log_ticks(axis: Axis) -> None:
    """Put ticks at every decade, or at 1, 2 and 5 where there are only one or two."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 60 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=5))
    axis.set_minor_formatter(NullFormatter())


def quiet_grid(axis: Axes, which: Literal["x", "y", "both"] = "both") -> None:
    """Thin lines behind everything."""
    axis.grid(axis=which, color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
