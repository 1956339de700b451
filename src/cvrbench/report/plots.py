"""Figures from records and prepared data; the only module that imports matplotlib."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.data.describe import Description
from cvrbench.files import explain_write
from cvrbench.report.frames import Comparison

INK, GRID, POINT, TRUTH = "#1f2933", "#d9dee4", "#2563a8", "#c2410c"
LINEAR_RANGE = 20
"""Label rates further apart than this are drawn on a logarithmic axis."""
STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
}


def comparison_figure(comparison: Comparison) -> Figure:
    """AUC of every space: a dot per seed, the mean and its interval per strategy."""
    metrics = comparison.auc_metrics
    labels = [variant.label for variant in comparison.variants]
    with mpl.rc_context(rc=STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = Figure(
            figsize=(3.1 * len(metrics) + 1.2, 0.36 * len(labels) + 2.0), layout="constrained"
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
        figure.suptitle(
            f"{comparison.dataset}, test split, {words}",
            x=0.01,
            ha="left",
            fontsize=10,
        )
    return figure


def description_figure(description: Description) -> Figure:
    """Label rates per space and split, and how often the ids of each field occur."""
    with mpl.rc_context(rc=STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        rates, ids = figure.subplots(1, 2)
        _label_rates(rates, description)
        _id_counts(ids, description)
        figure.suptitle(f"{description.name}: labels and ids", x=0.01, ha="left", fontsize=10)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG.

    Raises:
        StoreError: The folder is not writable.
    """
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": "cvrbench"})
    return path


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
    axis.set_title(comparison.header(metric))
    axis.grid(axis="x")
    axis.set_axisbelow(True)
    axis.margins(x=0.12)
    axis.locator_params(axis="x", nbins=5)


def _label_rates(axis: Axes, description: Description) -> None:
    spaces = list(description.rates["train"])
    width = 0.26
    for position, (split, tint) in enumerate(zip(description.rates, (1.0, 0.6, 0.3), strict=True)):
        values = [description.rates[split][space] for space in spaces]
        places = [index + (position - 1) * width for index in range(len(spaces))]
        bars = axis.bar(places, values, width * 0.92, color=POINT, alpha=tint, label=split)
        if position == 1:
            axis.bar_label(bars, [f"{value:.2%}" for value in values], fontsize=7, padding=2)
    axis.set_xticks(range(len(spaces)), spaces)
    shares = [rate for split in description.rates.values() for rate in split.values()]
    if max(shares) > LINEAR_RANGE * min(shares):
        axis.set_yscale("log")  # else the rare label's bars would not be seen
    axis.set_ylabel("share of positives")
    axis.set_title("label rate by space")
    axis.margins(y=0.15)
    axis.legend(frameon=False)


def _id_counts(axis: Axes, description: Description) -> None:
    largest = sorted(description.id_counts.items(), key=lambda item: -len(item[1]))[:6]
    for name, values in largest:
        axis.plot(
            range(1, len(values) + 1), values, linewidth=1.4, label=f"{name} ({len(values):,})"
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("rank of the id")
    axis.set_ylabel("training rows")
    axis.set_title("ids by frequency, the largest fields")
    axis.grid()
    axis.legend(frameon=False, fontsize=7)
