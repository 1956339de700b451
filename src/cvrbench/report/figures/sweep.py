"""Figures of one sweep, drawn from its `study.json`.

Slices, contour, parallel coordinates and Pareto fronts are Optuna's own, of a study that is rebuilt
in memory. Optuna knows neither what a trial cost nor which trial was the preset, so the history,
the learning curves, the importances (in `study.json`) and the density of masks are drawn here.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, combinations
from typing import Any, TypeGuard

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial
from optuna.visualization import matplotlib as by_optuna

from cvrbench.config.types import Value
from cvrbench.report.figures.style import FAINT, INK, POINT, STYLE, TRUTH, headline, plain
from cvrbench.report.studies import COSTS, cut, last_parts, value_text
from cvrbench.runs.study import StudySummary, TrialSummary

DENSITIES = ("model.density", "model.search.density")
"""Keys of a space that are the density of masks."""
MOST_GROUPS = 8
"""Points of the line through the trials of the density figure."""
MOST_PANELS, COLUMNS = 24, 4
MOST_COORDINATES = 12
LETTERS = 24
"""Letters of all categories below a panel from which on they are turned."""
ENOUGH = 10
"""Different points from which on a contour between them is drawn."""
RC = {
    **STYLE,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "figure.constrained_layout.use": True,
    "grid.linewidth": 0.6,
}
MARKS: dict[str, dict[str, Any]] = {
    "pruned": {"marker": "x", "color": INK, "ms": 5, "ls": ""},
    "failed": {"marker": "v", "mfc": "none", "mec": TRUTH, "ms": 5, "ls": ""},
    "best": {"marker": "*", "mfc": "#fff", "mec": INK, "ms": 12, "ls": "", "zorder": 5},
    "preset": {"marker": "D", "mfc": "none", "mec": TRUTH, "ms": 8, "ls": "", "zorder": 6},
}

Point = tuple[TrialSummary, float, float]
"""A trial and its place on two axes."""


def study_figures(summary: StudySummary) -> dict[str, Figure]:
    """Return every figure that the sweep has enough trials for, by name, in reading order."""
    with _optuna_in_our_style():
        figures = {
            "history": _history(summary),
            "curves": _curves(summary),
            "importances": _importances(summary),
            "slices": _slices(summary),
            "contour": _contour(summary),
            "parallel": _parallel(summary),
            **_fronts(summary),
            "density": _density(summary),
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def complete(summary: StudySummary) -> list[tuple[TrialSummary, tuple[float, ...]]]:
    """Return the trials that have values, with these, in the order in which they began."""
    trials = sorted(summary.trials, key=lambda trial: trial.number)
    return [(t, t.values) for t in trials if t.state == "complete" and t.values is not None]


def _values(summary: StudySummary) -> set[float]:
    return {values[0] for _, values in complete(summary)}


@contextmanager
def _optuna_in_our_style() -> Iterator[None]:
    """Draw Optuna's figures in the style of all others, without its warnings, logs and windows."""
    library: dict[str, Any] = mpl.style.library
    theirs, verbosity = library["ggplot"], optuna.logging.get_verbosity()
    library["ggplot"] = STYLE  # the style that Optuna asks for by name
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with mpl.rc_context(RC), warnings.catch_warnings():  # type: ignore[arg-type]  # as in style
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Attempting to set identical")
            pyplot.switch_backend("agg")
            yield
    finally:
        library["ggplot"] = theirs
        optuna.logging.set_verbosity(verbosity)


# Drawn here


def _history(summary: StudySummary) -> Figure | None:
    """Return the value of every trial over the examples spent until it ended."""
    trials = sorted(summary.trials, key=lambda trial: trial.number)
    if len(complete(summary)) < 2:
        return None
    costs = list(accumulate(trial.examples for trial in trials))
    spent = {trial.number: cost for trial, cost in zip(trials, costs, strict=True)}
    count = len(summary.objectives)
    figure = Figure(figsize=(7.2, 2.5 * count + 1.1))
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for place, axes in enumerate(panels):
        points = [(trial, spent[trial.number], v[place]) for trial, v in complete(summary)]
        _, x, y = zip(*points, strict=True)
        best = list(accumulate(y, max if summary.directions[place] == "maximize" else min))
        axes.step([*x, costs[-1]], [*best, best[-1]], where="post", color=INK, lw=1.2)
        axes.plot(x, y, "o", color=POINT, ms=4)
        axes.margins(y=0.12)
        for state in ("pruned", "failed"):
            at = [spent[trial.number] for trial in trials if trial.state == state]
            axes.plot(at, [0.035] * len(at), transform=axes.get_xaxis_transform(), **MARKS[state])
        _mark(axes, summary, points)
        _name(axes.yaxis, summary, place)
    panels[-1].set_xlabel("examples spent so far, mask searches included")
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    lost = [s for s in ("pruned", "failed") if any(trial.state == s for trial in trials)]
    words = "value of each trial, and the best so far"
    return _finished(figure, summary, words + ("; at the foot: no value" if lost else ""), lost)


