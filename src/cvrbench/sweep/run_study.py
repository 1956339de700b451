"""A whole study: workers try configurations, then the best is trained anew and tested.

Meanwhile a summary of the study is kept up to date for tables, figures and the live view.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cvrbench.config.compose import Composed
from cvrbench.config.runtime import LauncherConfig, LocalConfig, ProcessesConfig
from cvrbench.config.space import Numbers, Space
from cvrbench.config.study import as_experiment
from cvrbench.errors import ConfigError, CvrbenchError, RunError, StoreError
from cvrbench.launch import Failed, OnDone, launch
from cvrbench.runs.environment import without_password
from cvrbench.runs.record import RunRecord
from cvrbench.runs.study import STUDY_VERSION, Axis, StudySummary, TrialSummary
from cvrbench.runs.study import TrialState as State
from cvrbench.sweep.leases import ATTEMPTS, REASON
from cvrbench.sweep.samplers import words_of
from cvrbench.sweep.study import Opened, Plan, open_study
from cvrbench.sweep.worker import OnTrial, work, work_on
from cvrbench.system.files import write_text

EVERY = 1.0
"""Seconds between two summaries."""
STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
ENOUGH = 4
"""Complete trials that importances are computed from, at least."""

OnSummary = Callable[[StudySummary], None]
RunCells = Callable[[Sequence[Composed]], Sequence[RunRecord]]
"""Runs a plan of ordinary runs; returns the records of those that did not fail."""


def tune(
    plan: Plan,
    launcher: LauncherConfig,
    *,
    on_summary: OnSummary,
    on_trial: OnTrial,
    on_done: OnDone,
) -> None:
    """Run a study's trials until its budget is spent.

    Args:
        plan: The study.
        launcher: What starts its workers; those that are left do the trials of one that dies.
        on_summary: Told of every change.
        on_trial: Told of every step of a trial in this process.
        on_done: Told of every worker of its own process that ends.

    Raises:
        RunError: Workers failed before the study was over.
        RunInterrupted: The user stopped it; the same command goes on.
        ConfigError, DataError, StoreError: As `worker.work`.
    """
    url = plan.study.settings.storage or ""
    writes = not isinstance(launcher, LocalConfig | ProcessesConfig)
    if writes and without_password(url) != url:
        raise ConfigError(
            f"launcher={launcher.kind} writes down what it starts, and storage= has a password in "
            "it; leave it to ~/.pgpass or the driver's own file"
        )
    open_study(plan)  # whatever is wrong with it shows here, in one place
    with _watching(plan, on_summary):
        if isinstance(launcher, LocalConfig):
            work(plan, on_trial)
            return
        words = [list(plan.study.command)] * launcher.workers
        folder = Path(plan.study.base.config.results_dir)
        outcomes = launch(work_on, words, launcher, folder=folder, on_done=on_done)
        failed = [outcome.reason for outcome in outcomes if isinstance(outcome, Failed)]
        if len(failed) == len(outcomes):
            raise RunError(f"all {len(failed)} workers of {plan.name} failed: {failed[0]}")


def finish(plan: Plan, run_cells: RunCells) -> StudySummary:
    """Train the best configuration on fresh seeds, test it, and write down which it was.

    Of several objectives it is the member of the Pareto front that is best in the first.

    Raises:
        RunError: No trial is complete.
    """
    opened = open_study(plan)
    study = opened.study
    front = _best(study)
    if not front:
        reasons = {t.user_attrs.get(REASON) for t in study.get_trials(deepcopy=False)} - {None}
        why = f": {sorted(map(str, reasons))[0]}" if reasons else ""
        raise RunError(f"no trial of {plan.name} is complete{why}")
    best = max(front, key=lambda t: (_sign(study) * t.values[0], -t.number))
    words = words_of(best.params, plan.study.space)
    all_words = [*plan.study.words, *words]
    title = f"trial {best.number} of the sweep {plan.name}"
    write_text(plan.folder.best, as_experiment(all_words, title))
    seeds = list(plan.study.settings.final_seeds)
    chosen: dict[str, object] = {"trial": best.number, "overrides": all_words, "seeds": seeds}
    records = run_cells([plan.study.cell(words, seed, test=True) for seed in seeds])
    chosen["runs"] = [record.run_id for record in records]
    summary = summarize(plan, opened, chosen)
    plan.folder.write(summary)
    plan.folder.forget_searches()
    return summary


@contextmanager
def _watching(plan: Plan, on_summary: OnSummary) -> Iterator[None]:
    """Summarize a study every second while the block runs, and once more when it ends.

    Every change is written to the study's folder and told.
    """
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(plan, on_summary, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(plan: Plan, on_summary: OnSummary, done: threading.Event) -> None:
    last: StudySummary | None = None
    try:
        opened = open_study(plan)
    except CvrbenchError:
        return
    while True:
        ended = done.wait(EVERY)
        try:
            now = summarize(plan, opened, _chosen_before(plan))
            if now != last:
                plan.folder.write(now)
                on_summary(now)
                last = now
        except Exception:
            logging.getLogger(__name__).debug("no summary of %s", plan.name, exc_info=True)
            # The workers meet the same trouble and say so; the next summary may be better.
        if ended:
            return


def _chosen_before(plan: Plan) -> dict[str, object] | None:
    """Return what an earlier command trained in the end, if it did."""
    try:
        return plan.folder.read().chosen
    except StoreError:
        return None


def summarize(plan: Plan, opened: Opened, chosen: dict[str, Any] | None = None) -> StudySummary:
    """Put together what a study is and what its trials were."""
    study, settings, base = opened.study, plan.study.settings, plan.study.base
    # Those beyond a limit that was lowered later were tried all the same.
    trials = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
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
        directions=tuple(
            "maximize" if direction == StudyDirection.MAXIMIZE else "minimize"
            for direction in study.directions
        ),
        sampler=settings.sampler,
        pruner=settings.pruner,
        seeds=settings.seeds,
        axes=_axes(plan.study.space),
        limits=opened.limits,
        spent=opened.spent(trials),
        trials=tuple(_summary(trial, plan.study.space) for trial in trials),
        best=tuple(sorted(t.number for t in _best(study))),
        importances=_importances(study, trials),
        chosen=chosen,
    )


def _best(study: Study) -> list[FrozenTrial]:
    """Return the best trial, the first of equals, or the Pareto front."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    if len(study.directions) > 1:
        return study.best_trials
    return [max(complete, key=lambda t: (_sign(study) * t.values[0], -t.number))]


def _sign(study: Study) -> int:
    """Return 1 where more of the first objective is better, else -1."""
    return 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1


def _importances(study: Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return how much each parameter decides the first objective, where that can be told."""
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


def _axes(space: Space) -> dict[str, Axis]:
    """Return the dimensions as figures need them."""
    return {
        d.key: Axis(kind="int" if d.integer else "float", low=d.low, high=d.high, log=d.log)
        if isinstance(d, Numbers)
        else Axis(kind="choice", choices=tuple(d.values))
        for d in space.dimensions()
    }
