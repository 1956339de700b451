"""Whether predicted rates happen: reliability curves, and where the predictions lie."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.calibration import Calibration
from cvrbench.report.comparison import Comparison
from cvrbench.report.figures.panels import (
    Line,
    draw_lines,
    line_key,
    log_ticks,
    quiet_grid,
    rows_of,
)
from cvrbench.report.figures.style import INK, heading, headline, look, styled
from cvrbench.stats.influence import Floats


def calibration_figure(comparison: Comparison, found: Sequence[Calibration]) -> Figure | None:
    """Observed over predicted rate: a column per space, a row of panels per few strategies.

    Below each panel is the histogram of the predictions. None where no space has positives.
    """
    if not found:
        return None
    labels = [v.label for v in comparison.variants if v.label in found[0].variants]
    rows = rows_of(len(labels))
    with styled():
        figure = Figure(
            figsize=(3.0 * len(found) + 2.4, 3.7 * len(rows) + 0.7), layout="constrained"
        )
        axes = figure.subplots(
            2 * len(rows),
            len(found),
            sharex="col",
            height_ratios=(4, 1) * len(rows),
            squeeze=False,
        )
        for column, one in enumerate(found):
            for number, shown in enumerate(rows):
                above, below = axes[2 * number : 2 * number + 2, column]
                _reliability(above, one, labels, shown)
                _histogram(below, one, labels, shown)
            axes[0, column].set_title(heading(comparison.header(one.metric).replace(" AUC ", " ")))
            axes[-1, column].set_xlabel("predicted rate")
        for number, shown in enumerate(rows):
            axes[2 * number, 0].set_ylabel("observed rate")
            line_key(axes[2 * number, -1], labels, shown)
        words = f"{comparison.name}, test split: observed over predicted rate, in bins of "
        words += "equally many rows; below: where the predictions lie"
        if max(len(variant.runs) for variant in comparison.variants) > 1:
            words += "; lines: means of the seeds, bands: their range"
        headline(figure, words)
    return figure


def _reliability(axis: Axes, one: Calibration, labels: Sequence[str], shown: range) -> None:
    curves = [one.variants[label] for label in labels]
    every = np.concatenate([rates for c in curves for rates in (c.predicted, c.observed)])
    low, high = _log_limits(every, one.rate) if one.is_rare else _limits(every)
    # A logarithmic axis has no zero: bins without positives lie on its edge.
    bounded = [
        Line(
            *(
                np.clip(rates, low, high).tolist()
                for rates in (c.predicted, c.observed, c.low, c.high)
            )
        )
        for c in curves
    ]
    axis.plot((low, high), (low, high), color=INK, linewidth=0.8, zorder=2)
    draw_lines(axis, bounded, shown, dots=True)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    quiet_grid(axis)
    if one.is_rare:
        axis.set_xscale("log")
        axis.set_yscale("log")
        for one_axis in (axis.xaxis, axis.yaxis):
            log_ticks(one_axis)
            one_axis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axis.locator_params(nbins=5)


def _limits(rates: Floats) -> tuple[float, float]:
    """Give both axes' common limits, a little beyond all rates."""
    room = 0.05 * max(float(np.ptp(rates)), 0.02)
    return float(rates.min()) - room, float(rates.max()) + room


def _log_limits(rates: Floats, rate: float) -> tuple[float, float]:
    """Give them for logarithmic axes; what is next to nothing beside the base rate is cut off."""
    there = rates[rates > 1e-4 * rate]
    return float(there.min()) / 1.5, min(1.0, float(there.max()) * 1.5)


def _histogram(axis: Axes, one: Calibration, labels: Sequence[str], shown: range) -> None:
    low, high = axis.get_xlim()
    seen = (one.edges[1:] > low) & (one.edges[:-1] < high)
    for number in shown:
        style = look(number)
        axis.stairs(
            one.variants[labels[number]].mass,
            one.edges,
            color=style.color,
            linestyle=style.line,
            linewidth=0.8,
            alpha=0.8,
        )
    axis.set_yticks([])
    # What is beyond the rates above would make all else look flat.
    most = max(float(one.variants[labels[number]].mass[seen].max()) for number in shown)
    axis.set_ylim(0, 1.05 * most or 1)
    axis.spines["left"].set_visible(False)
    axis.tick_params(labelsize=8)
