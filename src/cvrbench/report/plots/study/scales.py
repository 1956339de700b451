"""Where the values of a parameter lie on an axis: numbers, logarithms, categories."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from cvrbench.config.sweep import Value
from cvrbench.report.plots.study.common import broken, complete, label
from cvrbench.report.studies import value_text
from cvrbench.studies import StudySummary

BIN = 1 / 28
"""Share of an axis that a dot takes: categories stack what is nearer."""

LETTERS = 36
"""Of categories below a narrow panel that stand upright beside each other."""


@dataclass(frozen=True)
class Scale:
    """One parameter's axis."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Whether it counts in whole numbers."""
    categories: tuple[str, ...] = ()
    """Their words; none where the parameter is a number."""

    def place(self, value: Value) -> float | None:
        """Where a value lies; None where it cannot be drawn."""
        if self.categories:
            words = value_text(value)
            return float(self.categories.index(words)) if words in self.categories else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return None if self.log and value <= 0 else float(value)

    def share(self, value: Value) -> float | None:
        """Where a value lies between the ends: 0 to 1."""
        place = self.place(value)
        if place is None:
            return None
        low, high = self._even(self.low), self._even(self.high)
        return 0.5 if low == high else (self._even(place) - low) / (high - low)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Few places with their words."""
        if self.categories:
            return [(float(n), label(words, 18)) for n, words in enumerate(self.categories)]
        places = self._locator(count).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        inside = [p for p in places if self.low - slack <= p <= self.high + slack]
        return [(place, f"{place:g}") for place in inside]

    def dress(self, axes: Axes, which: Literal["x", "y"]) -> None:
        """Give one direction of a panel this scale and its ticks."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        if self.categories:
            places, words = zip(*self.ticks(), strict=True)
            lines = [broken(one, 9) for one in words]
            widest = max(len(line) for one in lines for line in one.split("\n"))
            fits = which == "y" or widest * len(lines) <= LETTERS
            axis.set_ticks(places, lines if fits else words)
            limits = (-0.6, len(self.categories) - 0.4)
            if which == "x":
                axes.set_xlim(limits)
                if not fits:
                    axes.tick_params(axis="x", rotation=30)
                    for text in axis.get_ticklabels():
                        text.set(ha="right", rotation_mode="anchor")
            else:
                axes.set_ylim(limits)
            return
        if self.log:
            axes.set(**{f"{which}scale": "log"})
            axis.set_minor_locator(NullLocator())
        axis.set_major_locator(self._locator(4))
        axis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:g}"))

    def room(self, axes: Axes, which: Literal["x", "y"]) -> None:
        """Show the whole space of a number, not only where trials lie, with a margin."""
        if self.low == self.high:
            return
        slack = 0.06 * (self._even(self.high) - self._even(self.low))
        ends = self._even(self.low) - slack, self._even(self.high) + slack
        low, high = map(math.exp, ends) if self.log else ends
        (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)

    def _even(self, place: float) -> float:
        return math.log(place) if self.log else place

    def _locator(self, count: int) -> Locator:
        if not self.log:
            return MaxNLocator(count, integer=self.whole, min_n_ticks=2)
        if math.log10(self.high / self.low) >= 2:
            return LogLocator(numticks=count + 1)
        if math.log10(self.high / self.low) >= 0.7:
            return LogLocator(subs=(1, 2, 5), numticks=4 * count)
        # Within less than a decade there may be no round number at all.
        return MaxNLocator(count, integer=self.whole)


def scale_of(summary: StudySummary, key: str) -> Scale:
    """Give the scale of a parameter, as wide as its space and as what was tried in it."""
    axis = summary.axes[key]
    tried = [trial.params[key] for trial, _ in complete(summary) if key in trial.params]
    if axis.kind == "choice":
        # The preset may have a value that no other trial can have.
        words = dict.fromkeys(map(value_text, (*axis.choices, *tried)))
        return Scale(0, max(len(words) - 1, 0), categories=tuple(words))
    ends = [axis.low, axis.high, *tried]
    numbers = [float(n) for n in ends if isinstance(n, int | float) and not isinstance(n, bool)]
    if axis.log:
        numbers = [number for number in numbers if number > 0]
    if not numbers:
        return Scale(0, 1)
    low, high = min(numbers), max(numbers)
    return Scale(low, high, log=axis.log, whole=axis.kind == "int")


def stacked(values: Sequence[float], extent: float) -> list[float]:
    """Steps aside that lay equal values of one category side by side.

    Args:
        values: Of one category.
        extent: Length of the axis of values; what is nearer than a dot's height is equal.

    Returns:
        A step for each, in the unit of categories, the same every time.
    """
    shelves: dict[int, list[int]] = {}
    for place, value in enumerate(values):
        shelf = math.floor((value - min(values)) / (extent * BIN)) if extent > 0 else 0
        shelves.setdefault(shelf, []).append(place)
    widest = max(map(len, shelves.values()), default=1)
    step = min(0.13, 0.8 / widest)
    steps = [0.0] * len(values)
    for places in shelves.values():
        for number, place in enumerate(places):
            steps[place] = (number - (len(places) - 1) / 2) * step
    return steps
