"""Differences to one row, with their intervals: the forest plot of a meta-analysis."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cvrbench.report.comparison import Comparison
from cvrbench.report.differences import Differences, Verdict
from cvrbench.report.figures.panels import handle
from cvrbench.report.figures.style import (
    GRID,
    INK,
    POINT,
    UNUSED,
    heading,
    headline,
    row_name,
    styled,
)

ROW = 0.34
"""Inches for one strategy."""


def forest_figure(comparison: Comparison, found: Differences) -> Figure | None:
    """A dot and its 95 % interval per strategy, a panel per space; None without a verdict."""
    words = f"{comparison.name}, test split: AUC less that of {found.baseline}, 95 % intervals"
    return gains_figure(comparison, found, words)


def gains_figure(comparison: Comparison, found: Differences, words: str) -> Figure | None:
    """Draw all verdicts of a comparison below these words; None where there is none."""
    metrics = comparison.auc_metrics
    if not any(found.verdicts.get(metric) for metric in metrics):
        return None
    labels = [v.label for v in comparison.variants if v.label != found.baseline]
    names = [row_name(label) for label in labels]
    wide = max(len(line) for name in names for line in name.split("\n"))
    with styled():
        figure = Figure(
            figsize=(2.9 * len(metrics) + 0.07 * wide + 0.6, ROW * len(labels) + 2.0),
            layout="constrained",
        )
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _verdicts(axis, [found.of(metric, label) for label in labels], found.margin)
            axis.set_title(heading(comparison.header(metric)))
        axes[0].set_yticks(range(len(labels)), names)
        axes[0].set_ylim(len(labels) - 0.5, -0.5)  # first on top
        for axis in axes:
            axis.tick_params(axis="y", length=0)
        figure.legend(
            handles=_legend(found.margin),
            loc="outside lower left",
            ncols=4 if len(metrics) > 2 else 2,
            frameon=False,
            fontsize=8,
        )
        headline(figure, words)
    return figure


def _verdicts(axis: Axes, verdicts: Sequence[Verdict | None], margin: float) -> None:
    axis.axvspan(-margin, margin, color=UNUSED, zorder=0)
    axis.axvline(0, color=INK, linewidth=0.8)
    for row, verdict in enumerate(verdicts):
        if verdict is None:
            axis.text(0, row, "no two seeds ", fontsize=7, ha="right", va="center")
            continue
        axis.errorbar(
            verdict.difference.mean,
            row,
            xerr=verdict.difference.half_width,
            **_point(is_real=verdict.is_real, is_equivalent=verdict.is_equivalent),
        )
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)


def _point(*, is_real: bool, is_equivalent: bool) -> dict[str, Any]:
    """Fill what is real; what is shown to be within the margin is a square."""
    return {
        "fmt": "s" if is_equivalent else "o",
        "color": POINT,
        "markerfacecolor": POINT if is_real else "white",
        "markersize": 5,
        "capsize": 3,
    }


def _legend(margin: float) -> list[Line2D | Patch]:
    def point(words: str, **facts: bool) -> Line2D:
        style = _point(**facts)
        del style["capsize"]
        return handle(words, linestyle="none", marker=style.pop("fmt"), **style)

    return [
        point("real: adjusted p below 0.05", is_real=True, is_equivalent=False),
        point("neither shown", is_real=False, is_equivalent=False),
        point(f"square: equivalent within ±{margin:g}", is_real=False, is_equivalent=True),
        Patch(color=UNUSED, label=f"the margin, ±{margin:g}"),
    ]
