"""Figures of one comparison: values, differences, one task against another, costs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter

from cvrbench.metrics.evaluation import owner_of, ranking_metric
from cvrbench.report.comparison import Comparison, Variant, examples_of
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.diagnostics import gatings
from cvrbench.report.differences import REFERENCE, USUAL_BASELINES, Differences, Transfer, Verdict
from cvrbench.report.figures.masks import masks_figure
from cvrbench.report.figures.runs import (
    agreement_figure,
    balancing_figure,
    calibration_figure,
    gates_figure,
    learning_figure,
)
from cvrbench.report.figures.style import (
    FAINT,
    GRID,
    INK,
    POINT,
    TRUTH,
    UNUSED,
    explain_all,
    handle,
    heading,
    headline,
    height_of,
    key,
    log_ticks,
    look,
    mark,
    plain,
    point,
    quiet_grid,
    row_name,
    side_by_side,
    styled,
)
from cvrbench.report.masks import read_masks
from cvrbench.report.studies import cut
from cvrbench.runs.record import RunRecord
from cvrbench.stats.difference import Estimate, t_interval

# Values


def comparison_figure(comparison: Comparison) -> Figure:
    """AUC of every space: a dot per seed, the mean and its interval per strategy."""
    with styled():
        labels = [variant.label for variant in comparison.variants]
        figure, axes = _panels(comparison, labels, room=0.8)
        for axis, metric in zip(axes, comparison.auc_metrics, strict=True):
            _compare(axis, comparison, metric)
        seeds = max(len(variant.runs) for variant in comparison.variants)
        words = "one seed: no interval over seeds"
        if seeds > 1:
            words = f"{seeds} seeds: dots are seeds, bars the mean's 95 % interval"
        headline(figure, f"{comparison.name}, test split, {words}")
    return figure


def _panels(
    comparison: Comparison, labels: Sequence[str], room: float
) -> tuple[Figure, Sequence[Axes]]:
    """Return a panel per space with a strategy a row, the first on top below some room."""
    names, metrics = [row_name(label) for label in labels], comparison.auc_metrics
    letters = max(len(line) for name in names for line in name.split("\n"))
    width, height = 3.0 * len(metrics) + max(1.2, 0.08 * letters), 0.35 * len(names) + 2.0
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        axis.set_title(heading(comparison.header(metric)))
        axis.grid(axis="x", color=GRID)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -room)
    return figure, axes


def _compare(axis: Axes, comparison: Comparison, metric: str) -> None:
    for row, variant in enumerate(comparison.variants):
        estimate = variant.estimate(metric)
        if estimate is None:
            continue
        values = [v for run in variant.runs if (v := run.metrics["test"].get(metric)) is not None]
        if len(values) > 1:
            axis.plot(values, [row] * len(values), ".", color=POINT, alpha=0.35, markersize=6)
        axis.errorbar(
            estimate.mean,
            row,
            xerr=estimate.half_width,
            fmt="o",
            color=POINT,
            markersize=5,
            capsize=3,
        )
    if (best := comparison.best_reachable(metric)) is not None:
        axis.axvline(best, color=TRUTH, linewidth=1.2, linestyle="--")
        axis.text(best, -0.6, "best reachable", color=TRUTH, fontsize=7, ha="right", va="center")
    axis.margins(x=0.12)
    axis.locator_params(axis="x", nbins=5)


# Differences to one row: the forest plot of a meta-analysis


def forest_figure(comparison: Comparison, found: Differences) -> Figure | None:
    """A dot and its 95 % interval per strategy, a panel per space; None without a verdict."""
    words = f"{comparison.name}, test split: AUC less that of {found.baseline}, 95 % intervals"
    return gains_figure(comparison, found, words)


def gains_figure(comparison: Comparison, found: Differences, words: str) -> Figure | None:
    """Return a figure of all verdicts below these words; None if there is no verdict."""
    metrics = comparison.auc_metrics
    if not any(found.verdicts.get(metric) for metric in metrics):
        return None
    labels = [v.label for v in comparison.variants if v.label != found.baseline]
    with styled():
        figure, axes = _panels(comparison, labels, room=0.5)
        for axis, metric in zip(axes, metrics, strict=True):
            _verdicts(axis, [found.of(metric, label) for label in labels], found.margin)
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
            **_point(is_shown=verdict.is_shown, is_equivalent=verdict.is_equivalent),
        )
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)


def _point(*, is_shown: bool, is_equivalent: bool) -> dict[str, Any]:
    """Fill what is real; what is shown to be within the margin is a square."""
    return {
        "fmt": "s" if is_equivalent else "o",
        "color": POINT,
        "markerfacecolor": POINT if is_shown else "white",
        "markersize": 5,
        "capsize": 3,
    }


def _legend(margin: float) -> list[Line2D | Patch]:
    def point(words: str, **facts: bool) -> Line2D:
        style = _point(**facts)
        del style["capsize"]
        return handle(words, linestyle="none", marker=style.pop("fmt"), **style)

    return [
        point("shown: adjusted p below 0.05", is_shown=True, is_equivalent=False),
        point("neither shown", is_shown=False, is_equivalent=False),
        point(f"square: equivalent within ±{margin:g}", is_shown=False, is_equivalent=True),
        Patch(color=UNUSED, label=f"the margin, ±{margin:g}"),
    ]


def transfer_figure(comparison: Comparison, found: Transfer) -> Figure | None:
    """Gain over the tasks alone: a dot and its interval per strategy, a panel per space."""
    words = f"{comparison.name}, test split: gain over {REFERENCE}, 95 % intervals"
    return gains_figure(comparison, found.gains, words)


# One task against another: the seesaw of Tang et al. (PLE, RecSys 2020)


SEESAW_COLUMNS = 2
"""Columns of panels where there are more than two tasks."""


def seesaw_figure(comparison: Comparison) -> Figure | None:
    """AUC of the first task against every other's, each in its own space; None of one task.

    The lines run through the tasks alone, where these were run: to the upper right both gain.
    """
    tasks = [task.name for task in comparison.tasks]
    first, *others = (ranking_metric(name, comparison.tasks) for name in tasks)
    others = [metric for metric in others if _seesaw_points(comparison, first, metric)]
    if not others:
        return None
    n_columns = min(SEESAW_COLUMNS, len(others))
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
        headline(figure, _seesaw_words(comparison))
    return figure


def _seesaw_words(comparison: Comparison) -> str:
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
    for number, (variant, x, y) in _seesaw_points(comparison, *metrics).items():
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
    """Draw the lines through the tasks alone, and name the four quarters."""
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
    first, second = (cut(owner_of(metric).upper(), 14) for metric in metrics)
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


def _seesaw_points(
    comparison: Comparison, first: str, second: str
) -> dict[int, tuple[Variant, Estimate, Estimate]]:
    """Return both means of every variant that has both metrics, by its place."""
    found = {}
    for number, variant in enumerate(comparison.variants):
        x, y = variant.estimate(first), variant.estimate(second)
        if x is not None and y is not None:
            found[number] = (variant, x, y)
    return found


def _seeds(variant: Variant, metrics: Sequence[str]) -> list[tuple[float, float]]:
    pairs = [tuple(run.metrics["test"].get(metric) for metric in metrics) for run in variant.runs]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


# What an AUC costs: over the density of masks, and over the work of a run


MANY = 4
"""More level lines than these hide each other; then only the usual baselines are drawn."""
WIDE = 5.0
"""Costs further apart than this are drawn on a logarithmic axis."""
APART = 0.22
"""Share of an axis that the number below a tick takes."""
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
            _cost_points(axis, comparison, metric, {n: _density(kept[n], metric) for n in kept})
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
                _cost_points(axis, comparison, metric, dict(zip(everybody, found, strict=True)))
                _front(axis, [one.mean for one in found], _means(comparison, metric))
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
                axis.set_xlabel(words, fontsize=8)
        for axis, metric in zip(axes[0], metrics, strict=True):
            axis.set_title(heading(comparison.header(metric)))
        explain_all(figure, handles)
        words = f"{comparison.name}, test split; bars: 95 % intervals over seeds; equal costs "
        headline(figure, f"{words}side by side; grey: the highest mean for that cost or less")
    return figure


def _means(comparison: Comparison, metric: str) -> list[float | None]:
    estimates = [variant.estimate(metric) for variant in comparison.variants]
    return [None if one is None else one.mean for one in estimates]


def _front(axis: Axes, costs: Sequence[float], means: Sequence[float | None]) -> None:
    """Draw the Pareto front: the highest mean that is to be had for a cost."""
    corners: list[tuple[float, float]] = []
    for cost, mean in sorted(
        zip(costs, means, strict=True), key=lambda one: (one[0], -(one[1] or 0))
    ):
        if mean is not None and (not corners or mean > corners[-1][1]):
            corners.append((cost, mean))
    if corners:
        ends = [*corners, (max(costs), corners[-1][1])]
        axis.step(*zip(*ends, strict=True), where="post", color=FAINT, linewidth=0.9, zorder=1)


def _cost_points(
    axis: Axes, comparison: Comparison, metric: str, places: dict[int, Estimate]
) -> None:
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
    """Return whether ascending places leave room for a number at each."""
    steps = [after - before for before, after in pairwise(places)]
    return all(step > APART * (places[-1] - places[0]) for step in steps)


def _level(comparison: Comparison, masked: Sequence[int]) -> list[int]:
    """Return the places of the strategies without masks that are drawn as lines."""
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
    task = owner_of(metric)
    own = [kept.get(task, sum(kept.values()) / len(kept)) for kept in seeds]
    return t_interval(own)


def _whose(seeds: Sequence[dict[str, float]], metric: str) -> str:
    task = owner_of(metric)
    return heading(f"kept for {task}" if task in seeds[0] else "kept, mean of the tasks")


# All of them, in reading order


Drawer = Callable[[], Figure | None]
"""Draws a figure when called; returns None if there is nothing to draw."""


OF_A_SHARE = ("comparison", "forest", "transfer", "seesaw")
"""Kinds of figures of a comparison that learnt from a share of the labels."""


def compared_figures(part: DatasetReport) -> Mapping[str, Drawer]:
    """Return the drawer of every figure of one dataset, by kind, in reading order."""
    comparison, found, gain = part.comparison, part.differences, part.transfer
    is_same = gain is not None and gain.gains is found  # the baseline is the tasks alone
    drawers: dict[str, Drawer] = {
        "comparison": partial(comparison_figure, comparison),
        "forest": lambda: None if found is None else forest_figure(comparison, found),
        "transfer": lambda: None if gain is None or is_same else transfer_figure(comparison, gain),
        "seesaw": partial(seesaw_figure, comparison),
        "cost": partial(cost_figure, comparison),
        "density": partial(density_figure, comparison),
        "learning": partial(learning_figure, comparison, part.learnings),
        "balancing": partial(balancing_figure, comparison, part.learnings),
        "calibration": partial(calibration_figure, comparison, part.calibrations),
        "masks": partial(masks_figure, comparison),
        "gradients": partial(agreement_figure, comparison.name, part.agreements),
        "gates": lambda: gates_figure(comparison.name, gatings(comparison)),
    }
    if comparison.scarce_task is not None:  # of many shares of the labels the curve tells more
        return {kind: drawers[kind] for kind in OF_A_SHARE}
    return drawers
