"""How a sweep went: values over what was spent, and the learning curves of its trials."""

from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from cvrbench.report.plots.study.common import (
    BEST,
    COMPLETE,
    FAILED,
    PRESET,
    PRUNED,
    bests,
    canvas,
    complete,
    headline,
    known_entries,
    legend,
    mark_known,
    objective_label,
    objective_ticks,
    quiet_grid,
)
from cvrbench.report.plots.style import FAINT, INK, POINT, TRUTH, styled
from cvrbench.studies import StudySummary, TrialSummary

STRIP = 0.035
"""Height, as a share of the panel, at which trials without a value are marked."""
MANY = 60
"""Learning curves, about, above which each is drawn fainter."""


@styled()
def history_figure(summary: StudySummary) -> Figure | None:
    """Value of every trial over the examples spent so far; None below two values."""
    if len(complete(summary)) < 2:
        return None
    count = len(summary.objectives)
    figure = canvas(7.2, 2.5 * count + 1.1)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    used: set[str] = set()
    for place, axes in enumerate(panels):
        used |= _history(axes, summary, place)
        axes.set_ylabel(objective_label(summary, place))
        objective_ticks(summary, axes, "y", place)
    panels[-1].set_xlabel("examples spent so far, mask searches included")
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    entries = [("complete", COMPLETE), ("best so far", {"color": INK, "linewidth": 1.2})]
    states = {trial.state for trial in summary.trials}
    without = [("pruned", PRUNED), ("failed", FAILED)]
    entries += [(state, mark) for state, mark in without if state in states]
    legend(figure, [*entries, *known_entries(summary, used)])
    words = "value of each trial; those without one are marked at the foot"
    headline(figure, summary, words if {"pruned", "failed"} & states else "value of each trial")
    return figure


def _history(axes: Axes, summary: StudySummary, place: int) -> set[str]:
    """Draw one objective; tell which marks were used."""
    trials = sorted(summary.trials, key=lambda trial: trial.number)
    spent = dict(
        zip(
            (trial.number for trial in trials),
            accumulate(trial.examples for trial in trials),
            strict=True,
        )
    )
    points = [(trial, spent[trial.number], values[place]) for trial, values in complete(summary)]
    x, y = [at for _, at, _ in points], [value for _, _, value in points]
    better = max if summary.directions[place] == "maximize" else min
    last = [max(spent.values())]
    running = list(accumulate(y, better))
    axes.step(x + last, running + running[-1:], where="post", color=INK, linewidth=1.2)
    axes.plot(x, y, **COMPLETE)
    axes.margins(x=0.03, y=0.12)
    for state, mark in (("pruned", PRUNED), ("failed", FAILED)):
        at = [spent[trial.number] for trial in trials if trial.state == state]
        axes.plot(at, [STRIP] * len(at), transform=axes.get_xaxis_transform(), **mark)
    quiet_grid(axes, "y")
    return mark_known(axes, summary, points)


@styled()
def curves_figure(summary: StudySummary) -> Figure | None:
    """First objective of every trial over its training; None where no trial was looked at twice."""
    trials = [trial for trial in summary.trials if trial.looks]
    if len(trials) < 2 or max(len({step for step, _ in trial.looks}) for trial in trials) < 2:
        return None
    figure = canvas(7.2, 4.0)
    axes = figure.subplots()
    best = bests(summary)
    for trial in trials:
        _curve(
            axes,
            trial,
            is_best=trial.number in best,
            alpha=min(0.9, max(0.08, MANY / 2 / len(trials))),
        )
    quiet_grid(axes, "y")
    axes.set_xlabel("step of the pruning clock")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel(objective_label(summary))
    objective_ticks(summary, axes, "y", 0)
    entries = [("complete", {"color": FAINT, "linewidth": 1.0})]
    if any(trial.state == "pruned" for trial in trials):
        entries.append(("pruned", {**PRUNED, "linestyle": ":", "linewidth": 1.0}))
    name = "best" if len(summary.objectives) == 1 else "Pareto front"
    entries.append((name, {"color": POINT, "linewidth": 2.0}))
    if any(trial.preset for trial in trials):
        entries.append(("preset", {"color": TRUTH, "linewidth": 1.6, "linestyle": "--"}))
    legend(figure, entries)
    headline(figure, summary, "first objective at every look at validation")
    return figure


def _curve(axes: Axes, trial: TrialSummary, *, is_best: bool, alpha: float) -> None:
    steps, values = zip(*trial.looks, strict=True)
    pruned = trial.state == "pruned"
    color, width, order, line = FAINT, 0.8, 2.0, ":" if pruned else "-"
    if is_best:
        color, width, order = POINT, 2.0, 4.0
    elif trial.preset:
        color, width, order, line = TRUTH, 1.6, 3.0, "--"
    alpha = alpha if order == 2.0 else 0.9
    axes.plot(steps, values, line, color=color, linewidth=width, alpha=alpha, zorder=order)
    if pruned:
        axes.plot(steps[-1:], values[-1:], **PRUNED, zorder=order)
    if is_best:
        axes.plot(steps[-1:], values[-1:], **BEST)
    if trial.preset:
        axes.plot(steps[-1:], values[-1:], **PRESET)
