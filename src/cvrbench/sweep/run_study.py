"""A whole study: workers try configurations, then the best is trained anew and tested.

A worker takes trials of one study until none is left or the budget is spent. A trial is runs of one
configuration, one per tuning seed; its value is their mean.
Meanwhile a summary of the study is kept up to date for tables, figures and the live view.
"""

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cvrbench.config.compose import Composed
from cvrbench.config.runtime import LauncherConfig, LocalConfig, ProcessesConfig
from cvrbench.config.space import Numbers, Space
from cvrbench.config.study import as_experiment
from cvrbench.errors import CellBusy, ConfigError, CvrbenchError, RunError, StoreError
from cvrbench.launch import Failed, OnDone, launch
from cvrbench.runs import experiment, planning
from cvrbench.runs.environment import without_password
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.runs.study import STUDY_VERSION, Axis, StudySummary, TrialSummary
from cvrbench.runs.study import TrialState as State
from cvrbench.sweep.leases import ATTEMPTS, FURTHER, REASON, Leases
from cvrbench.sweep.samplers import build_pruner, build_sampler, fixed_trials, suggest, words_of
from cvrbench.sweep.study import (
    WATCHED,
    Opened,
    Plan,
    measure,
    of_record,
    open_study,
    plan_studies,
    trained,
)
from cvrbench.system.files import explain_write, write_text
from cvrbench.training.callbacks import Evaluation, Progress

HOPELESS = 12
"""Failures in a row, none of which computed anything, after which there is no hope."""
IDLE = 1.0
"""Seconds between two searches for work while other workers are at the last trials."""
BUSY_PAUSE = 2.0
"""Seconds between two tries of a cell that another process runs."""
FIXED = "fixed_params"
"""Optuna's name for what a trial is not to sample."""

OnTrial = Callable[[int, Progress], None]
"""Told of every step of a trial, by the trial's number."""


class Pruned(Exception):  # noqa: N818 -- no error: the trial has shown enough
    """A trial that is not worth finishing."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a trial ended."""

    state: TrialState
    values: tuple[float, ...] | None = None
    reason: str | None = None


def work(plan: Plan, on_trial: OnTrial | None = None) -> None:
    """Run trials until the study is over.

    Raises:
        RunInterrupted: The user stopped it; the trial under way goes on later where it was.
        ConfigError, DataError, StoreError: As `open_study` and `experiment.run`.
    """
    with explain_write(plan.folder.journal):
        _Worker(plan, open_study(plan), on_trial).run()


def work_on(words: Sequence[str]) -> None:
    """Work on the one study that some words name, in a process of its own."""
    (plan,) = plan_studies(words, multirun=False)
    work(plan)


class _Worker:
    """One worker of a study."""

    def __init__(self, plan: Plan, opened: Opened, on_trial: OnTrial | None) -> None:
        settings = plan.study.settings
        self.plan, self.opened, self.study, self.on_trial = plan, opened, opened.study, on_trial
        self.fixed = fixed_trials(plan.study)
        steps = evaluations_per_run(plan.study.base) * len(settings.seeds)
        self.study.pruner = build_pruner(settings, steps)
        self.leases = Leases(
            opened.storage, self.study._study_id, opened.n_trials, settings.heartbeat_seconds
        )

    def run(self) -> None:
        """Take trials until there are none."""
        while True:
            trials = self.leases.trials()
            self._refuse_hopeless(trials)
            spent = self.opened.is_spent(trials)
            if (leased := self.leases.next(spent=spent)) is not None:
                self._do(leased)
            elif self.leases.is_over(spent=spent):
                return
            else:
                time.sleep(IDLE)

    def _refuse_hopeless(self, trials: Sequence[FrozenTrial]) -> None:
        """End a study that would go on for ever, since failures at no cost spend no budget."""
        ended = [t for t in trials if t.state.is_finished()][-HOPELESS:]
        lost = [t for t in ended if t.state == TrialState.FAIL and not t.user_attrs.get("examples")]
        if self.opened.n_trials is None and len(lost) == HOPELESS:
            raise RunError(
                f"the last {HOPELESS} trials of {self.plan.name} failed before their first step: "
                f"{lost[-1].user_attrs.get(REASON)}"
            )

    def _do(self, leased: FrozenTrial) -> None:
        """Run a leased trial and record how it ended; a stopped one is given back."""
        try:
            with self.leases.alive(leased):  # sampling included, which may be slow
                trial = self._open(leased)
                ended = _TrialRun(self.plan, trial, self.opened, self.on_trial).run()
            self._tell(trial, ended)
        except UpdateFinishedTrialError:
            return  # taken for dead: another has ended it, with the same result
        except (CvrbenchError, OSError, KeyboardInterrupt, SystemExit):
            # Stopped, or something that is no fault of this configuration: it can go on.
            self.leases.release(leased)
            raise
        except Exception as error:
            # Not given back: with the same configuration it would happen again, and for ever.
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            ended = Ended(state=TrialState.FAIL, reason=reason)
            self._tell(Trial(self.study, leased._trial_id), ended)

    def _tell(self, trial: Trial, ended: Ended) -> None:
        if ended.reason is not None:
            trial.set_user_attr(REASON, ended.reason)
        self.study.tell(trial, ended.values, state=ended.state, skip_if_finished=True)

    def _open(self, leased: FrozenTrial) -> Trial:
        """Return what Optuna needs to suggest for a trial, as any worker would make it."""
        number, settings = leased.number, self.plan.study.settings
        if number < len(self.fixed) and FIXED not in leased.system_attrs:
            self.opened.storage.set_trial_system_attr(leased._trial_id, FIXED, self.fixed[number])
        self.study.sampler = build_sampler(settings, self.plan.study.base.config.seed, number)
        trial = Trial(self.study, leased._trial_id)
        trial.set_user_attr("preset", settings.preset and number == 0)
        return trial


