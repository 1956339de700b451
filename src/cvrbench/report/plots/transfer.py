"""What sharing is worth to every task."""

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.frames import Comparison
from cvrbench.report.plots.style import GRID, INK, POINT, STYLE, plain
from cvrbench.report.transfer import REFERENCE, Transfer


def transfer_figure(comparison: Comparison, found: Transfer) -> Figure:
    """Gain over the tasks alone: a dot and its interval per strategy, a panel per space."""
    metrics = comparison.auc_metrics
    labels = [v.label for v in comparison.variants if v.label != REFERENCE]
    with mpl.rc_context(rc=STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = Figure(
            figsize=(3.1 * len(metrics) + 1.2, 0.36 * len(labels) + 1.8), layout="constrained"
        )
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _gains(axis, found, metric, labels)
            axis.set_title(plain(comparison.header(metric)))
        axes[0].set_yticks(range(len(labels)), [plain(label) for label in labels])
        axes[0].set_ylim(len(labels) - 0.5, -0.5)  # first on top
        words = f"{comparison.dataset}, test split: gain over {REFERENCE}, 95 % intervals"
        words += "; filled: adjusted p below 0.05"
        figure.suptitle(plain(words), x=0.01, ha="left", fontsize=10)
    return figure


def _gains(axis: Axes, found: Transfer, metric: str, labels: list[str]) -> None:
    axis.axvline(0, color=INK, linewidth=0.8)
    for row, label in enumerate(labels):
        verdict = found.gains.of(metric, label)
        if verdict is None:
            continue
        axis.errorbar(
            verdict.difference.mean,
            row,
            xerr=verdict.difference.half_width,
            fmt="o",
            color=POINT,
            markerfacecolor=POINT if verdict.is_real else "white",
            markersize=5,
            capsize=3,
        )
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    axis.margins(x=0.12)
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(axis="x", labelsize=8)
