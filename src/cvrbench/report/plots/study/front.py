"""What several objectives cost each other: the Pareto front of a sweep."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.plots.study.common import (
    PRESET,
    canvas,
    complete,
    headline,
    legend,
    objective_label,
    objective_ticks,
    quiet_grid,
)
from cvrbench.report.plots.style import FAINT, INK, POINT, styled
from cvrbench.studies import Direction, StudySummary

MOST_LABELS = 8
APART = 0.06
"""Distance, as a share of a panel, below which two labels would stand on each other."""
MOST_PANELS = 10


class Point(NamedTuple):
    """One trial as two objectives see it."""

    x: float
    y: float
    number: int


def front(points: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[int]:
    """Places of the points that no other is as good as in all and better than in some."""
    if not points:
        return []
    signs = np.array([1.0 if one == "maximize" else -1.0 for one in directions])
    gains = np.array(points) * signs
    found = []
    for place, own in enumerate(gains):
        others = (gains >= own).all(axis=1) & (gains > own).any(axis=1)
        if not others.any():
            found.append(place)
    return found


def staircase(
    points: Sequence[tuple[float, float]], directions: Sequence[Direction]
) -> list[tuple[float, float]]:
    """Border of what a front of two objectives dominates, corners included.

    Args:
        points: The front, in any order.
        directions: Which way is better, across and up.
    """
    ordered = sorted(set(points))
    worse = [min if one == "maximize" else max for one in directions]
    stairs: list[tuple[float, float]] = ordered[:1]
    for before, after in pairwise(ordered):
        # The corner is as bad as the worse of the two, either way.
        stairs.append((worse[0](before[0], after[0]), worse[1](before[1], after[1])))
        stairs.append(after)
    return stairs


@styled()
def front_figure(summary: StudySummary) -> Figure | None:
    """Trials over two objectives with the front, or a panel per pair; None of one objective."""
    trials = complete(summary)
    pairs = list(combinations(range(len(summary.objectives)), 2))[:MOST_PANELS]
    if not pairs or len(trials) < 2:
        return None
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    single = len(pairs) == 1
    figure = canvas(6.2 if single else 3.6 * columns, 4.6 if single else 3.3 * rows + 0.8)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for (first, second), axes in zip(pairs, panels, strict=False):
        _pair(axes, summary, second, first)
    for axes in panels[len(pairs) :]:
        axes.remove()
    on_front = {"marker": "o", "color": POINT, "markersize": 6, "linestyle": "none"}
    entries = [
        ("on the front", {**on_front, "markeredgecolor": INK}),
        ("dominated", {"marker": "o", "color": FAINT, "markersize": 4, "linestyle": "none"}),
        ("border" if single else "border of the two", {"color": POINT, "linewidth": 1.2}),
    ]
    if any(trial.preset for trial, _ in trials):
        entries.append(("preset", PRESET))
    legend(figure, entries)
    words = "Pareto front" if single else "Pareto front, two objectives at a time"
    headline(figure, summary, f"{words}; numbers are trials")
    return figure


def _pair(axes: Axes, summary: StudySummary, across: int, up: int) -> None:
    trials = complete(summary)
    # A front of all objectives: in a panel of two some of it looks dominated.
    best = set(front([values for _, values in trials], summary.directions))
    points = [Point(v[across], v[up], trial.number) for trial, v in trials]
    on, off = (
        [p for n, p in enumerate(points) if (n in best) is wanted] for wanted in (True, False)
    )
    axes.plot(
        [p.x for p in off], [p.y for p in off], "o", color=FAINT, alpha=0.45, markersize=4, zorder=2
    )
    directions = summary.directions[across], summary.directions[up]
    both = [(p.x, p.y) for p in points]
    stairs = staircase([both[n] for n in front(both, directions)], directions)
    axes.plot(*zip(*stairs, strict=True), color=POINT, linewidth=1.2, zorder=3)
    axes.plot(
        [p.x for p in on],
        [p.y for p in on],
        "o",
        color=POINT,
        markeredgecolor=INK,
        markersize=6,
        zorder=4,
    )
    for (trial, _), point in zip(trials, points, strict=True):
        if trial.preset:
            axes.plot([point.x], [point.y], **PRESET)
    axes.margins(0.1)
    _number(axes, on, directions)
    axes.set(xlabel=objective_label(summary, across), ylabel=objective_label(summary, up))
    axes.locator_params(nbins=5)
    objective_ticks(summary, axes, "x", across)
    objective_ticks(summary, axes, "y", up)
    quiet_grid(axes)


def _number(axes: Axes, points: Sequence[Point], directions: Sequence[Direction]) -> None:
    """Number some points of the front on its empty side, where there is room for it."""
    right, above = (one == "maximize" for one in directions)
    for point in labelled(points):
        axes.annotate(
            str(point.number),
            (point.x, point.y),
            (5 if right else -5, 5 if above else -5),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if above else "top",
            size=8,
            zorder=7,
        )


def labelled(points: Sequence[Point]) -> list[Point]:
    """Choose points to number: at most eight, both ends, none on another's label."""
    ordered = sorted(points)
    if not ordered:
        return []
    spans = [np.ptp([point[side] for point in points]) or 1.0 for side in (0, 1)]
    chosen: list[Point] = []
    for point in (ordered[0], ordered[-1], *_spread(ordered)):
        gaps = [
            max(abs(point.x - one.x) / spans[0], abs(point.y - one.y) / spans[1]) for one in chosen
        ]
        if len(chosen) < MOST_LABELS and all(gap >= APART for gap in gaps):
            chosen.append(point)
    return sorted(chosen)


def _spread(points: Sequence[Point]) -> list[Point]:
    """All points, evenly spaced ones first."""
    picked = np.linspace(0, len(points) - 1, min(MOST_LABELS, len(points))).round().astype(int)
    first = [points[place] for place in dict.fromkeys(picked.tolist())]
    return [*first, *(point for point in points if point not in first)]
