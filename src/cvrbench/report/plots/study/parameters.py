"""What single parameters do: their importances, and the value of every trial over each."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvrbench.report.plots.study.common import (
    EDGE,
    PALETTE,
    canvas,
    complete,
    dot_size,
    headline,
    known_entries,
    label,
    legend,
    mark_known,
    objective_label,
    objective_ticks,
    parameters,
    quiet_grid,
    short,
)
from cvrbench.report.plots.study.scales import scale_of, stacked
from cvrbench.report.plots.style import POINT, styled
from cvrbench.studies import StudySummary

MOST_BARS, MOST_PANELS, COLUMNS = 20, 24, 4
FEW = 12
"""Whole numbers that are stacked like categories."""


@styled()
def importances_figure(summary: StudySummary) -> Figure | None:
    """A bar per parameter, the longest on top; None where importances are unknown."""
    found = sorted(summary.importances.items(), key=lambda pair: -pair[1])
    if not found:
        return None
    shown = found[:MOST_BARS]
    names = short(summary.importances, 32)
    figure = canvas(6.0, 0.27 * len(shown) + 1.3)
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(places, [value for _, value in shown], height=0.65, color=POINT)
    for place, (_, value) in enumerate(shown):
        axes.annotate(
            f"{value:.2f}", (value, place), (4, 0), textcoords="offset points", va="center", size=8
        )
    axes.set_yticks(places, [names[key] for key, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(max(value for _, value in shown) * 1.12, 1e-9))
    axes.set_xlabel(f"importance (PED-ANOVA) for {label(summary.objectives[0], 28)}")
    axes.tick_params(axis="y", length=0)
    quiet_grid(axes, "x")
    words = "what decides whether a trial is among the good ones"
    if len(found) > len(shown):
        words += f"; the first {len(shown)} of {len(found)} parameters"
    headline(figure, summary, words)
    return figure


@styled()
def slices_figure(summary: StudySummary) -> Figure | None:
    """A panel per parameter: first objective over it; None below two trials."""
    trials = complete(summary)
    keys = parameters(summary)[:MOST_PANELS]
    if len(trials) < 2 or not keys:
        return None
    columns = min(COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = canvas(max(2.5 * columns + 1.0, 5.0), 2.5 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    names = short(summary.axes)
    numbers = Normalize(trials[0][0].number, trials[-1][0].number)
    used: set[str] = set()
    for key, axes in zip(keys, panels, strict=False):
        used |= _slice(axes, summary, key, numbers)
        axes.set_xlabel(names[key])
    for axes in panels[len(keys) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(objective_label(summary))
        objective_ticks(summary, axes, "y", 0)
    bar = figure.colorbar(
        ScalarMappable(numbers, PALETTE),
        ax=panels[: len(keys)],
        label="trial",
        aspect=30,
        fraction=0.03,
        pad=0.01,
    )
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()
    legend(figure, known_entries(summary, used))
    headline(figure, summary, _slice_words(summary, len(keys)))
    return figure


def _slice_words(summary: StudySummary, shown: int) -> str:
    words = "one dot per complete trial"
    if summary.importances:
        words += ", the most important parameter first"
    total = len(parameters(summary))
    return words if shown == total else f"{words}; {shown} of {total} parameters"


def _slice(axes: Axes, summary: StudySummary, key: str, numbers: Normalize) -> set[str]:
    """Draw one parameter; tell which marks were used."""
    scale = scale_of(summary, key)
    trials = complete(summary)
    everything = [values[0] for _, values in trials]
    points = [
        (trial, place, values[0])
        for trial, values in trials
        if key in trial.params and (place := scale.place(trial.params[key])) is not None
    ]
    x, y = [place for _, place, _ in points], [value for _, _, value in points]
    if scale.categories or (scale.whole and not scale.log and scale.high - scale.low <= FEW):
        x = _side_by_side(x, y, max(everything) - min(everything))
    look: dict[str, Any] = {"s": dot_size(len(trials)), **EDGE}
    scale.dress(axes, "x")
    axes.scatter(
        x, y, c=[t.number for t, _, _ in points], cmap=PALETTE, norm=numbers, zorder=3, **look
    )
    if not scale.categories:
        scale.room(axes, "x")
    axes.margins(y=0.1)
    quiet_grid(axes, "y")
    if len(points) < len(trials):
        axes.set_title(f"{len(points)} of {len(trials)} trials have it", fontsize=8)
    moved = [(trial, at, value) for (trial, _, value), at in zip(points, x, strict=True)]
    return mark_known(axes, summary, moved)


def _side_by_side(x: list[float], y: list[float], extent: float) -> list[float]:
    """Step equal values of one category or whole number aside, so that none hides another."""
    moved = np.array(x)
    for category in set(x):
        own = [place for place, one in enumerate(x) if one == category]
        moved[own] += stacked([y[place] for place in own], extent)
    return [float(place) for place in moved]
