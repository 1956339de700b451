"""The comparison of strategies on one dataset."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.comparison import Comparison
from cvrbench.report.figures.style import POINT, TRUTH, heading, headline, row_name, styled


def comparison_figure(comparison: Comparison) -> Figure:
    """AUC of every space: a dot per seed, the mean and its interval per strategy."""
    metrics = comparison.auc_metrics
    labels = [row_name(variant.label) for variant in comparison.variants]
    letters = max(len(line) for label in labels for line in label.split("\n"))
    words_width = max(1.2, 0.08 * letters)  # inches
    with styled():
        figure = Figure(
            figsize=(3.1 * len(metrics) + words_width, 0.36 * len(labels) + 2.0),
            layout="constrained",
        )
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _compare(axis, comparison, metric)
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(len(labels) - 0.5, -0.8)  # first on top, with room for a line of text
        seeds = max(len(variant.runs) for variant in comparison.variants)
        words = "one seed: no interval over seeds"
        if seeds > 1:
            words = f"{seeds} seeds: dots are seeds, bars the mean's 95 % interval"
        headline(figure, f"{comparison.name}, test split, {words}")
    return figure


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
    axis.set_title(heading(comparison.header(metric)))
    axis.grid(axis="x")
    axis.set_axisbelow(True)
    axis.margins(x=0.12)
    axis.locator_params(axis="x", nbins=5)
