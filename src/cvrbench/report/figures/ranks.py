"""Critical-difference diagrams: mean ranks over datasets (Demsar, JMLR 2006, figure 1)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.comparison import Comparison, Shared, shared_metrics
from cvrbench.report.figures.style import INK, POINT, headline, mark, plain, row_name, styled
from cvrbench.report.studies import cut
from cvrbench.stats.influence import Floats
from cvrbench.stats.ranks import alike, average_ranks, critical_difference, friedman

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
        headline(figure, _words(found[0]))
    return figure


def _words(one: Shared) -> str:
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
    """Draw the ranks, the best on the right, and how far two must be apart."""
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
