"""The masks themselves: who keeps each connection, and which input fields each task reads."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cvrbench.report.figures.style import GRID, INK, UNUSED, headline, look, plain, styled
from cvrbench.report.masks import FieldRows, Keep, kept_of_fields

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
