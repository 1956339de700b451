"""Sweeps as tables: what was tried, what it cost, and which rows of a comparison it chose."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cvrbench.config.types import Value
from cvrbench.report.comparison import Comparison
from cvrbench.report.tables import Cell, Grid
from cvrbench.runs.study import StudySummary, TrialState, TrialSummary
from cvrbench.stats.difference import t_interval

COSTS = ("density", "multiply_adds", "parameters")
"""Objectives that are no metric of the validation rows."""
ORDER: tuple[TrialState, ...] = ("complete", "running", "waiting", "pruned", "failed")
REASON = 40
"""Letters of a reason that a table shows."""
LINE = 16
"""Letters of a line of that reason."""
BORDER = 0.02
"""Share of a dimension at either end, within which a trial stands at its border."""
MOST_COLUMNS = 2
"""Parameters that fit a column each at 80 columns; more share one, which breaks into lines."""
DASH = Cell("-")


class Tuned(NamedTuple):
    """Which sweep chose a row of a comparison, and what that cost."""

    sweep: str
    trials: int
    examples: int


def trials_grid(summary: StudySummary, limit: int | None = None) -> Grid:
    """Return a row per trial, the best first and those without a value last.

    Args:
        summary: The study.
        limit: Most rows; a preset that is not among them stands below.
    """
    trials = _best_first(summary)
    shown = trials[:limit]
    preset = next((trial for trial in trials[len(shown) :] if trial.preset), None)
    keys = [key for key in _ranked(summary) if any(key in trial.params for trial in trials)]
    names = last_parts(keys)
    columns = [names[key] for key in keys] if len(keys) <= MOST_COLUMNS else ["parameters tried"]
    spread = len(summary.seeds) > 1
    return Grid(
        title=f"{cut(summary.name, 60)}: {len(trials)} trials",
        headers=(
            "trial",
            "state",
            *summary.objectives,
            *columns,
            "examples",
            "seconds",
        ),
        rows=tuple(_row(summary, trial, keys) for trial in shown),
        last=None if preset is None else _row(summary, preset, keys),
        caption=_trials_caption(summary, len(shown), len(trials), spread=spread),
    )


def budgets_grid(summaries: Sequence[StudySummary]) -> Grid:
    """Return a row per study: what it was, what it cost, and what it found."""
    return Grid(
        title="sweeps: what tuning cost",
        headers=(
            "sweep",
            "done/\npruned/\nfailed",
            "epochs",
            "examples",
            "saved\n(%)",
            "best",
            "preset",
        ),
        rows=tuple(map(_budget, summaries)),
        caption=(
            "Spent: by all trials, pruned and failed ones and mask searches included. Saved: "
            "examples of mask searches that a trial took from another, as a share of what it would "
            "have cost without. Best and preset: first objective on validation rows, mean over "
            "tuning seeds; the best of many is flattered, the test rows of the retrained runs "
            f"decide. Searched for: {_together(summaries)}. `cvrbench sweep --best NAME` prints "
            "what was chosen."
        ),
    )


def tuned(comparison: Comparison, summaries: Sequence[StudySummary]) -> dict[str, Tuned | None]:
    """Return, per row of a comparison, the sweep that chose it; None for a preset."""
    found: dict[str, Tuned | None] = {}
    for variant in comparison.variants:
        runs = {run.run_id for run in variant.runs}
        chosen = (s for s in summaries if runs & set((s.chosen or {}).get("runs", ())))
        found[variant.label] = next((_cost(summary) for summary in chosen), None)
    return found


def tuned_words(found: dict[str, Tuned | None]) -> str:
    """Return a sentence: `Tuned: ncs (sweep a, 40 trials, 1,200,000 examples). ...`."""
    told = [
        f"{label} (sweep {one.sweep}, {one.trials} trials, {one.examples:,} examples)"
        for label, one in found.items()
        if one is not None
    ]
    if not told:
        return "No row was chosen by a sweep: all are presets."
    rest = len(found) - len(told)
    others = " All other rows are presets." if rest else ""
    return f"Tuned: {'; '.join(told)}.{others}"


def at_border(summary: StudySummary) -> list[str]:
    """Return the dimensions at whose end the best trial stands: `trainer.learning_rate=0.01`."""
    found = []
    best = [trial for trial in summary.trials if trial.number in summary.best]
    for trial in best if len(best) == 1 else []:
        for key, axis in summary.axes.items():
            value, low, high = trial.params.get(key), axis.low, axis.high
            if low is None or high is None or not isinstance(value, int | float) or low >= high:
                continue
            ends = [math.log(x) if axis.log else x for x in (low, value, high)]
            place = (ends[1] - ends[0]) / (ends[2] - ends[0])
            if not BORDER < place < 1 - BORDER:
                found.append(f"{key}={value_text(value)} of {low:g} to {high:g}")
    return found


def study_json(summary: StudySummary) -> dict[str, Any]:
    """Return what a study cost and found as plain values; its trials are in study.json."""
    best, preset = _best_value(summary), _preset_value(summary)
    states = Counter(trial.state for trial in summary.trials)
    return {
        "name": summary.name,
        "sweep": summary.sweep,
        "model": summary.model,
        "dataset": summary.dataset,
        "fingerprint": summary.fingerprint,
        "objectives": list(summary.objectives),
        "directions": list(summary.directions),
        "seeds": list(summary.seeds),
        "trials": {state: states[state] for state in ORDER},
        "limits": dict(summary.limits),
        "spent": dict(summary.spent),
        "best": list(summary.best),
        "best_value": best,
        "preset_value": preset,
        "importances": dict(summary.importances),
        "chosen": summary.chosen,
    }


def last_parts(keys: Iterable[str]) -> dict[str, str]:
    """Name each key by its last part, or in full where two would be called alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    times = Counter(last.values())
    return {key: name if times[name] == 1 else key for key, name in last.items()}


