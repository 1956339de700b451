"""What the figures of one sweep have in common: their trials, names, scales and marks."""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from cvrbench.report.plots.style import FAINT, INK, LETTERS_PER_INCH, POINT, TRUTH, plain
from cvrbench.report.studies import COSTS, best_first, cut, last_parts
from cvrbench.studies import StudySummary, TrialSummary

SHADES = mpl.colormaps["viridis"](0.94 * (1 - np.arange(256) / 255))
PALETTE = ListedColormap(SHADES, name="study")
"""From light to dark evenly, in grey too; the lightest still stands out from the paper."""
PALE = ListedColormap(0.4 + 0.6 * SHADES, name="study_pale")
"""The same on areas behind dots: an alpha would draw the seams between areas."""
EDGE: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.4}
"""Around every dot, so that light ones are seen."""
BEST: dict[str, Any] = {
    "marker": "*",
    "markersize": 12,
    "markerfacecolor": "#ffffff",
    "markeredgecolor": INK,
    "linestyle": "none",
    "zorder": 5,
}
PRESET: dict[str, Any] = {
    "marker": "D",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgecolor": TRUTH,
    "markeredgewidth": 1.6,
    "linestyle": "none",
    "zorder": 6,
}
PRUNED: dict[str, Any] = {"marker": "x", "color": INK, "markersize": 5, "linestyle": "none"}
FAILED: dict[str, Any] = {
    "marker": "v",
    "markersize": 5,
    "markerfacecolor": "none",
    "markeredgecolor": TRUTH,
    "linestyle": "none",
}
COMPLETE: dict[str, Any] = {"marker": "o", "color": POINT, "markersize": 4, "linestyle": "none"}


def complete(summary: StudySummary) -> list[tuple[TrialSummary, tuple[float, ...]]]:
    """Trials that have values, with these, in the order in which they began."""
    trials = sorted(summary.trials, key=lambda trial: trial.number)
    return [(t, t.values) for t in trials if t.state == "complete" and t.values is not None]


def bests(summary: StudySummary) -> set[int]:
    """Numbers of the trials that are marked as best."""
    if len(summary.objectives) > 1 or summary.best:
        return set(summary.best)
    found = best_first(summary)
    return {found[0].number} if found else set()


def parameters(summary: StudySummary) -> list[str]:
    """Keys of the parameters that any complete trial has, the most important first."""
    there = {key for trial, _ in complete(summary) for key in trial.params}
    places = {key: place for place, key in enumerate(summary.axes)}
    return sorted(
        (key for key in summary.axes if key in there),
        key=lambda key: (-summary.importances.get(key, -math.inf), places[key]),
    )


def short(keys: Iterable[str], length: int = 24) -> dict[str, str]:
    """Name each key in short, ready to be drawn."""
    return {key: label(name, length) for key, name in last_parts(keys).items()}


def label(text: str, length: int) -> str:
    """Cut a name to fit and keep it from being read as a formula."""
    return plain(cut(text, length))


def broken(name: str, length: int) -> str:
    """Break a name after underscores, dots and spaces into lines of at most so many letters."""
    lines, line = [], ""
    for part in re.findall(r"[^_. \n]*[_. \n]|[^_. \n]+", name):
        if line.endswith("\n") or (line and len(line) + len(part.rstrip()) > length):
            lines.append(line.rstrip())
            line = ""
        line += part
    return "\n".join([*lines, line])


def objective_label(summary: StudySummary, place: int = 0) -> str:
    """Name an objective, where it is measured, and which way is better if that is down."""
    name = summary.objectives[place]
    words = label(name, 28) if name in COSTS else f"validation {label(name, 28)}"
    return f"{words}\n(less is better)" if summary.directions[place] == "minimize" else words


def objective_ticks(
    summary: StudySummary, axes: Axes, which: Literal["x", "y"], place: int
) -> None:
    """Count in thousands and millions where an objective is a number of things."""
    if summary.objectives[place] in ("multiply_adds", "parameters"):
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_formatter(EngFormatter(sep=""))


def value_colors(
    summary: StudySummary, values: Sequence[float]
) -> tuple[float, float, ListedColormap, ListedColormap]:
    """Give the range of the first objective and its colours, full and pale; the best are dark."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    dark_is_high = summary.directions[0] == "maximize"
    both = (PALETTE, PALE) if dark_is_high else (PALETTE.reversed(), PALE.reversed())
    return low, high, *both


def canvas(width: float, height: float) -> Figure:
    """Give an empty figure that makes room for all that is written."""
    return Figure(figsize=(width, height), layout="constrained")


def headline(figure: Figure, summary: StudySummary, words: str) -> None:
    """Name the study and say what is drawn, in lines that fit the figure."""
    letters = int(LETTERS_PER_INCH * figure.get_figwidth())
    text = f"{label(summary.name, min(60, letters))}: {words}"
    figure.suptitle(textwrap.fill(text, letters), x=0.01, ha="left", fontsize=10)


def legend(figure: Figure, entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Explain the marks below everything, in one line where it fits."""
    handles = [Line2D([], [], **mark, label=name) for name, mark in entries]
    letters = sum(len(name) + 7 for name, _ in entries)  # a mark takes about seven
    is_one_line = letters < LETTERS_PER_INCH * figure.get_figwidth()
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=max(1, len(entries) if is_one_line else (len(entries) + 1) // 2),
        frameon=False,
        fontsize=8,
        handletextpad=0.3,
    )


def mark_known(
    axes: Axes, summary: StudySummary, trials: Iterable[tuple[TrialSummary, float, float]]
) -> set[str]:
    """Mark the best trials and the preset at their places; tell which marks were used."""
    best = bests(summary)
    used = set()
    for trial, x, y in trials:
        if trial.number in best:
            axes.plot([x], [y], **BEST)
            used.add("best")
        if trial.preset:
            axes.plot([x], [y], **PRESET)
            used.add("preset")
    return used


def known_entries(summary: StudySummary, used: set[str]) -> list[tuple[str, dict[str, Any]]]:
    """Entries of a legend for the marks of `mark_known`."""
    best = "best" if len(summary.objectives) == 1 else "Pareto front"
    entries = [(best, BEST)] if "best" in used else []
    return [*entries, ("preset", PRESET)] if "preset" in used else entries


def dot_size(count: int) -> float:
    """Area of a dot when there are so many."""
    return 24 if count <= 100 else 9


def quiet_grid(axes: Axes, which: Literal["x", "y", "both"] = "both") -> None:
    """Thin lines behind everything."""
    axes.grid(axis=which, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color=FAINT)
