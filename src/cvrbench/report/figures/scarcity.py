"""What sharing is worth where labels are scarce: AUC over the share of them to learn from."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cvrbench.report.comparison import Comparison, Variant
from cvrbench.report.differences import REFERENCE, Differences
from cvrbench.report.figures.panels import Line, draw_lines, line_key, quiet_grid, rows_of
from cvrbench.report.figures.style import INK, heading, headline, styled
from cvrbench.stats.intervals import Estimate

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
    metric = f"{task}_auc"
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
        headline(figure, _words(comparisons, task, has_gains=has_gains))
    return figure


def _words(comparisons: Sequence[Comparison], task: str, *, has_gains: bool) -> str:
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
