"""How the strategies learn: validation over the last training."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.comparison import Comparison
from cvrbench.report.figures.panels import Line, draw_lines, line_key, quiet_grid, rows_of
from cvrbench.report.figures.style import heading, headline, look, styled
from cvrbench.report.sharing import Learning


def learning_figure(comparison: Comparison, found: Sequence[Learning]) -> Figure | None:
    """Validation AUC over epochs: a column per task, a row of panels per few strategies."""
    metrics = [f"{task.name}_auc" for task in comparison.tasks]
    metrics = [metric for metric in metrics if any(metric in one.curves for one in found)]
    if not metrics:
        return None
    by_label = {one.label: one for one in found}
    labels = [v.label for v in comparison.variants if v.label in by_label]
    rows = rows_of(len(labels))
    with styled():
        figure = Figure(
            figsize=(3.6 * len(metrics) + 2.4, 2.6 * len(rows) + 0.7), layout="constrained"
        )
        axes = figure.subplots(len(rows), len(metrics), sharex=True, sharey="col", squeeze=False)
        for column, metric in enumerate(metrics):
            curves = [by_label[label] for label in labels]
            for axis, shown in zip(axes[:, column], rows, strict=True):
                _learn(axis, curves, metric, shown)
            axes[0, column].set_title(heading(comparison.header(metric)))
            axes[-1, column].set_xlabel("epoch of the last training")
        for axis, shown in zip(axes[:, -1], rows, strict=True):
            line_key(axis, labels, shown)
        headline(figure, _words(comparison, found))
    return figure


def _learn(axis: Axes, found: Sequence[Learning], metric: str, shown: range) -> None:
    curves = [one.curves.get(metric) for one in found]
    lines = [None if c is None else Line(c.epochs, c.mean, c.low, c.high) for c in curves]
    draw_lines(axis, lines, shown, dots=False)
    for number in shown:
        style, best = look(number), found[number].best.get(metric, ())
        axis.plot(
            [epoch for epoch, _ in best],
            [value for _, value in best],
            style.marker,
            color=style.color,
            markeredgecolor="white",
            markeredgewidth=0.5,
            markersize=5.5,
            zorder=4,
        )
    quiet_grid(axis)
    axis.locator_params(nbins=5)


def _words(comparison: Comparison, found: Sequence[Learning]) -> str:
    words = f"{comparison.name}, validation split over the last training; marks: the step that "
    words += "validation chose"
    if max(one.seeds for one in found) > 1:
        words += ", per seed; lines: means of the seeds, as far as all got, bands: their range"
    return words
