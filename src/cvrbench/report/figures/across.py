"""Figures of several comparisons together: ranks over datasets, and scarce labels."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cvrbench.metrics.evaluation import ranking_metric
from cvrbench.report.comparison import Comparison, Shared, Variant, file_name, shared_metrics
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.differences import REFERENCE, Differences
from cvrbench.report.figures.comparison import Drawer
from cvrbench.report.figures.style import (
    INK,
    POINT,
    Line,
    draw_lines,
    heading,
    headline,
    line_key,
    mark,
    plain,
    quiet_grid,
    row_name,
    rows_of,
    styled,
)
from cvrbench.report.studies import cut
from cvrbench.stats.difference import Estimate
from cvrbench.stats.influence import Floats
from cvrbench.stats.ranks import alike, average_ranks, critical_difference, friedman

# Ranks: critical-difference diagrams (Demsar, JMLR 2006, figure 1)


NAME, BAR = 0.22, 0.09
"""Inches down the page for a name, and for a bar of strategies that are not told apart."""
ABOVE = 0.45
"""Inches over the scale, for its numbers and the critical difference."""
FEW = 5
"""Datasets below which hardly any difference of ranks can be shown."""


def ranks_figure(comparisons: Sequence[Comparison]) -> Figure | None:
    """A diagram per metric that the datasets have in common; None of fewer than two datasets."""
    found = shared_metrics(comparisons)
    if not found:
        return None
    critical = [critical_difference(len(one.labels), len(one.datasets)) for one in found]
    ranks = [average_ranks(one.values) for one in found]
    groups = [alike(of, limit) for of, limit in zip(ranks, critical, strict=True)]
    depths = [
        BAR * len(bars) + NAME * (-(-len(one.labels) // 2) + 1)
        for one, bars in zip(found, groups, strict=True)
    ]
    with styled():
        heights = [depth + ABOVE + 0.35 for depth in depths]
        figure = Figure(figsize=(8.5, sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
        for number, axis in enumerate(axes):
            axis.set_ylim(-depths[number], ABOVE)
            _scale(axis, len(found[number].labels), critical[number])
            _names(axis, found[number].labels, ranks[number], below=BAR * len(groups[number]))
            _bars(axis, ranks[number], groups[number])
            axis.set_title(_title(found[number], comparisons), fontsize=9)
        headline(figure, _ranks_words(found[0]))
    return figure


def _ranks_words(one: Shared) -> str:
    n = len(one.datasets)
    words = (
        f"mean ranks over {n} datasets ({', '.join(one.datasets)}), the best on the right; bars "
    )
    words += "join what is not told apart"
    if n < FEW:
        words += f"; {n} datasets can prove little: read this as a description"
    return words


def _title(one: Shared, comparisons: Sequence[Comparison]) -> str:
    there = (c.header(one.metric) for c in comparisons if one.metric in c.auc_metrics)
    name = cut(next(there, one.metric), 50)
    return plain(f"{name}, Friedman's p = {friedman(one.values).p:.2g}")


def _scale(axis: Axes, n: int, critical: float) -> None:
    """Draw the axis of ranks, the best on the right, and the critical difference."""
    axis.set_xlim(n, 1)
    axis.spines[:].set_visible(False)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.plot([1, n], [0, 0], color=INK, linewidth=1, clip_on=False)
    for rank in range(1, n + 1):
        axis.plot([rank, rank], [0, 0.05], color=INK, linewidth=1, clip_on=False)
        axis.text(rank, 0.07, str(rank), ha="center", va="bottom", fontsize=8)
    if critical < n - 1:
        axis.plot([n, n - critical], [0.3, 0.3], "|-", color=INK, linewidth=1, clip_on=False)
        words = f"critical difference {critical:.2f}"
    else:
        words = f"the critical difference, {critical:.2f}, is longer than the scale"
    axis.text(n, 0.36, words, ha="left", va="bottom", fontsize=8)


def _names(axis: Axes, labels: Sequence[str], ranks: Floats, *, below: float) -> None:
    """Lead a line from every rank to a name: the better half to the right, the rest to the left."""
    order = np.argsort(ranks, kind="stable")
    right = order[: len(order) // 2]
    left = order[::-1][: len(order) - len(right)]
    for side, x, align in ((right, 1.0, "left"), (left, float(len(order)), "right")):
        for place, number in enumerate(side):
            y = -below - NAME * (place + 1)
            rank, style = ranks[number], mark(int(number))
            axis.plot([rank, rank, x], [0, y, y], color=INK, linewidth=0.7, clip_on=False)
            axis.plot(
                rank,
                0,
                style.shape,
                color=style.color,
                markerfacecolor=style.face,
                markersize=5,
                clip_on=False,
                zorder=4,
            )
            axis.annotate(
                f"{row_name(labels[number], 24)} ({rank:.2f})",
                (x, y),
                xytext=(4 if align == "left" else -4, 0),
                textcoords="offset points",
                ha=align,
                va="center",
                fontsize=8,
            )


def _bars(axis: Axes, ranks: Floats, groups: Sequence[Sequence[int]]) -> None:
    for place, group in enumerate(groups):
        ends = [ranks[group[0]] - 0.04, ranks[group[-1]] + 0.04]
        y = -BAR * (place + 1)
        axis.plot(ends, [y, y], color=POINT, linewidth=3.5, solid_capstyle="butt", clip_on=False)


# Scarce labels: AUC over the share of them to learn from


Points = Mapping[float, Estimate]
"""Share of the labels -> mean over seeds and its interval."""


def scarcity_figure(
    comparisons: Sequence[Comparison], gains: Sequence[Differences | None]
) -> Figure | None:
    """AUC of the scarce task over its share of labels, and its gain over the tasks alone.

    Args:
        comparisons: Of one dataset's test rows, each trained with another share of the labels.
        gains: The differences of each to `REFERENCE`, where they are known.

    Returns:
        None where there are fewer than two shares, or no task is scarce.
    """
    by_share = {one.label_share: one for one in sorted(comparisons, key=lambda c: c.label_share)}
    task = next((one.scarce_task for one in comparisons if one.scarce_task is not None), None)
    if task is None or len(by_share) < 2:
        return None
    metric = ranking_metric(task, comparisons[0].tasks)
    labels = list(dict.fromkeys(v.label for one in by_share.values() for v in one.variants))
    values = [_values(by_share, label, metric) for label in labels]
    known = {c.label_share: one for c, one in zip(comparisons, gains, strict=True)}
    over_alone = [_gains(dict(sorted(known.items())), label, metric) for label in labels]
    has_gains = any(over_alone)
    rows = rows_of(len(labels))
    n_columns = 2 if has_gains else 1
    with styled():
        figure = Figure(
            figsize=(4.0 * n_columns + 2.4, 3.0 * len(rows) + 0.7), layout="constrained"
        )
        axes = figure.subplots(len(rows), n_columns, sharex=True, sharey="col", squeeze=False)
        for row, shown in zip(axes, rows, strict=True):
            _draw(row[0], values, shown, list(by_share))
            if has_gains:
                row[1].axhline(0, color=INK, linewidth=0.8)
                _draw(row[1], over_alone, shown, list(by_share))
            line_key(row[-1], labels, shown)
        axes[0, 0].set_title(heading(comparisons[0].header(metric)))
        if has_gains:
            axes[0, 1].set_title(f"gain over {REFERENCE}")
        for axis in axes[-1]:
            axis.set_xlabel(heading(f"labels of {task} to learn from"))
        headline(figure, _scarcity_words(comparisons, task, has_gains=has_gains))
    return figure


def _scarcity_words(comparisons: Sequence[Comparison], task: str, *, has_gains: bool) -> str:
    words = f"{comparisons[0].dataset}, test split: fewer labels of {task} to learn from"
    if max(len(v.runs) for one in comparisons for v in one.variants) < 2:
        return f"{words}; one seed: no interval"
    words += "; bands: 95 % intervals over seeds"
    return words + (", on the right over test rows too" if has_gains else "")


def _draw(axis: Axes, found: Sequence[Points], shown: range, shares: Sequence[float]) -> None:
    draw_lines(axis, [_line(points) for points in found], shown, dots=True)
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(shares, [f"{100 * share:.3g} %" for share in shares])
    quiet_grid(axis)
    axis.locator_params(axis="y", nbins=6)


def _line(points: Points) -> Line | None:
    if not points:
        return None
    means = [one.mean for one in points.values()]
    halves = [one.half_width or 0.0 for one in points.values()]
    low = [mean - half for mean, half in zip(means, halves, strict=True)]
    high = [mean + half for mean, half in zip(means, halves, strict=True)]
    return Line(list(points), means, low, high)


def _values(by_share: Mapping[float, Comparison], label: str, metric: str) -> Points:
    found = {}
    for share, comparison in by_share.items():
        variant = _variant(comparison, label)
        estimate = None if variant is None else variant.estimate(metric)
        if estimate is not None:
            found[share] = estimate
    return found


def _gains(by_share: Mapping[float, Differences | None], label: str, metric: str) -> Points:
    found = {}
    for share, gains in by_share.items():
        verdict = None if gains is None else gains.of(metric, label)
        if verdict is not None:
            one = verdict.difference
            found[share] = Estimate(one.mean, one.half_width, one.seeds)
    return found


def _variant(comparison: Comparison, label: str) -> Variant | None:
    return next((one for one in comparison.variants if one.label == label), None)


# All of them, in reading order


class Across(NamedTuple):
    """A figure of several comparisons."""

    kind: str
    """Key of its caption."""
    name: str
    """Name of its file, as safe as the dataset's name is."""
    draw: Drawer