class _TrialRun:
    """A trial under way, which notes in itself what it costs and shows the pruner how it does."""

    def __init__(self, plan: Plan, trial: Trial, opened: Opened, on_trial: OnTrial | None) -> None:
        self.plan, self.trial, self.on_trial = plan, trial, on_trial
        self.settings = plan.study.settings
        self.tasks = [task.name for task in opened.schema.tasks]
        self.seconds_before = trial.user_attrs.get("seconds", 0.0)
        self.begun = time.monotonic()
        self.finished = self.under_way = self.reused = 0
        """Examples: of the runs that are done, of the run under way, and saved by sharing."""

    def run(self) -> Ended:
        """Run the trial to its end.

        Raises:
            RunInterrupted: The user stopped it; a later try goes on where it was.
            DataError, StoreError: What it needs is missing; no fault of this configuration.
        """
        by_seed: list[tuple[float, ...]] = []
        runs: list[str] = []
        try:
            words = suggest(self.trial, self.plan.study.space)
            for number, seed in enumerate(self.settings.seeds):
                record = self._run_cell(self.plan.study.cell(words, seed, test=False), number)
                runs.append(record.run_id)
                by_seed.append(of_record(self.plan.study, record))
                reused = record.examples.get("reused", 0)
                self.finished += record.examples["search"] + record.examples["train"] - reused
                self.reused += reused
                self.under_way = 0
                self.trial.set_user_attr("runs", runs)
                self.trial.set_user_attr("by_seed", [list(values) for values in by_seed])
                self._show_seed(by_seed[-1][0], number)
        except Pruned as reason:
            return Ended(state=TrialState.PRUNED, reason=str(reason))
        except (RunError, ConfigError) as error:
            return Ended(state=TrialState.FAIL, reason=str(error))
        finally:
            self._save_cost()
        means = tuple(sum(column) / len(column) for column in zip(*by_seed, strict=True))
        return Ended(state=TrialState.COMPLETE, values=means)

    def _run_cell(self, cell: Composed, number: int) -> RunRecord:
        """Run a cell, or wait for the process that runs it; one that is pruned leaves nothing."""
        searches = self.plan.folder.searches if self.settings.share_searches else None

        def on_evaluation(look: Evaluation) -> None:
            self._show_evaluation(look, cell, number)

        while True:
            try:
                return experiment.run(
                    cell,
                    on_progress=self._on_progress,
                    on_evaluation=on_evaluation,
                    searches=searches,
                )
            except CellBusy:
                time.sleep(BUSY_PAUSE)
            except Pruned:
                folder = planning.folder_of(cell)
                ResultStore(Path(cell.config.results_dir)).discard(folder.name)
                raise

    def _on_progress(self, now: Progress) -> None:
        self.under_way = now.examples
        if self.on_trial is not None:
            self.on_trial(self.trial.number, now)

    def _save_cost(self) -> None:
        seconds = self.seconds_before + time.monotonic() - self.begun
        self.trial.set_user_attr("examples", self.finished + self.under_way)
        self.trial.set_user_attr("reused", self.reused)
        self.trial.set_user_attr("seconds", round(seconds, 3))

    def _show_evaluation(self, look: Evaluation, cell: Composed, number: int) -> None:
        """Show an evaluation of the run of seed `number` to pruners that watch evaluations."""
        self.under_way = look.examples
        attrs, pruner = self.trial.user_attrs, self.settings.pruner
        if self.finished + look.examples > attrs.get("examples", 0):
            self.trial.set_user_attr(FURTHER, attrs.get(ATTEMPTS, 1))
        self._save_cost()  # a worker that is killed leaves no other word
        first, *others = self.settings.objectives
        if pruner != "wilcoxon" and not others and first.rsplit("_", 1)[-1] in WATCHED:
            value = measure(first, look.metrics, trained(cell.config, self.tasks), {})
            self._report(value, number * evaluations_per_run(cell) + look.number)
        if pruner in ("hyperband", "median") and self._may_be_pruned():
            raise Pruned(f"{pruner} at look {look.number} of seed {cell.config.seed}")

    def _show_seed(self, value: float, number: int) -> None:
        """Show a seed's result to the pruner that compares seeds."""
        if self.settings.pruner == "wilcoxon":
            self._report(value, number)
            if number + 1 < len(self.settings.seeds) and self._may_be_pruned():
                raise Pruned(f"wilcoxon after {number + 1} seeds")

    def _report(self, value: float, step: int) -> None:
        # A run that goes on from its checkpoint repeats the evaluations after it.
        shown = self.trial.storage.get_trial(self.trial._trial_id).intermediate_values
        if step not in shown:
            self.trial.report(value, step)

    def _may_be_pruned(self) -> bool:
        """Whether the pruner has seen enough; the preset is finished in any case."""
        return not self.trial.user_attrs.get("preset") and self.trial.should_prune()


def evaluations_per_run(cell: Composed) -> int:
    """Return the evaluations that a whole run takes, if nothing ends it sooner."""
    trainer = cell.config.trainer
    return trainer.epochs * trainer.evaluations_per_epoch


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
        ConfigError, DataError, StoreError: As `work`.
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
