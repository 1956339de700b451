"""Figures of masks: of one run, and of the strategies of a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cvrbench.report.comparison import Comparison
from cvrbench.report.figures.style import (
    FAINT,
    GRID,
    INK,
    UNUSED,
    Look,
    headline,
    look,
    plain,
    save,
    styled,
)
from cvrbench.report.masks import (
    FieldRows,
    Keep,
    Layer,
    Masks,
    kept_of_fields,
    masked_variants,
    name_of,
    overlap_by_round,
)
from cvrbench.stats.difference import t_interval

# One run by layer and round


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
            _round_densities(axes[0, column], told, masks)
            if masks.pairs:
                _round_overlaps(axes[1, column], told, masks)
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


def _round_densities(axis: Axes, told: Mapping[int, Layer], masks: Masks) -> None:
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


def _round_overlaps(axis: Axes, told: Mapping[int, Layer], masks: Masks) -> None:
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


# One run's connections and fields


MOST_FIELDS = 60
"""More bars than these are not read by anybody; the most kept fields are drawn."""
NAMED_FIELDS = 60
"""More names than these do not fit an axis."""


def connections_figure(
    keep: Keep, tasks: Sequence[str], fields: Sequence[FieldRows] | None, title: str
) -> Figure:
    """A picture per layer of the trunk: inputs down, units across, coloured by who keeps it."""
    palette, words = _palette(tasks)
    # A wide layer is drawn wider, and a narrow one is still to be seen.
    widths = [max(mask.shape[2], 24) ** 0.5 for mask in keep.values()]
    named = fields is not None and len(fields) <= NAMED_FIELDS
    height = max(4.2, min(0.16 * len(fields), 9.0)) if fields is not None else 4.2
    with styled():
        figure = Figure(figsize=(3.2 * min(len(widths), 4) + 2.6, height), layout="constrained")
        axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        below = "input"
        for axis, (name, mask) in zip(axes, keep.items(), strict=True):
            # Colours and not codes: where pixels are few, colours may be mixed and codes may not.
            axis.imshow(palette[_codes(mask)], aspect="auto", interpolation="auto")
            axis.set_title(plain(name))
            axis.set_xlabel("unit")
            axis.set_ylabel(below)
            axis.spines[["top", "right"]].set_visible(True)
            below = f"unit of {plain(name)}"
        if fields is not None:
            _mark_fields(axes[0], fields, named=named)
        handles = [
            Patch(facecolor=tuple(color), edgecolor=INK, linewidth=0.5, label=word)
            for color, word in zip(palette, words, strict=True)
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False
        )
        headline(figure, f"{title}: the masks")
    return figure


def fields_figure(
    mask: npt.NDArray[np.bool_], tasks: Sequence[str], fields: Sequence[FieldRows], title: str
) -> Figure:
    """Bars per input field: the share of its connections that each task keeps.

    Args:
        mask: Of the first layer, `[tasks, in, out]`.
        tasks: Their names.
        fields: Which rows of the mask read which field.
        title: Of the figure.
    """
    kept = kept_of_fields(mask, fields)
    order = np.argsort(-kept.mean(axis=0), kind="stable")[:MOST_FIELDS]
    with styled():
        height = (0.06 * len(tasks) + 0.08) * len(order) + 1.5
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axis = figure.subplots()
        thickness = 0.8 / len(tasks)
        for number, task in enumerate(tasks):
            places = np.arange(len(order)) + (number - (len(tasks) - 1) / 2) * thickness
            axis.barh(
                places,
                kept[number, order],
                thickness,
                color=look(number).color,
                hatch=look(number).hatch,
                edgecolor="white",
                linewidth=0.5,
                label=plain(task),
            )
            overall = mask[number].mean()
            axis.axvline(overall, color=look(number).color, linestyle=look(number).line, lw=1)
        names = [plain(fields[index].name) for index in order]
        axis.set_yticks(range(len(order)), names, fontsize=8)
        axis.set_ylim(len(order) - 0.4, -0.6)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        axis.set_xlabel("share of the field's connections that is kept; lines: of all fields'")
        axis.grid(axis="x", color=GRID)
        axis.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=len(tasks), frameon=False)
        words = "the fields that each task reads"
        if len(order) < len(fields):
            words += f", the {len(order)} most kept of {len(fields)}"
        headline(figure, f"{title}: {words}")
    return figure


def _codes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Who keeps each connection, as a row of the palette: `[tasks, in, out]` -> `[in, out]`."""
    weights = np.array([1, 2]) if len(mask) == 2 else np.ones(len(mask))
    codes: npt.NDArray[np.intp] = np.tensordot(weights, mask, axes=1).astype(np.intp)
    return codes


