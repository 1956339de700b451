"""What the tasks of one run share, layer by layer and round by round."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.figures.style import FAINT, GRID, INK, UNUSED, headline, look, plain, styled
from cvrbench.report.masks import Layer, Masks, name_of

READABLE = 0.055
"""Narrower parts of a bar have no room for their number."""


def layers_figure(masks: Masks, title: str) -> Figure:
    """A bar per layer: what is shared, what is one task's alone, and what nobody uses."""
    layers = masks.layers
    with styled():
        figure = Figure(figsize=(9.0, 0.5 * len(layers) + 1.6), layout="constrained")
        axis = figure.subplots()
        starts = [0.0] * len(layers)
        for label, values, color, hatch in _parts(masks):
            _stack(axis, starts, values, label=label, color=color, hatch=hatch)
            starts = [start + value for start, value in zip(starts, values, strict=True)]
        names = [f"{plain(layer.name)}\n{layer.connections:,}" for layer in layers]
        axis.set_yticks(range(len(layers)), names)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axis.set_xlabel("share of the layer's connections")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower center", ncols=len(masks.tasks) + 2, frameon=False)
        headline(figure, f"{title}: who keeps what")
    return figure


def rounds_figure(masks: Masks, title: str) -> Figure:
    """Density per task above, overlap per pair of tasks below, a column per layer."""
    names = [layer.name for layer in masks.layers]
    n_rows = 2 if masks.pairs else 1
    with styled():
        size = (max(1.9 * len(names), 4.0) + 1.8, 2.0 * n_rows + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(n_rows, len(names), sharex=True, sharey="row", squeeze=False)
        for column, name in enumerate(names):
            found = [(place, one.layer(name)) for place, one in enumerate(masks.rounds, 1)]
            told = {place: layer for place, layer in found if layer is not None}
            axes[0, column].set_title(plain(name))
            _densities(axes[0, column], told, masks)
            if masks.pairs:
                _overlaps(axes[1, column], told, masks)
            _rounds_axis(axes[-1, column], len(masks.rounds))
        axes[0, 0].set_ylabel("density")
        if masks.pairs:
            axes[1, 0].set_ylabel("overlap (Jaccard)")
        for axis in axes[:, -1]:
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        words = f"{title}: masks after each round of the search"
        headline(figure, words)
    return figure


def _parts(masks: Masks) -> list[tuple[str, list[float], str, str]]:
    """Label, value per layer, colour and hatch of what a layer's connections fall into."""
    layers = masks.layers
    words = "shared" if len(masks.tasks) == 2 else "shared by 2 or more"
    parts = [(words, [layer.shared for layer in layers], INK, "")] if masks.pairs else []
    for number, task in enumerate(masks.tasks):
        words = f"only {task}" if masks.pairs else f"kept by {task}"
        values = [layer.private[task] for layer in layers]
        parts.append((plain(words), values, look(number).color, look(number).hatch))
    return [*parts, ("unused", [layer.unused for layer in layers], UNUSED, "")]


def _stack(
    axis: Axes,
    starts: Sequence[float],
    values: Sequence[float],
    *,
    label: str,
    color: str,
    hatch: str,
) -> None:
    places = range(len(values))
    axis.barh(
        places, values, 0.66, starts, label=label, color=color, hatch=hatch, edgecolor="white"
    )
    for place, start, value in zip(places, starts, values, strict=True):
        if value >= READABLE:
            axis.text(
                start + value / 2,
                place,
                f"{100 * value:.1f}",
                color="white" if color == INK else INK,
                ha="center",
                va="center",
                fontsize=8,
                # The hatch would run through the figures.
                bbox={"facecolor": color if not hatch else "white", "lw": 0, "pad": 1.2},
            )


def _densities(axis: Axes, told: Mapping[int, Layer], masks: Masks) -> None:
    for number, task in enumerate(masks.tasks):
        values = [layer.density[task] for layer in told.values()]
        style = look(number)
        # The first task's markers are larger, so that they are seen below the others'.
        axis.plot(
            list(told),
            values,
            color=style.color,
            marker=style.marker,
            linestyle=style.line,
            markersize=7 - 2 * min(number, 2),
            linewidth=1.4,
            label=f"kept by {plain(task)}",
        )
    _share_axis(axis)


def _overlaps(axis: Axes, told: Mapping[int, Layer], masks: Masks) -> None:
    for number, pair in enumerate(masks.pairs):
        style = look(number)
        color = INK if len(masks.pairs) == 1 else style.color
        axis.plot(
            list(told),
            [layer.overlap[pair] for layer in told.values()],
            color=color,
            marker=style.marker,
            markersize=5,
            linewidth=1.4,
            label=plain(name_of(pair)),
        )
        label = "by chance" if number + 1 == len(masks.pairs) else "_"
        chance = [layer.chance[pair] for layer in told.values()]
        axis.plot(list(told), chance, color=FAINT, linestyle=":", linewidth=1.2, label=label)
    _share_axis(axis)


def _share_axis(axis: Axes) -> None:
    axis.set_ylim(0, 1.04)
    axis.grid(axis="y", color=GRID)
    axis.set_axisbelow(True)


def _rounds_axis(axis: Axes, n_rounds: int) -> None:
    axis.set_xlim(0.6, n_rounds + 0.4)
    if n_rounds <= 8:
        axis.set_xticks(range(1, n_rounds + 1))
    else:
        axis.locator_params(axis="x", integer=True)
    axis.set_xlabel("round")
