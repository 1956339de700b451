"""What a study has come to: a summary for tables and figures, and the best configuration."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from cvrbench.config.compose import Composed
from cvrbench.config.space import Space
from cvrbench.environment import without_password
from cvrbench.studies import STUDY_VERSION, Direction, StudySummary, TrialSummary
from cvrbench.studies import TrialState as State
from cvrbench.sweep.leases import ATTEMPTS, REASON
from cvrbench.sweep.plan import Plan
from cvrbench.sweep.study import Opened
from cvrbench.sweep.suggest import axes, words_of

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
ENOUGH = 4
"""Complete trials that importances are computed from, at least."""


def summarize(plan: Plan, opened: Opened, chosen: dict[str, Any] | None = None) -> StudySummary:
    """Put together what a study is and what its trials were."""
    study, budget = opened.study, opened.budget
    settings, base = plan.study.settings, plan.study.base
    # Those beyond a limit that was lowered later were tried all the same.
    trials = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
    names: dict[str, Direction] = {"MAXIMIZE": "maximize", "MINIMIZE": "minimize"}
    shown = "journal.log" if settings.storage is None else without_password(settings.storage)
    return StudySummary(
        version=STUDY_VERSION,
        name=plan.name,
        sweep=plan.study.sweep,
        storage=shown,
        model=base.choices["model"],
        dataset=base.choices["dataset"],
        fingerprint=opened.schema.fingerprint,
        overrides=plan.study.words,
        objectives=settings.objectives,
        directions=tuple(names[direction.name] for direction in study.directions),
        sampler=settings.sampler,
        pruner=settings.pruner,
        seeds=settings.seeds,
        axes=axes(plan.study.space),
        limits=budget.limits(),
        spent=budget.spent(trials),
        trials=tuple(_summary(trial, plan.study.space) for trial in trials),
        best=tuple(sorted(t.number for t in _best(study))),
        importances=_importances(study, trials),
        chosen=chosen,
    )


def chosen_words(plan: Plan, study: Study) -> tuple[int, list[str]] | None:
    """Give number and overrides of the configuration that a study chose; None without one.

    Of several objectives it is the member of the Pareto front that is best in the first.
    """
    front = _best(study)
    if not front:
        return None
    best = max(front, key=lambda t: (_sign(study) * t.values[0], -t.number))
    return best.number, words_of(best.params, plan.study.space)


def final_cells(plan: Plan, words: Sequence[str]) -> list[Composed]:
    """Give the runs of the chosen configuration on fresh seeds, which the test split is for."""
    return [plan.study.cell(words, seed, test=True) for seed in plan.study.settings.final_seeds]


def _best(study: Study) -> list[FrozenTrial]:
    """The best trial, the first of equals, or the Pareto front."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    if len(study.directions) > 1:
        return study.best_trials
    return [max(complete, key=lambda t: (_sign(study) * t.values[0], -t.number))]


def _sign(study: Study) -> int:
    """1 where more of the first objective is better, else -1."""
    return 1 if study.directions[0].name == "MAXIMIZE" else -1


def _importances(study: Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much each parameter decides the first objective, where that can be told."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    values = {t.values[0] for t in complete}
    varied = {key for t in complete for key in t.params}
    if len(complete) < ENOUGH or len(values) < 2 or not varied:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # PED-ANOVA asks what makes its target low.
            found = optuna.importance.get_param_importances(
                study, target=lambda t: -_sign(study) * t.values[0]
            )
        except (ValueError, RuntimeError):
            return {}  # no parameter is in all trials
    return {key: float(value) for key, value in found.items()}


def _summary(trial: FrozenTrial, space: Space) -> TrialSummary:
    attrs = trial.user_attrs
    return TrialSummary(
        number=trial.number,
        state=STATES[trial.state],
        params=dict(trial.params),
        words=tuple(words_of(trial.params, space)),
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else None,
        by_seed=tuple(tuple(values) for values in attrs.get("by_seed", [])),
        looks=tuple(sorted(trial.intermediate_values.items())),
        preset=bool(attrs.get("preset", False)),
        runs=tuple(attrs.get("runs", [])),
        examples=int(attrs.get("examples", 0)),
        reused=int(attrs.get("reused", 0)),
        seconds=float(attrs.get("seconds", 0.0)),
        attempts=int(attrs.get(ATTEMPTS, 0)),
        reason=attrs.get(REASON),
    )
