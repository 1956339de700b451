"""What density costs: the first objective of every trial over the share of connections kept."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.report.plots.study.common import (
    canvas,
    complete,
    dot_size,
    headline,
    known_entries,
    legend,
    mark_known,
    objective_label,
    objective_ticks,
    quiet_grid,
)
from cvrbench.report.plots.study.scales import Scale, scale_of
from cvrbench.report.plots.style import FAINT, INK, POINT, styled
from cvrbench.studies import StudySummary, TrialSummary

KEY = "model.density"
MOST_GROUPS = 8


@dataclass(frozen=True)
class Group:
    """Trials of about the same density."""

    density: float
    """Their mean."""
    trials: int
    by_seed: tuple[float, ...]
    """Mean over the trials, of every seed that all of them have."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.by_seed))


@dataclass(frozen=True)
class Sparse:
    """A trial that has a density."""

    trial: TrialSummary
    density: float
    value: float
    by_seed: tuple[float, ...]


@styled()
def density_figure(summary: StudySummary) -> Figure | None:
    """Value over density, a dot per tuning seed; None where density was neither axis nor aim."""
    place = next((n for n, name in enumerate(summary.objectives) if name != "density"), None)
    if place is None or (KEY not in summary.axes and "density" not in summary.objectives):
        return None
    found = sparse_trials(summary, place)
    if len({one.density for one in found}) < 2:
        return None
    figure = canvas(6.6, 4.2)
    axes = figure.subplots()
    _scale(summary, found).dress(axes, "x")
    axes.set_xlabel("density (most that a task keeps)" if KEY in summary.axes else "density")
    seeds = max(len(one.by_seed) for one in found)
    groups = grouped(found)
    _draw(axes, found, groups, seeds)
    used = mark_known(axes, summary, [(one.trial, one.density, one.value) for one in found])
    quiet_grid(axes)
    axes.set_ylabel(objective_label(summary, place))
    objective_ticks(summary, axes, "y", place)
    dot = {"marker": "o", "linestyle": "none", "markersize": 5}
    entries = [("trial", {**dot, "color": POINT, "markeredgecolor": INK})]
    if seeds > 1:
        entries.append(("one of its seeds", {"marker": ".", "color": FAINT, "linestyle": "none"}))
    entries.append(("mean", {"color": INK, "linewidth": 1.4}))
    legend(figure, [*entries, *known_entries(summary, used)])
    headline(figure, summary, _words(groups, seeds))
    return figure


def _scale(summary: StudySummary, found: list[Sparse]) -> Scale:
    """Densities are numbers even where the space lists a few of them."""
    if KEY in summary.axes and summary.axes[KEY].kind != "choice":
        return scale_of(summary, KEY)
    return Scale(found[0].density, found[-1].density)


def sparse_trials(summary: StudySummary, place: int) -> list[Sparse]:
    """Complete trials that have a density, the sparsest first."""
    found = []
    for trial, values in complete(summary):
        density: object = trial.params.get(KEY)
        if KEY not in summary.axes:
            density = values[summary.objectives.index("density")]
        if isinstance(density, int | float) and not isinstance(density, bool):
            by_seed = tuple(seed[place] for seed in trial.by_seed if len(seed) > place)
            found.append(Sparse(trial, float(density), values[place], by_seed or (values[place],)))
    return sorted(found, key=lambda one: (one.density, one.trial.number))


def grouped(found: list[Sparse]) -> list[Group]:
    """Put trials of a density together, or as many neighbours each where nearly all differ."""
    densities = sorted({one.density for one in found})
    if len(densities) <= MOST_GROUPS:
        parts = [[one for one in found if one.density == density] for density in densities]
    else:
        edges = np.linspace(0, len(densities), MOST_GROUPS + 1).round().astype(int)
        number = {d: int(np.searchsorted(edges, n, "right")) for n, d in enumerate(densities)}
        parts = [[one for one in found if number[one.density] == n] for n in range(1, len(edges))]
    groups = []
    for part in parts:
        seeds = min(len(one.by_seed) for one in part)
        means = np.mean([one.by_seed[:seeds] for one in part], axis=0)
        middle = float(np.mean([one.density for one in part]))
        groups.append(Group(middle, len(part), tuple(map(float, means))))
    return groups


def _draw(axes: Axes, found: list[Sparse], groups: list[Group], seeds: int) -> None:
    size = dot_size(len(found))
    if seeds > 1:
        x = [one.density for one in found for _ in one.by_seed]
        y = [value for one in found for value in one.by_seed]
        axes.plot(x, y, ".", color=FAINT, alpha=0.5, markersize=4, zorder=2)
    middles = [group.density for group in groups]
    if seeds > 1 and len(groups) > 1:
        lows, highs = ([edge(g.by_seed) for g in groups] for edge in (min, max))
        axes.fill_between(middles, lows, highs, color=INK, alpha=0.15, linewidth=0, zorder=1)
    axes.plot(middles, [g.mean for g in groups], color=INK, linewidth=1.4, zorder=2.5)
    axes.scatter(
        [one.density for one in found],
        [one.value for one in found],
        s=size,
        color=POINT,
        edgecolors=INK,
        linewidths=0.4,
        zorder=3,
    )


def _words(groups: list[Group], seeds: int) -> str:
    """Say what line and band are; they promise no more than what was tried."""
    fewest, most = min(g.trials for g in groups), max(g.trials for g in groups)
    each = f"{most}" if fewest == most else f"{fewest} to {most}"
    line = "line: the trials' values"
    if most > 1:
        line = f"line: mean of {each} neighbouring trials, whose other parameters differ"
    band = f"; band: lowest to highest mean of {seeds} tuning seeds" if seeds > 1 else ""
    return f"value over density; {line}{band}"