def _curves(summary: StudySummary) -> Figure | None:
    """Return validation over the training of every trial; None if no trial has two evaluations."""
    trials = [trial for trial in summary.trials if trial.looks]
    if len(trials) < 2 or max(len(trial.looks) for trial in trials) < 2:
        return None
    figure = Figure(figsize=(7.2, 4.0))
    axes = figure.subplots()
    for trial in trials:
        steps, values = zip(*trial.looks, strict=True)
        line: dict[str, Any] = {"color": FAINT, "lw": 0.9, "alpha": min(0.9, 8 / len(trials) + 0.1)}
        if trial.preset:
            line = {"color": TRUTH, "lw": 1.6, "ls": "--"}
        if trial.number in summary.best:
            line = {"color": POINT, "lw": 2.0}
        axes.plot(steps, values, **line)
        if trial.state == "pruned":
            axes.plot(steps[-1:], values[-1:], **MARKS["pruned"])
    _mark(axes, summary, [(trial, *trial.looks[-1]) for trial in trials])
    axes.set_xlabel("step of the pruning clock")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _name(axes.yaxis, summary)
    pruned = [s for s in ("pruned",) if any(trial.state == s for trial in trials)]
    return _finished(figure, summary, "first objective at every evaluation", pruned)


def _importances(summary: StudySummary) -> Figure | None:
    """Return a bar per parameter, the longest on top; None where importances are unknown."""
    shown = sorted(summary.importances.items(), key=lambda pair: pair[1])[-20:]
    if not shown:
        return None
    names = _names(summary.importances)
    figure = Figure(figsize=(6.0, 0.27 * len(shown) + 1.3))
    axes = figure.subplots()
    bars = axes.barh([names[key] for key, _ in shown], [value for _, value in shown], color=POINT)
    axes.bar_label(bars, fmt="%.2f", padding=4, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel(f"importance (PED-ANOVA) for {_label(summary.objectives[0])}")
    return _finished(figure, summary, "what sets good trials apart", marks=False)


def _density(summary: StudySummary) -> Figure | None:
    """Return an objective over the density of masks; None if density was neither axis nor aim."""
    place = next((n for n, name in enumerate(summary.objectives) if name != "density"), None)
    points = [] if place is None else list(_densities(summary, place))
    if place is None or len({x for _, x, _ in points}) < 2:
        return None
    points.sort(key=lambda point: point[1:])
    figure = Figure(figsize=(6.6, 4.2))
    axes = figure.subplots()
    axis = next((summary.axes[key] for key in DENSITIES if key in summary.axes), None)
    if axis is not None and axis.log:
        axes.set_xscale("log")
    for trial, x, _ in points:
        seeds = [values[place] for values in trial.by_seed if len(values) > place]
        axes.plot([x] * len(seeds), seeds, ".", color=FAINT, alpha=0.5, ms=4)
    places = np.array([point[1:] for point in points])
    axes.plot(*places.T, "o", color=POINT, ms=5)
    groups = np.array_split(places, min(MOST_GROUPS, len(places)))
    axes.plot(*np.array([group.mean(axis=0) for group in groups]).T, color=INK, lw=1.4)
    _mark(axes, summary, points)
    axes.set_xlabel("density" if axis is None else "density (most that a task keeps)")
    _name(axes.yaxis, summary, place)
    words = f"line: means of {len(groups)} groups of neighbours; small dots: tuning seeds"
    return _finished(figure, summary, words)


def _densities(summary: StudySummary, place: int) -> Iterator[Point]:
    """Yield complete trials with their density, as it was asked for or else measured."""
    for trial, values in complete(summary):
        density: object = None
        if asked := [trial.params.get(key) for key in DENSITIES if key in summary.axes]:
            density = asked[0]
        elif "density" in summary.objectives:
            density = values[summary.objectives.index("density")]
        if _is_number(density):
            yield trial, density, values[place]


# Drawn by Optuna


def _slices(summary: StudySummary) -> Figure | None:
    """Return the first objective over each parameter, the most important first."""
    keys, names = parameters(summary)[:MOST_PANELS], _names(summary.axes)
    if len(complete(summary)) < 2 or not keys:
        return None
    drawn = by_optuna.plot_slice(_rebuilt(summary), [names[key] for key in keys])
    figure, panels = _taken(drawn)
    by_name = {axes.get_xlabel(): axes for axes in panels}
    # Optuna draws one row, sorted by name.
    rows, columns = -(-len(keys) // COLUMNS), min(COLUMNS, len(keys))
    figure.set_size_inches(max(2.5 * columns + 1.0, 5.0), 2.5 * rows + 0.9)
    grid = figure.add_gridspec(rows, columns)
    for number, key in enumerate(keys):
        axes = by_name[names[key]]
        axes.set_subplotspec(grid[divmod(number, columns)])
        axes.tick_params(axis="y", labelleft=number % columns == 0)
        _name(axes.yaxis, summary)
        axes.yaxis.label.set_visible(number % columns == 0)
        _slice(axes, summary, key)
    total = len(parameters(summary))
    rest = "" if total == len(keys) else f"; {len(keys)} of {total} parameters"
    return _finished(figure, summary, f"a dot per trial, later ones darker{rest}")


def _slice(axes: Axes, summary: StudySummary, key: str) -> None:
    """Show all of a parameter's space, so that a best trial at its edge is seen to be there."""
    there = [(trial, values[0]) for trial, values in complete(summary) if key in trial.params]
    axis, domain = summary.axes[key], _domain(summary, key)
    if isinstance(domain, CategoricalDistribution):
        tried = {_word(trial.params[key]) for trial, _ in there}
        words = [word for word in domain.choices if word in tried]
        axes.set_xlim(-0.5, len(words) - 0.5)
        _mark(axes, summary, [(t, words.index(_word(t.params[key])), y) for t, y in there])
        axes.set_xticks(range(len(words)), map(str, words))
        if sum(map(len, map(str, words))) > LETTERS:
            axes.tick_params(axis="x", rotation=30)
        return
    ends = np.array([domain.low, domain.high])
    span = np.log(ends) if axis.log else ends
    if domain.low < domain.high:
        span = span + 0.06 * (span[1] - span[0]) * np.array([-1, 1])
        axes.set_xlim(*(np.exp(span) if axis.log else span))
    if axis.kind == "int" and not axis.log:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    numbers = [(t, t.params[key], y) for t, y in there]
    _mark(axes, summary, [(t, x, y) for t, x, y in numbers if _is_number(x)])


def _contour(summary: StudySummary) -> Figure | None:
    """Return the first objective over the two most important numbers, if trials are enough."""
    names = _names(summary.axes)
    keys = [key for key in parameters(summary) if summary.axes[key].kind != "choice"][:2]
    keys.sort(key=names.__getitem__)  # as Optuna does
    if len(keys) < 2:
        return None
    points = [
        (trial, x, y)
        for trial, _ in complete(summary)
        if _is_number(x := trial.params.get(keys[0])) and _is_number(y := trial.params.get(keys[1]))
    ]
    different = ({x for _, x, _ in points}, {y for _, _, y in points}, _values(summary))
    if len(points) < ENOUGH or min(map(len, different)) < 2:
        return None
    drawn = by_optuna.plot_contour(
        _rebuilt(summary), [names[key] for key in keys], target_name=_objective(summary)
    )
    figure, (axes,) = _taken(drawn)
    figure.set_size_inches(6.2, 4.6)
    _mark(axes, summary, points)
    words = "the other parameters differ, too; colours run evenly between trials"
    return _finished(figure, summary, words)


def _parallel(summary: StudySummary) -> Figure | None:
    """Return a line per trial through all its values, the better the darker."""
    keys, names = parameters(summary)[:MOST_COORDINATES], _names(summary.axes)
    if len(complete(summary)) < 2 or not keys:
        return None
    drawn = by_optuna.plot_parallel_coordinate(
        _rebuilt(summary), [names[key] for key in keys], target_name=_objective(summary)
    )
    figure, _ = _taken(drawn)
    for axes in figure.axes:
        axes.grid(visible=False)
        axes.spines["right"].set_visible(True)  # the line of each coordinate
    figure.set_size_inches(max(6.0, 1.2 * len(keys) + 2.4), 4.4)
    return _finished(figure, summary, "a line per trial, the better the darker", marks=False)


def _fronts(summary: StudySummary) -> dict[str, Figure]:
    """Return the Pareto front of every two objectives: `front`, `front-2`, ..."""
    found: dict[str, Figure] = {}
    pairs = combinations(range(len(summary.objectives)), 2)
    for number, (up, across) in enumerate(pairs if len(complete(summary)) > 1 else (), 1):
        drawn = by_optuna.plot_pareto_front(_rebuilt(summary, (across, up)))
        figure, (axes,) = _taken(drawn)
        figure.set_size_inches(6.2, 4.6)
        for trial, values in complete(summary):
            if trial.preset:
                axes.plot([values[across]], [values[up]], **MARKS["preset"], label="Preset")
        _name(axes.xaxis, summary, across)
        _name(axes.yaxis, summary, up)
        axes.legend(frameon=False, fontsize=8)
        name = "front" if number == 1 else f"front-{number}"
        found[name] = _finished(figure, summary, "Pareto front of two objectives", marks=False)
    return found


def _rebuilt(summary: StudySummary, places: Sequence[int] = (0,)) -> optuna.Study:
    """Return the trials as a study of some objectives, under names that are fit to be drawn."""
    study = optuna.create_study(directions=[summary.directions[place] for place in places])
    names = _names(summary.axes)
    domains = {key: _domain(summary, key) for key in parameters(summary)}
    for trial, values in complete(summary):
        params: dict[str, Value] = {}
        for key, domain in domains.items():
            if key not in trial.params:
                continue
            if isinstance(domain, CategoricalDistribution):
                params[names[key]] = _word(trial.params[key])
            elif _is_number(trial.params[key]):
                params[names[key]] = trial.params[key]
        study.add_trial(
            create_trial(
                values=[values[place] for place in places],
                params=params,
                distributions={names[k]: d for k, d in domains.items() if names[k] in params},
            )
        )
    return study


def _domain(summary: StudySummary, key: str) -> CategoricalDistribution | FloatDistribution:
    """Return a parameter's space, widened to what was tried: the preset may lie outside of it."""
    axis = summary.axes[key]
    tried = [trial.params[key] for trial, _ in complete(summary) if key in trial.params]
    if axis.kind == "choice":
        return CategoricalDistribution(tuple(dict.fromkeys(map(_word, (*axis.choices, *tried)))))
    ends = [float(end) for end in (axis.low, axis.high, *tried) if _is_number(end)]
    return FloatDistribution(min(ends), max(ends), log=axis.log)


def _taken(drawn: object) -> tuple[Figure, list[Axes]]:
    """Return what Optuna drew, without Optuna's title, and make pyplot forget it."""
    panels: list[Axes] = list(np.ravel(np.array(drawn, dtype=object)))
    figure = panels[0].figure
    assert isinstance(figure, Figure)
    pyplot.close(figure)
    for axes in panels:
        axes.set_title("")
    return figure, panels


# Names and marks


def parameters(summary: StudySummary) -> list[str]:
    """Return the keys that a complete trial has, the most important first."""
    there = {key for trial, _ in complete(summary) for key in trial.params}
    keys = [key for key in summary.axes if key in there]
    return sorted(keys, key=lambda key: -summary.importances.get(key, -1.0))


def _names(keys: Iterable[str]) -> dict[str, str]:
    """Return a short name for each key, no two alike."""
    names = {key: _label(name) for key, name in last_parts(keys).items()}
    times = Counter(names.values())
    return {k: n if times[n] == 1 else f"{n} ({i})" for i, (k, n) in enumerate(names.items())}


def _label(text: str) -> str:
    return plain(cut(text, 28))


def _word(value: Value) -> str:
    return plain(cut(value_text(value), 18))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _objective(summary: StudySummary, place: int = 0) -> str:
    """Return an objective's name, where it is measured, and its direction if that is down."""
    name = summary.objectives[place]
    words = _label(name) if name in COSTS else f"validation {_label(name)}"
    return f"{words}\n(less is better)" if summary.directions[place] == "minimize" else words


def _name(axis: Axis, summary: StudySummary, place: int = 0) -> None:
    """Label an axis with its objective; numbers of things are counted in thousands."""
    axis.set_label_text(_objective(summary, place))
    if summary.objectives[place] in ("multiply_adds", "parameters"):
        axis.set_major_formatter(EngFormatter(sep=""))


def _mark(axes: Axes, summary: StudySummary, points: Iterable[Point]) -> None:
    """Mark the best trials and the preset where they are."""
    for trial, x, y in points:
        if trial.number in summary.best:
            axes.plot([x], [y], **MARKS["best"])
        if trial.preset:
            axes.plot([x], [y], **MARKS["preset"])


def _finished(
    figure: Figure,
    summary: StudySummary,
    words: str,
    states: Sequence[str] = (),
    *,
    marks: bool = True,
) -> Figure:
    """Add the title and the legend of marks."""
    known = ["best"] if summary.best else []
    known += ["preset"] if any(trial.preset for trial in summary.trials) else []
    several = "Pareto front" if len(summary.objectives) > 1 else "best"
    shown = [*states, *known] if marks else []
    handles = [
        Line2D([], [], **MARKS[name], label=several if name == "best" else name) for name in shown
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=8
        )
    headline(figure, f"{cut(summary.name, 60)}: {words}")
    return figure
