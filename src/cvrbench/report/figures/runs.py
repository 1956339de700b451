"""Figures of what happened within runs, and of prepared data."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.data.registry import Description
from cvrbench.metrics.evaluation import ranking_metric
from cvrbench.report.comparison import Comparison
from cvrbench.report.diagnostics import (
    CONFLICTS,
    WEIGHT,
    Agreement,
    Calibration,
    Gating,
    Learning,
)
from cvrbench.report.figures.style import (
    FAINT,
    GRID,
    INK,
    LOOKS,
    POINT,
    Line,
    draw_lines,
    heading,
    headline,
    line_key,
    log_ticks,
    look,
    plain,
    quiet_grid,
    rows_of,
    styled,
)
from cvrbench.report.studies import cut
from cvrbench.stats.influence import Floats

# Learning


def learning_figure(comparison: Comparison, found: Sequence[Learning]) -> Figure | None:
    """Validation AUC over epochs: a column per task, a row of panels per few strategies."""
    names = (ranking_metric(task.name, comparison.tasks) for task in comparison.tasks)
    metrics = {name: heading(comparison.header(name)) for name in names}
    return _over_epochs(comparison, found, metrics, "validation split over the last training")


def balancing_figure(comparison: Comparison, found: Sequence[Learning]) -> Figure | None:
    """Weights that balancing gave the tasks over epochs, and the share of steps in conflict."""
    weights = {f"{WEIGHT}{task.name}": f"{WEIGHT}{task.name}" for task in comparison.tasks}
    titles = {**weights, CONFLICTS: "share of steps with gradients in conflict"}
    return _over_epochs(comparison, found, titles, "means since the last evaluation")


def _over_epochs(
    comparison: Comparison, found: Sequence[Learning], titles: Mapping[str, str], what: str
) -> Figure | None:
    """Curves of the last training, a column per metric that any strategy has."""
    metrics = [metric for metric in titles if any(metric in one.curves for one in found)]
    by_label = {one.label: one for one in found if not one.curves.keys().isdisjoint(metrics)}
    labels = [v.label for v in comparison.variants if v.label in by_label]
    if not metrics:
        return None
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
            axes[0, column].set_title(titles[metric])
            axes[-1, column].set_xlabel("epoch of the last training")
        for axis, shown in zip(axes[:, -1], rows, strict=True):
            line_key(axis, labels, shown)
        words = f"{comparison.name}, {what}; marks: the step that validation chose"
        if max(one.seeds for one in found) > 1:
            words += ", per seed; lines: means of the seeds, as far as all got, bands: their range"
        headline(figure, words)
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


# Calibration


def calibration_figure(comparison: Comparison, found: Sequence[Calibration]) -> Figure | None:
    """Observed over predicted rate: a column per space, a row of panels per few strategies.

    Below each panel is the histogram of the predictions. None where no space has positives.
    """
    if not found:
        return None
    labels = [v.label for v in comparison.variants if v.label in found[0].variants]
    rows = rows_of(len(labels))
    with styled():
        figure = Figure(
            figsize=(3.0 * len(found) + 2.4, 3.7 * len(rows) + 0.7), layout="constrained"
        )
        axes = figure.subplots(
            2 * len(rows),
            len(found),
            sharex="col",
            height_ratios=(4, 1) * len(rows),
            squeeze=False,
        )
        for column, one in enumerate(found):
            for number, shown in enumerate(rows):
                above, below = axes[2 * number : 2 * number + 2, column]
                _reliability(above, one, labels, shown)
                _histogram(below, one, labels, shown)
            space = re.sub(" X?AUC ", " ", comparison.header(one.metric))
            axes[0, column].set_title(heading(space))
            axes[-1, column].set_xlabel("predicted rate")
        for number, shown in enumerate(rows):
            axes[2 * number, 0].set_ylabel("observed rate")
            line_key(axes[2 * number, -1], labels, shown)
        words = f"{comparison.name}, test split: observed over predicted rate, in bins of "
        words += "equally many rows; below: where the predictions lie"
        if max(len(variant.runs) for variant in comparison.variants) > 1:
            words += "; lines: means of the seeds, bands: their range"
        headline(figure, words)
    return figure


def _reliability(axis: Axes, one: Calibration, labels: Sequence[str], shown: range) -> None:
    curves = [one.variants[label] for label in labels]
    every = np.concatenate([rates for c in curves for rates in (c.predicted, c.observed)])
    low, high = _log_limits(every, one.rate) if one.is_rare else _limits(every)
    # A logarithmic axis has no zero: bins without positives lie on its edge.
    bounded = [
        Line(
            *(
                np.clip(rates, low, high).tolist()
                for rates in (c.predicted, c.observed, c.low, c.high)
            )
        )
        for c in curves
    ]
    axis.plot((low, high), (low, high), color=INK, linewidth=0.8, zorder=2)
    draw_lines(axis, bounded, shown, dots=True)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    quiet_grid(axis)
    if one.is_rare:
        axis.set_xscale("log")
        axis.set_yscale("log")
        for one_axis in (axis.xaxis, axis.yaxis):
            log_ticks(one_axis)
            one_axis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axis.locator_params(nbins=5)


def _limits(rates: Floats) -> tuple[float, float]:
    """Return common limits of both axes, a little beyond all rates."""
    room = 0.05 * max(float(np.ptp(rates)), 0.02)
    return float(rates.min()) - room, float(rates.max()) + room


def _log_limits(rates: Floats, rate: float) -> tuple[float, float]:
    """Return common limits of logarithmic axes, which cut off rates far below the base rate."""
    there = rates[rates > 1e-4 * rate]
    return float(there.min()) / 1.5, min(1.0, float(there.max()) * 1.5)


def _histogram(axis: Axes, one: Calibration, labels: Sequence[str], shown: range) -> None:
    low, high = axis.get_xlim()
    seen = (one.edges[1:] > low) & (one.edges[:-1] < high)
    for number in shown:
        style = look(number)
        axis.stairs(
            one.variants[labels[number]].mass,
            one.edges,
            color=style.color,
            linestyle=style.line,
            linewidth=0.8,
            alpha=0.8,
        )
    axis.set_yticks([])
    # What is beyond the rates above would make all else look flat.
    most = max(float(one.variants[labels[number]].mass[seen].max()) for number in shown)
    axis.set_ylim(0, 1.05 * most or 1)
    axis.spines["left"].set_visible(False)
    axis.tick_params(labelsize=8)


# Gradients and gates


COLUMNS = 2
"""Columns of panels; each panel has its own legend beside it."""
READABLE = 0.08
"""Narrower parts of a bar have no room for a name."""


def agreement_figure(dataset: str, agreements: Sequence[Agreement]) -> Figure | None:
    """Cosine of the tasks' gradients over training, a panel per strategy and pair of tasks."""
    if not agreements:
        return None
    n_rows = -(-len(agreements) // COLUMNS)
    n_columns = min(COLUMNS, len(agreements))
    several = len({agreement.pair for agreement in agreements}) > 1
    with styled():
        figure = Figure(figsize=(5.6 * n_columns, 2.3 * n_rows + 0.6), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
        for axis, agreement in zip(axes, agreements, strict=False):
            _curves(axis, agreement)
            pair = f", {agreement.pair}" if several else ""
            axis.set_title(plain(f"{agreement.label}{pair}"), weight="bold", fontsize=9)
        for axis in axes[len(agreements) :]:
            axis.set_axis_off()
        for axis in axes[max(0, len(agreements) - n_columns) : len(agreements)]:
            axis.set_xlabel("epoch")
        pairs = "" if several else f", {agreements[0].pair}"
        seeds = max(agreement.seeds for agreement in agreements)
        words = f"{dataset}: cosine of the tasks' gradients{pairs}; below 0 they conflict"
        words += f"; lines: mean of {seeds} seeds, bands: their range" if seeds > 1 else ""
        headline(figure, words)
    return figure


def gates_figure(dataset: str, gatings: Sequence[Gating]) -> Figure | None:
    """Expert load and entropy of every gate, a row of panels per strategy."""
    if not gatings:
        return None
    sizes = [len(gating.gates) for gating in gatings]
    with styled():
        height = sum(0.34 * size + 0.55 for size in sizes) + 0.9
        figure = Figure(figsize=(9.5, height), layout="constrained")
        rows = figure.subplots(
            len(gatings),
            2,
            width_ratios=(3, 2),
            height_ratios=[size + 0.5 for size in sizes],
            squeeze=False,
        )
        for (load, entropy), gating in zip(rows, gatings, strict=True):
            _loads(load, gating)
            _entropies(entropy, gating)
            load.set_title(plain(gating.label), weight="bold", fontsize=9)
        rows[-1, 0].set_xlabel("mean weight of each expert, first seed")
        rows[-1, 1].set_xlabel("entropy: 1 mixes all alike, 0 takes one")
        seeds = max(len(found) for gating in gatings for found in gating.entropies)
        words = f"{dataset}: what the gates do"
        words += f"; dots: {seeds} seeds, bars: their mean" if seeds > 1 else ""
        headline(figure, words)
    return figure


def _curves(axis: Axes, agreement: Agreement) -> None:
    axis.axhline(0, color=INK, linewidth=0.8)
    for number, (layer, curve) in enumerate(agreement.layers.items()):
        style = look(number)
        axis.fill_between(
            curve.epochs, curve.low, curve.high, color=style.color, alpha=0.10, linewidth=0
        )
        axis.plot(
            curve.epochs,
            curve.mean,
            color=style.color,
            linestyle=style.line,
            marker=style.marker,
            markersize=3.5,
            # The looks repeat; then hollow markers tell the layers apart.
            markerfacecolor=style.color if number < len(LOOKS) else "white",
            linewidth=1.3,
            label=plain(layer),
        )
    if agreement.noise is not None:
        noise = agreement.noise
        label = "noise: a task with\nitself, other rows"
        axis.plot(noise.epochs, noise.mean, color=FAINT, linewidth=2.5, alpha=0.6, label=label)
    axis.grid(axis="y", color=GRID)
    axis.set_axisbelow(True)
    axis.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=7,
        handlelength=3,
    )


def _loads(axis: Axes, gating: Gating) -> None:
    experts = list(dict.fromkeys(name for gate in gating.gates for name in gate["experts"]))
    for place, gate in enumerate(gating.gates):
        start = 0.0
        for name, share in zip(gate["experts"], gate["load"], strict=True):
            style = look(experts.index(name))
            axis.barh(
                place,
                share,
                0.7,
                start,
                color=style.color,
                hatch=style.hatch,
                edgecolor="white",
            )
            if share >= READABLE:
                axis.text(
                    start + share / 2,
                    place,
                    plain(name),
                    color=INK,
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    # The hatch would run through the letters.
                    bbox={"facecolor": "white", "lw": 0, "pad": 1.0},
                )
            start += share
    several = len({gate["level"] for gate in gating.gates}) > 1
    names = [
        f"level {gate['level']}, {gate['gate']}" if several else str(gate["gate"])
        for gate in gating.gates
    ]
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    axis.set_xlim(0, 1)
    _gates_axis(axis, len(names))


def _entropies(axis: Axes, gating: Gating) -> None:
    for place, values in enumerate(gating.entropies):
        axis.barh(place, sum(values) / len(values), 0.7, color=POINT, alpha=0.45)
        axis.plot(values, [place] * len(values), "o", color=INK, markersize=3, alpha=0.7)
    axis.set_yticks([])
    axis.set_xlim(0, 1.02)
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    _gates_axis(axis, len(gating.entropies))


def _gates_axis(axis: Axes, n_gates: int) -> None:
    axis.set_ylim(n_gates - 0.5, -0.5)  # first on top
    axis.tick_params(axis="y", length=0)


LINEAR_RANGE = 20
"""Label rates further apart than this are drawn on a logarithmic axis."""


def description_figure(description: Description) -> Figure:
    """Label rates per space and split, and how often the ids of each field occur."""
    with styled():
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        rates, ids = figure.subplots(1, 2)
        _label_rates(rates, description)
        _id_counts(ids, description)
        headline(figure, f"{description.name}: labels and ids")
    return figure


def _label_rates(axis: Axes, description: Description) -> None:
    spaces = list(description.rates["train"])
    width = 0.26
    for position, (split, tint) in enumerate(zip(description.rates, (1.0, 0.6, 0.3), strict=True)):
        values = [description.rates[split][space] for space in spaces]
        places = [index + (position - 1) * width for index in range(len(spaces))]
        bars = axis.bar(places, values, width * 0.92, color=POINT, alpha=tint, label=split)
        if position == 1:
            axis.bar_label(bars, [f"{value:.2%}" for value in values], fontsize=7, padding=2)
    axis.set_xticks(range(len(spaces)), [plain(space) for space in spaces])
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
        # matplotlib leaves names with a leading underscore out of its legends.
        label = f" {plain(cut(name, 40))} ({len(values):,})"
        axis.plot(range(1, len(values) + 1), values, linewidth=1.4, label=label)
    if any(len(values) for _, values in largest):  # all ids may be too rare to be known
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_xlabel("rank of the id")
    axis.set_ylabel("training rows")
    axis.set_title("ids by frequency, the largest fields")
    axis.grid()
    axis.legend(frameon=False, fontsize=7)
