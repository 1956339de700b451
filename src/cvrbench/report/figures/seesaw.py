"""Whether one task gains at the other's cost: the seesaw of Tang et al. (PLE, RecSys 2020)."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.comparison import Comparison, Variant
from cvrbench.report.differences import REFERENCE
from cvrbench.report.figures.panels import explain_all, height_of, key, point, quiet_grid
from cvrbench.report.figures.style import (
    FAINT,
    INK,
    UNUSED,
    heading,
    headline,
    mark,
    plain,
    styled,
)
from cvrbench.report.studies import cut
from cvrbench.stats.intervals import Estimate

COLUMNS = 2
"""Of panels, where there are more than two tasks."""


def seesaw_figure(comparison: Comparison) -> Figure | None:
    """AUC of the first task against every other's, each in its own space; None of one task.

    The lines run through the tasks alone, where these were run: to the upper right both gain.
    """
    tasks = [task.name for task in comparison.tasks]
    first, others = f"{tasks[0]}_auc", [f"{name}_auc" for name in tasks[1:]]
    others = [metric for metric in others if _points(comparison, first, metric)]
    if not others:
        return None
    n_columns = min(COLUMNS, len(others))
    n_rows = -(-len(others) // n_columns)
    with styled():
        handles = key([variant.label for variant in comparison.variants])
        height = max(4.0 * n_rows, height_of(handles)) + 0.7
        figure = Figure(figsize=(4.4 * n_columns + 2.8, height), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axis, metric in zip(axes, others, strict=False):
            _seesaw(axis, comparison, (first, metric))
        for axis in axes[len(others) :]:
            axis.set_axis_off()
        explain_all(figure, handles)
        headline(figure, _words(comparison))
    return figure


def _words(comparison: Comparison) -> str:
    seeds = max(len(variant.runs) for variant in comparison.variants)
    words = f"{comparison.name}, test split: one task's AUC against another's"
    if seeds > 1:
        words += "; faint: seeds, crosses: the means' 95 % intervals over seeds"
    if _alone(comparison) is None:
        return f"{words}; no {REFERENCE}, so no origin"
    return f"{words}; lines: {REFERENCE}" + (", bands: its intervals" if seeds > 1 else "")


def _alone(comparison: Comparison) -> Variant | None:
    return next((v for v in comparison.variants if v.label == REFERENCE), None)


def _seesaw(axis: Axes, comparison: Comparison, metrics: tuple[str, str]) -> None:
    for number, (variant, x, y) in _points(comparison, *metrics).items():
        style = mark(number)
        seeds = _seeds(variant, metrics)
        if len(seeds) > 1:
            axis.plot(
                *zip(*seeds, strict=True),
                style.shape,
                color=style.color,
                markerfacecolor=style.face,
                alpha=0.3,
                markersize=3,
            )
        point(axis, number, x, y)
    axis.set_xlabel(heading(comparison.header(metrics[0])))
    axis.set_ylabel(heading(comparison.header(metrics[1])))
    quiet_grid(axis)
    axis.margins(0.1)
    _origin(axis, comparison, metrics)
    axis.locator_params(nbins=5)


def _origin(axis: Axes, comparison: Comparison, metrics: tuple[str, str]) -> None:
    """Draw the lines through the tasks alone, and say what the four quarters mean."""
    alone = _alone(comparison)
    estimates = [alone.estimate(metric) if alone is not None else None for metric in metrics]
    x, y = estimates
    if x is None or y is None:
        return
    axis.set_xlim(_with_room(axis.get_xlim(), x.mean))
    axis.set_ylim(_with_room(axis.get_ylim(), y.mean))
    axis.axvline(x.mean, color=INK, linewidth=0.9)
    axis.axhline(y.mean, color=INK, linewidth=0.9)
    if x.half_width is not None and y.half_width is not None:
        axis.axvspan(x.mean - x.half_width, x.mean + x.half_width, color=UNUSED, zorder=0)
        axis.axhspan(y.mean - y.half_width, y.mean + y.half_width, color=UNUSED, zorder=0)
    first, second = (cut(metric.removesuffix("_auc").upper(), 14) for metric in metrics)
    quarters = {
        (1, 1): "both gain",
        (0, 1): f"{second} gains,\n{first} pays",
        (1, 0): f"{first} gains,\n{second} pays",
        (0, 0): "both pay",
    }
    for (right, upper), words in quarters.items():
        axis.annotate(
            plain(words),
            (right, upper),
            xycoords="axes fraction",
            xytext=(-4 if right else 4, -4 if upper else 4),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if upper else "bottom",
            color=FAINT,
            fontsize=8,
        )


def _with_room(limits: tuple[float, float], origin: float) -> tuple[float, float]:
    """Widen an axis until no side of the origin is narrower than half the other."""
    low, high = limits
    below, above = origin - low, high - origin
    return origin - max(below, above / 2), origin + max(above, below / 2)


def _points(
    comparison: Comparison, first: str, second: str
) -> dict[int, tuple[Variant, Estimate, Estimate]]:
    """Give the variants that have both metrics, by their place."""
    found = {}
    for number, variant in enumerate(comparison.variants):
        x, y = variant.estimate(first), variant.estimate(second)
        if x is not None and y is not None:
            found[number] = (variant, x, y)
    return found


def _seeds(variant: Variant, metrics: Sequence[str]) -> list[tuple[float, float]]:
    pairs = [tuple(run.metrics["test"].get(metric) for metric in metrics) for run in variant.runs]
    return [(x, y) for x, y in pairs if x is not None and y is not None]
