"""What the variants of a masked model share on one dataset, over their seeds."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.comparison import Comparison
from cvrbench.report.figures.style import FAINT, GRID, INK, Look, headline, look, plain, styled
from cvrbench.report.masks import Masks, masked_variants, name_of, overlap_by_round
from cvrbench.stats.intervals import t_interval

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
