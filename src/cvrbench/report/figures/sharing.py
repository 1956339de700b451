"""What tasks do to each other while they train, and what gates make of it."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.figures.style import (
    FAINT,
    GRID,
    INK,
    LOOKS,
    POINT,
    headline,
    look,
    plain,
    styled,
)
from cvrbench.report.sharing import Agreement, Gating

COLUMNS = 2
"""Of panels; each has its own legend beside it."""
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