def value_text(value: Value) -> str:
    """Write a parameter as a config does, numbers short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def objective_text(name: str, value: float | None) -> str:
    """Four decimals, numbers of things whole; a dash where there is no value."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if name in ("multiply_adds", "parameters") else f"{value:.4f}"


def cut(text: str, length: int) -> str:
    """Keep both ends of a long text; a line break becomes a space."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    head = length // 2
    tail = length - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :] if tail else ''}"


def _best_first(summary: StudySummary) -> list[TrialSummary]:
    """The Pareto front first, then others by the first objective, then those without values."""
    sign = -1 if summary.directions[0] == "maximize" else 1
    on_front = set(summary.best) if len(summary.objectives) > 1 else set()

    def rank(trial: TrialSummary) -> tuple[int, bool, float, int]:
        value = sign * trial.values[0] if trial.values is not None else 0.0
        return ORDER.index(trial.state), trial.number not in on_front, value, trial.number

    return sorted(summary.trials, key=rank)


def _row(summary: StudySummary, trial: TrialSummary, keys: Sequence[str]) -> tuple[Cell, ...]:
    best = trial.number in summary.best
    values = [
        Cell(_value(summary, trial, place), strong=best) for place in range(len(summary.objectives))
    ]
    params = [Cell(_param(trial.params[key])) if key in trial.params else DASH for key in keys]
    if len(keys) > MOST_COLUMNS:
        names = last_parts(keys)
        told = [f"{names[key]}={_param(trial.params[key])}" for key in keys if key in trial.params]
        params = [Cell(" ".join(told) or "-")]
    name = f"{trial.number} preset" if trial.preset else str(trial.number)
    costs = Cell(f"{trial.examples:,}"), Cell(f"{trial.seconds:,.0f}")
    return (Cell(name, strong=best), Cell(_state(trial)), *values, *params, *costs)


def _state(trial: TrialSummary) -> str:
    """The state, and the reason of a failure in short lines: `failed: RuntimeError: ...`."""
    if trial.state != "failed" or not trial.reason:
        return trial.state
    # The beginning of a reason says most.
    reason = textwrap.shorten(trial.reason, REASON, placeholder="…") or cut(trial.reason, REASON)
    return "\n".join(textwrap.wrap(f"failed: {reason}", LINE))


def _value(summary: StudySummary, trial: TrialSummary, place: int) -> str:
    """`0.7253 ± 0.0011` in two lines: the mean and, of several seeds, its interval."""
    if trial.values is None:
        return "-"
    name = summary.objectives[place]
    words = objective_text(name, trial.values[place])
    half = t_interval([seed[place] for seed in trial.by_seed] or [0.0]).half_width
    return f"{words}\n± {objective_text(name, half)}" if half else words


def _trials_caption(summary: StudySummary, shown: int, total: int, *, spread: bool) -> str:
    best = "the best trial" if len(summary.objectives) == 1 else "the Pareto front"
    words = [f"Bold: {best}, on validation rows." if summary.best else "No trial is complete."]
    if spread:
        words.append(f"± is the 95 % interval of the mean over {len(summary.seeds)} tuning seeds.")
    if border := at_border(summary):
        words.append(f"The best is at the border of its space: {'; '.join(border)}.")
    words.append("Examples include mask searches, not what another trial had computed.")
    if shown < total:
        words.append(f"The first {shown} of {total} trials.")
    return " ".join(words)


def _budget(summary: StudySummary) -> tuple[Cell, ...]:
    states = Counter(trial.state for trial in summary.trials)
    spent = summary.spent
    examples, reused = spent.get("examples", 0), spent.get("reused", 0)
    name = summary.objectives[0]
    texts = (
        # Lines of one cell: a column each would not fit a terminal beside the numbers.
        "\n".join(
            (
                f"{cut(summary.name, 18)}:",
                f"{cut(summary.model, 16)} on",
                cut(f"{summary.dataset}, {summary.sweep}", 19),
            )
        ),
        "/".join(str(states[state]) for state in ("complete", "pruned", "failed")),
        f"{spent['epochs']:,.1f}" if "epochs" in spent else "-",
        f"{examples:,.0f}",
        f"{100 * reused / (examples + reused):.0f}" if examples + reused else "-",
        objective_text(name, _best_value(summary)),
        objective_text(name, _preset_value(summary)),
    )
    return tuple(map(Cell, texts))


def _together(summaries: Sequence[StudySummary]) -> str:
    """The objectives of all studies, once if they agree."""
    agreed = {summary.objectives for summary in summaries}
    if len(agreed) == 1 and all(summary.chosen is not None for summary in summaries):
        return ", ".join(next(iter(agreed)))
    return "; ".join(map(_searched, summaries))


def _searched(summary: StudySummary) -> str:
    """The objectives of a study, and whether its best was retrained: `cvr_auc (ncs-log)`."""
    state = "" if summary.chosen is not None else ", not retrained yet"
    return f"{', '.join(summary.objectives)} ({cut(summary.name, 60)}{state})"


def _cost(summary: StudySummary) -> Tuned:
    ended = sum(trial.state in ("complete", "pruned", "failed") for trial in summary.trials)
    return Tuned(summary.name, ended, int(summary.spent.get("examples", 0)))


def _best_value(summary: StudySummary) -> float | None:
    values = [t.values[0] for t in summary.trials if t.state == "complete" and t.values is not None]
    better = max if summary.directions[0] == "maximize" else min
    return better(values, default=None)


def _preset_value(summary: StudySummary) -> float | None:
    found = (t.values[0] for t in summary.trials if t.preset and t.values is not None)
    return next(found, None)


def _ranked(summary: StudySummary) -> list[str]:
    """All parameters, the most important first."""
    return sorted(summary.axes, key=lambda key: -summary.importances.get(key, -1.0))


def _param(value: Value) -> str:
    return cut(value_text(value), 24)