def _palette(tasks: Sequence[str]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Colours `[codes, 3]` and their words; the more tasks keep a connection, the darker."""
    if len(tasks) == 2:
        colors = [UNUSED, look(0).color, look(1).color, INK]
        words = ["none", *(f"only {plain(task)}" for task in tasks), "both"]
        return np.array([to_rgb(color) for color in colors]), words
    ramp = LinearSegmentedColormap.from_list("kept", ["#9cc7e4", "#2f7fb8", INK])
    places = np.linspace(0, 1, len(tasks)) if len(tasks) > 1 else np.array([1.0])
    words = ["none", *(f"{n} task{'s' if n > 1 else ''}" for n in range(1, len(tasks) + 1))]
    return np.array([to_rgb(UNUSED), *(ramp(place)[:3] for place in places)]), words


def _mark_fields(axis: Axes, fields: Sequence[FieldRows], *, named: bool) -> None:
    """Name the fields beside their rows and draw the lines between them."""
    marked = _numbers_as_one(fields)
    for field in marked[1:]:
        axis.axhline(field.start - 0.5, color="white", linewidth=1.2)
        axis.axhline(field.start - 0.5, color=INK, linewidth=0.4)
    if named:
        places = [(field.start + field.stop - 1) / 2 for field in marked]
        axis.set_yticks(places, [plain(field.name) for field in marked], fontsize=7)
        axis.tick_params(axis="y", length=0)
        axis.set_ylabel("")
    else:
        axis.set_ylabel(f"input, {len(fields)} fields")


def _numbers_as_one(fields: Sequence[FieldRows]) -> list[FieldRows]:
    """Put the numbers together, which stand last: names of single rows would overlap."""
    numbers = [field for field in fields if field.stop - field.start == 1]
    if len(numbers) < 2:
        return list(fields)
    words = f"{len(numbers)} numbers"
    first = fields[: len(fields) - len(numbers)]
    return [*first, FieldRows(words, numbers[0].start, numbers[-1].stop)]


def draw_masks(
    masks: Masks, keep: Keep, fields: Sequence[FieldRows] | None, *, title: str, start: Path
) -> Iterator[Path]:
    """Write every figure of one run's masks as PNG and as SVG, and yield the files.

    Args:
        masks: Of the run.
        keep: The masks themselves, the first layer first.
        fields: Which of the first layer's rows read which field, if that is known.
        title: Of every figure.
        start: The files are called `<start>-layers.png` and so on.

    Raises:
        StoreError: The folder is not writable.
    """
    figures = {"layers": layers_figure(masks, title)}
    if any(one.layers for one in masks.rounds):
        figures["rounds"] = rounds_figure(masks, title)
    if keep:
        figures["connections"] = connections_figure(keep, masks.tasks, fields, title)
    if fields is not None:
        figures["fields"] = fields_figure(next(iter(keep.values())), masks.tasks, fields, title)
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            yield save(figure, start.with_name(f"{start.name}-{name}.{ending}"), titles=True)


# Strategies side by side


WIDTH, ROW = 11.0, 1.8
"""Inches: the figure's width, and the height of one variant."""
SPREAD = 0.16
"""Distance of the tasks beside each other at one layer."""


def masks_figure(comparison: Comparison) -> Figure | None:
    """A row per variant: density and overlap by layer, overlap by round; None without masks."""
    variants = masked_variants(comparison)
    if not variants:
        return None
    n_rows = len(variants)
    with styled():
        figure = Figure(figsize=(WIDTH, ROW * n_rows + 0.9), layout="constrained")
        axes = figure.subplots(n_rows, 3, width_ratios=(3, 3, 2), squeeze=False)
        for (density, overlap, rounds), (variant, seeds) in zip(axes, variants, strict=True):
            _densities(density, seeds)
            _overlaps(overlap, seeds)
            _rounds(rounds, seeds)
            words = f"{variant.label}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
            density.set_title(plain(words), weight="bold", fontsize=9)
            density.set_ylabel("density")
            overlap.set_ylabel("overlap")
            for axis in (density, overlap, rounds):
                axis.set_ylim(0, 1.04)
                axis.set_yticks((0, 0.5, 1))
                axis.grid(axis="y", color=GRID)
                axis.set_axisbelow(True)
        axes[-1, 2].set_xlabel("round of the search, all layers")
        for axis in axes[0, :2] if variants[0][1][0].pairs else axes[0, :1]:
            axis.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0), frameon=False, fontsize=7)
        words = f"{comparison.name}: what the masks share; overlap is Jaccard's"
        words += "; dots are seeds, bars and bands the mean's 95 % interval"
        headline(figure, words)
    return figure


