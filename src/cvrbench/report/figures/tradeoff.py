"""What an AUC costs: against the density of the masks, and against the work of a run."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from cvrbench.record import RunRecord
from cvrbench.report.comparison import Comparison, Variant, examples_of
from cvrbench.report.differences import USUAL_BASELINES
from cvrbench.report.figures.panels import (
    explain_all,
    height_of,
    key,
    log_ticks,
    point,
    quiet_grid,
    side_by_side,
)
from cvrbench.report.figures.style import heading, headline, look, mark, styled
from cvrbench.report.masks import read_masks
from cvrbench.stats.intervals import Estimate, t_interval

MANY = 4
"""More level lines than these hide each other; then only the usual baselines are drawn."""
WIDE = 5.0
"""Costs further apart than this are drawn on a logarithmic axis."""
APART = 0.22
"""Of an axis: room for a number below it."""
COSTS: dict[str, Callable[[RunRecord], float]] = {
    "training examples, searches included": examples_of,
    "multiply-adds of one example": lambda run: run.multiply_adds,
}


def density_figure(comparison: Comparison) -> Figure | None:
    """AUC against the density of the masks, a panel per space; the others are level lines.

    None where no variant has masks.
    """
    kept = {n: found for n, v in enumerate(comparison.variants) if (found := _densities(v))}
    if not kept:
        return None
    level = _level(comparison, list(kept))
    metrics = comparison.auc_metrics
    with styled():
        handles = _handles(comparison, [*level, *kept], level)
        height = max(3.0, height_of(handles)) + 0.7
        figure = Figure(figsize=(2.9 * len(metrics) + 2.6, height), layout="constrained")
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _points(axis, comparison, metric, {n: _density(kept[n], metric) for n in kept})
            low, high = axis.get_xlim()
            axis.set_xlim(low - 0.05 * len(level) * (high - low), high)  # their intervals' room
            for place, number in enumerate(level):
                _level_line(axis, place, number, comparison.variants[number].estimate(metric))
            axis.set_title(heading(comparison.header(metric)))
            axis.set_xlabel(_whose(next(iter(kept.values())), metric))
            axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        explain_all(figure, handles)
        words = f"{comparison.name}, test split: AUC against the share of weights that the "
        words += "masks keep; bars: 95 % intervals over seeds; equal shares stand side by side"
        headline(figure, f"{words}; lines: without masks" if level else words)
    return figure


def cost_figure(comparison: Comparison) -> Figure:
    """AUC against training examples and against multiply-adds, a panel per space and cost."""
    metrics = comparison.auc_metrics
    everybody = range(len(comparison.variants))
    with styled():
        handles = _handles(comparison, everybody, ())
        height = max(2.7 * len(COSTS), height_of(handles)) + 0.7
        figure = Figure(figsize=(2.9 * len(metrics) + 2.6, height), layout="constrained")
        axes = figure.subplots(len(COSTS), len(metrics), sharey="col", squeeze=False)
        for row, (words, cost) in zip(axes, COSTS.items(), strict=True):
            found = [t_interval([cost(run) for run in v.runs]) for v in comparison.variants]
            for axis, metric in zip(row, metrics, strict=True):
                _points(axis, comparison, metric, dict(zip(everybody, found, strict=True)))
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
                axis.set_xlabel(words, fontsize=8)
        for axis, metric in zip(axes[0], metrics, strict=True):
            axis.set_title(heading(comparison.header(metric)))
        explain_all(figure, handles)
        words = f"{comparison.name}, test split: what an AUC costs; bars: 95 % intervals over "
        headline(figure, f"{words}seeds; equal costs stand side by side")
    return figure


def _points(axis: Axes, comparison: Comparison, metric: str, places: dict[int, Estimate]) -> None:
    """Draw the strategies that have the metric, those of one place beside each other."""
    found = {n: y for n in places if (y := comparison.variants[n].estimate(metric)) is not None}
    quiet_grid(axis)
    axis.locator_params(axis="y", nbins=5)
    if not found:
        return
    means = [places[number].mean for number in found]
    is_log = min(means) > 0 and max(means) > WIDE * min(means)
    spread = side_by_side(means, is_log=is_log)
    for number, x in zip(found, spread.moved, strict=True):
        point(axis, number, places[number]._replace(mean=x), found[number])
    axis.margins(0.12)
    if is_log:
        axis.set_xscale("log")
        log_ticks(axis.xaxis)
    elif _are_apart(spread.centres):
        # Ticks where the values are: those beside them were moved there.
        axis.set_xticks([float(f"{one:.3g}") for one in spread.centres])
    else:
        axis.locator_params(axis="x", nbins=4)


def _are_apart(places: Sequence[float]) -> bool:
    """Whether places that ascend leave room for a number at each."""
    steps = [after - before for before, after in pairwise(places)]
    return all(step > APART * (places[-1] - places[0]) for step in steps)


def _level(comparison: Comparison, masked: Sequence[int]) -> list[int]:
    """Give the strategies without masks that are drawn as lines."""
    others = [number for number in range(len(comparison.variants)) if number not in masked]
    if len(others) <= MANY:
        return others
    return [n for n in others if comparison.variants[n].label in USUAL_BASELINES]


def _level_line(axis: Axes, place: int, number: int, y: Estimate | None) -> None:
    """Draw a value across a panel; its interval stands on the line, at the panel's left edge."""
    if y is None:
        return
    color = mark(number).color
    axis.axhline(y.mean, color=color, linestyle=look(number).line, linewidth=1.2)
    if y.half_width is not None:
        low, high = y.mean - y.half_width, y.mean + y.half_width
        at = 0.03 + 0.035 * place
        across = axis.get_yaxis_transform()
        axis.plot([at, at], [low, high], color=color, linewidth=2, transform=across)


def _handles(comparison: Comparison, shown: Sequence[int], level: Sequence[int]) -> list[Line2D]:
    handles = key([variant.label for variant in comparison.variants])
    for number in level:
        handles[number].set(marker="", linestyle=look(number).line, linewidth=1.2)
    return [handles[number] for number in shown]


def _densities(variant: Variant) -> list[dict[str, float]]:
    """Task -> share that its mask keeps, of every seed that has masks."""
    found = [read_masks(run) for run in variant.runs]
    return [masks.whole.density for masks in found if masks is not None]


def _density(seeds: Sequence[dict[str, float]], metric: str) -> Estimate:
    """A task's own density in its own space, the mean over the tasks in a joint space."""
    task = metric.removesuffix("_auc")
    own = [kept.get(task, sum(kept.values()) / len(kept)) for kept in seeds]
    return t_interval(own)


def _whose(seeds: Sequence[dict[str, float]], metric: str) -> str:
    task = metric.removesuffix("_auc")
    return heading(f"kept for {task}" if task in seeds[0] else "kept, mean of the tasks")