def across_figures(parts: Sequence[DatasetReport]) -> list[Across]:
    """Return the drawers of all figures of several comparisons, in reading order."""
    comparisons = [part.comparison for part in parts]
    figures = [Across("ranks", "ranks", partial(ranks_figure, comparisons))]
    for (dataset, fingerprint, task), same in _scarce(parts).items():
        gains = [None if part.transfer is None else part.transfer.gains for part in same]
        draw = partial(scarcity_figure, [part.comparison for part in same], gains)
        name = file_name(f"scarcity-{dataset}-{fingerprint[:6]}-{task}")
        figures.append(Across("scarcity", name, draw))
    return figures


def _scarce(parts: Sequence[DatasetReport]) -> dict[tuple[str, str, str], list[DatasetReport]]:
    """Group reports by dataset and scarce task, the one with all labels in each group."""
    found: dict[tuple[str, str, str], list[DatasetReport]] = {}
    for part in parts:
        one = part.comparison
        if one.scarce_task is not None:
            found.setdefault((one.dataset, one.fingerprint, one.scarce_task), []).append(part)
    for part in parts:
        one = part.comparison
        if one.scarce_task is None:
            for (dataset, fingerprint, _), same in found.items():
                if (dataset, fingerprint) == (one.dataset, one.fingerprint):
                    same.append(part)
    return found