def _densities(axis: Axes, seeds: Sequence[Masks]) -> None:
    names = [layer.name for layer in seeds[0].layers]
    tasks = seeds[0].tasks
    for number, task in enumerate(tasks):
        values = [[m.layers[place].density[task] for m in seeds] for place in range(len(names))]
        shift = (number - (len(tasks) - 1) / 2) * SPREAD
        _points(axis, values, shift, look(number), look(number).color, task)
    _layers_axis(axis, names)


def _overlaps(axis: Axes, seeds: Sequence[Masks]) -> None:
    names = [layer.name for layer in seeds[0].layers]
    pairs = seeds[0].pairs
    for number, pair in enumerate(pairs):
        values = [[m.layers[place].overlap[pair] for m in seeds] for place in range(len(names))]
        chance = [[m.layers[place].chance[pair] for m in seeds] for place in range(len(names))]
        shift = (number - (len(pairs) - 1) / 2) * SPREAD
        _points(axis, values, shift, look(number), _color(number, pairs), name_of(pair))
        axis.plot(
            [place + shift for place in range(len(names))],
            [t_interval(one).mean for one in chance],
            "_",
            color=FAINT,
            markersize=9,
            label="by chance" if number + 1 == len(pairs) else "_",
        )
    _layers_axis(axis, names)


def _rounds(axis: Axes, seeds: Sequence[Masks]) -> None:
    n_rounds = 1
    for number, pair in enumerate(seeds[0].pairs):
        estimates = overlap_by_round(seeds, pair)
        places = list(range(1, len(estimates) + 1))
        means = [estimate.mean for estimate in estimates]
        halves = [estimate.half_width or 0.0 for estimate in estimates]
        color, style = _color(number, seeds[0].pairs), look(number)
        low = [mean - half for mean, half in zip(means, halves, strict=True)]
        high = [mean + half for mean, half in zip(means, halves, strict=True)]
        axis.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(
            places,
            means,
            color=color,
            marker=style.marker,
            linestyle=style.line,
            markersize=4,
            linewidth=1.2,
        )
        n_rounds = max(n_rounds, len(estimates))
    axis.set_xlim(0.5, n_rounds + 0.5)
    axis.locator_params(axis="x", integer=True, nbins=8, min_n_ticks=1)


def _points(
    axis: Axes,
    values: Sequence[Sequence[float]],
    shift: float,
    style: Look,
    color: str,
    label: str,
) -> None:
    """Draw one thing at every layer: a dot per seed, the mean and its interval."""
    estimates = [t_interval(one) for one in values]
    places = [place + shift for place in range(len(values))]
    for place, one in zip(places, values, strict=True):
        if len(one) > 1:
            axis.plot([place] * len(one), one, ".", color=color, alpha=0.35, markersize=6)
    axis.errorbar(
        places,
        [estimate.mean for estimate in estimates],
        yerr=[e.half_width or 0.0 for e in estimates] if len(values[0]) > 1 else None,
        fmt=style.marker,
        color=color,
        markersize=4.5,
        capsize=3,
        label=plain(label),
    )


def _color(number: int, pairs: Sequence[tuple[str, str]]) -> str:
    """One pair is no task's colour; of several, each has one."""
    return INK if len(pairs) == 1 else look(number).color


def _layers_axis(axis: Axes, names: Sequence[str]) -> None:
    axis.set_xticks(range(len(names)), [plain(name) for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
