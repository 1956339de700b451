"""What parameters do together: the two most important over each other, and all side by side."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from cvrbench.report.plots.study.common import (
    BEST,
    EDGE,
    PRESET,
    bests,
    broken,
    canvas,
    complete,
    dot_size,
    headline,
    known_entries,
    legend,
    mark_known,
    objective_label,
    parameters,
    quiet_grid,
    short,
    value_colors,
)
from cvrbench.report.plots.study.scales import Scale, scale_of
from cvrbench.report.plots.style import FAINT, INK, TRUTH, styled
from cvrbench.report.studies import objective_text
from cvrbench.studies import StudySummary, TrialSummary

ENOUGH = 10
"""Different points from which on colours are drawn between them."""
MOST_AXES = 12
ABSENT = -0.09
"""Height at which a line passes a parameter that its trial does not have."""

Points = npt.NDArray[np.float64]


class Dot(NamedTuple):
    """A trial over two numbers."""

    trial: TrialSummary
    x: float
    y: float
    value: float


@styled()
def contour_figure(summary: StudySummary) -> Figure | None:
    """First objective over the two most important numbers; None where there are not two."""
    keys = [key for key in parameters(summary) if not scale_of(summary, key).categories][:2]
    dots = _dots(summary, keys) if len(keys) == 2 else []
    if len(dots) < 2:
        return None
    values = [dot.value for dot in dots]
    low, high, colors, pale = value_colors(summary, values)
    shades = Normalize(low, high)
    figure = canvas(6.2, 4.6)
    axes = figure.subplots()
    across, up = (scale_of(summary, key) for key in keys)
    across.dress(axes, "x")
    up.dress(axes, "y")
    found = _between(dots, across, up)
    if found is not None:
        levels = np.linspace(low, high, 11)
        axes.tricontourf(*found, levels=levels, cmap=pale, zorder=1)
    axes.scatter(
        [dot.x for dot in dots],
        [dot.y for dot in dots],
        c=values,
        cmap=colors,
        norm=shades,
        s=1.4 * dot_size(len(dots)),
        zorder=3,
        **EDGE,
    )
    across.room(axes, "x")
    up.room(axes, "y")
    names = short(summary.axes, 32)
    axes.set(xlabel=names[keys[0]], ylabel=names[keys[1]])
    quiet_grid(axes)
    figure.colorbar(ScalarMappable(shades, colors), ax=axes, label=objective_label(summary))
    used = mark_known(axes, summary, [dot[:3] for dot in dots])
    legend(figure, known_entries(summary, used))
    words = "one dot per complete trial; the other parameters differ, too"
    headline(figure, summary, words + ("; colours run evenly between dots" if found else ""))
    return figure


def _dots(summary: StudySummary, keys: list[str]) -> list[Dot]:
    """Complete trials that have both parameters."""
    across, up = (scale_of(summary, key) for key in keys)
    return [
        Dot(trial, x, y, values[0])
        for trial, values in complete(summary)
        if (x := across.place(trial.params.get(keys[0]))) is not None
        and (y := up.place(trial.params.get(keys[1]))) is not None
    ]


def _between(dots: list[Dot], across: Scale, up: Scale) -> tuple[Triangulation, Points] | None:
    """Triangles between trials, as the eye sees the axes, and the values at their corners."""
    at: dict[tuple[float, float], list[float]] = {}
    for dot in dots:
        at.setdefault((dot.x, dot.y), []).append(dot.value)
    values = np.array([float(np.mean(one)) for one in at.values()])
    seen = np.array([(across.share(x), up.share(y)) for x, y in at], dtype=float)
    # Points on a line, or nearly, have no triangles between them.
    flat = np.linalg.svd(seen - seen.mean(axis=0), compute_uv=False).min() < 1e-3
    if len(at) < ENOUGH or flat or np.ptp(values) == 0:
        return None
    triangles = Triangulation(seen[:, 0], seen[:, 1]).triangles
    x, y = np.array(list(at)).T
    return Triangulation(x, y, triangles), values


@styled()
def parallel_figure(summary: StudySummary) -> Figure | None:
    """A line per complete trial through all its values; None below two trials."""
    trials = complete(summary)
    keys = parameters(summary)
    if len(trials) < 2 or not keys:
        return None
    shown = keys[:MOST_AXES]
    others = list(range(1, len(summary.objectives)))
    count = len(shown) + len(others) + 1
    figure = canvas(max(1.25 * count + 1.2, 5.5), 4.6)
    axes = figure.subplots()
    low, high, colors, _ = value_colors(summary, [values[0] for _, values in trials])
    shades = Normalize(low, high)
    scales = [scale_of(summary, key) for key in shown]
    ends = [_objective_scale(summary, place) for place in (*others, 0)]
    _lines(axes, summary, shown, scales, ends, ScalarMappable(shades, colors))
    words = [broken(name, 14) for key, name in short(summary.axes, 36).items() if key in shown]
    by_key = dict(zip([key for key in summary.axes if key in shown], words, strict=True))
    objectives = [broken(objective_label(summary, place), 14) for place in (*others, 0)]
    _uprights(axes, [*scales, *ends], [*(by_key[key] for key in shown), *objectives])
    if any(key not in trial.params for trial, _ in trials for key in shown):
        axes.text(-0.1, ABSENT, "absent", ha="right", va="center", size=7, color=FAINT)
    thick = {"color": INK, "linestyle": "-", "linewidth": 2.0}
    entries = [("Pareto front", thick) if others else ("best", {**BEST, **thick})]
    if any(trial.preset for trial, _ in trials):
        entries.append(("preset", {**PRESET, "color": TRUTH, "linestyle": "--", "linewidth": 2.0}))
    legend(figure, entries)
    ranking = ", the most important parameter first" if summary.importances else ""
    cut_off = f"; {len(shown)} of {len(keys)} parameters" if len(shown) < len(keys) else ""
    headline(
        figure, summary, f"one line per complete trial, the better the darker{ranking}{cut_off}"
    )
    return figure


def _lines(
    axes: Axes,
    summary: StudySummary,
    keys: list[str],
    scales: list[Scale],
    ends: list[Scale],
    shades: ScalarMappable,
) -> None:
    trials = complete(summary)
    sign = 1 if summary.directions[0] == "maximize" else -1
    best = bests(summary)
    others = list(range(1, len(summary.objectives)))
    for order, (trial, values) in enumerate(sorted(trials, key=lambda one: sign * one[1][0])):
        shares = [
            scale.share(trial.params[key]) if key in trial.params else None
            for key, scale in zip(keys, scales, strict=True)
        ]
        shares += [end.share(values[place]) for end, place in zip(ends, (*others, 0), strict=True)]
        heights = [ABSENT if share is None else share for share in shares]
        is_best = trial.number in best
        axes.plot(
            range(len(heights)),
            heights,
            color=TRUTH if trial.preset else shades.to_rgba(values[0]),  # type: ignore[arg-type]  # one value, one colour
            linestyle="--" if trial.preset else "-",
            linewidth=2.2 if is_best or trial.preset else 1.0,
            alpha=0.95 if is_best or len(trials) <= 100 else 0.5,
            zorder=3 + order / len(trials) + is_best,
            label="best" if is_best else f"_{trial.number}",
        )
        # Stars on all of a front would hide what they mark.
        for mark, wanted in ((BEST, is_best and not others), (PRESET, trial.preset)):
            if wanted:
                axes.plot(range(len(heights)), heights, **{**mark, "markersize": 7})


def _objective_scale(summary: StudySummary, place: int) -> Scale:
    values = [one[place] for _, one in complete(summary)]
    return Scale(min(values), max(values))


def _uprights(axes: Axes, scales: list[Scale], names: list[str]) -> None:
    """Draw every axis with its ticks; its name stands above."""
    for place, scale in enumerate(scales):
        axes.axvline(place, color=INK, linewidth=0.8, zorder=2)
        # On an axis without extent all lines pass the middle.
        ticks = scale.ticks() if scale.low < scale.high or scale.categories else []
        for value, words in ticks or [(scale.low, objective_text("", scale.low))]:
            height = _share(scale, value)
            axes.annotate(
                words,
                (place, height),
                (-3, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                size=7,
                bbox={"facecolor": "#ffffff", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
                zorder=7,
            )
            axes.plot([place - 0.02, place], [height] * 2, color=INK, linewidth=0.8, zorder=2)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.75, len(scales) - 0.85)
    axes.set_ylim(ABSENT - 0.05, 1.04)


def _share(scale: Scale, place: float) -> float:
    """Height of a tick; of categories the number of the category."""
    if not scale.categories:
        return scale.share(place) or 0.0
    return 0.5 if len(scale.categories) == 1 else place / (len(scale.categories) - 1)
