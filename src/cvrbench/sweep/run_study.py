"""A whole study: workers try configurations, then the best is trained anew and tested."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cvrbench.config.compose import Composed
from cvrbench.config.launcher import LauncherConfig, LocalConfig, ProcessesConfig
from cvrbench.config.study import as_experiment
from cvrbench.environment import without_password
from cvrbench.errors import ConfigError, RunError
from cvrbench.files import write_text
from cvrbench.launch import Failed, OnDone, launch
from cvrbench.record import RunRecord
from cvrbench.studies import StudySummary
from cvrbench.sweep.plan import Plan
from cvrbench.sweep.study import open_study
from cvrbench.sweep.summary import chosen_words, final_cells, summarize
from cvrbench.sweep.watch import OnSummary, watching
from cvrbench.sweep.worker import OnTrial, work, work_on

RunCells = Callable[[Sequence[Composed]], Sequence[RunRecord]]
"""Runs a plan of ordinary runs; gives the records of those that did not fail."""


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
        launcher: What starts its workers.
        on_summary: Told of every change.
        on_trial: Told of every step of a trial in this process.
        on_done: Told of every worker of its own process that ends.

    Raises:
        RunError: Workers failed before the study was over.
        RunInterrupted: The user stopped it; the same command goes on.
        ConfigError, DataError, StoreError: As `worker.work`.
    """
    _refuse_to_write_passwords(plan, launcher)
    open_study(plan)  # whatever is wrong with it shows here, in one place
    with watching(plan, on_summary):
        if isinstance(launcher, LocalConfig):
            work(plan, on_trial)
        else:
            _launch(plan, launcher, on_done)


def finish(plan: Plan, run_cells: RunCells) -> StudySummary:
    """Train the best configuration on fresh seeds, test it, and write down which it was.

    Raises:
        RunError: No trial is complete.
    """
    opened = open_study(plan)
    study = opened.study
    found = chosen_words(plan, study)
    if found is None:
        reasons = {t.user_attrs.get("reason") for t in study.get_trials(deepcopy=False)} - {None}
        why = f": {sorted(map(str, reasons))[0]}" if reasons else ""
        raise RunError(f"no trial of {plan.name} is complete{why}")
    number, words = found
    all_words = [*plan.study.words, *words]
    title = f"trial {number} of the sweep {plan.name}"
    write_text(plan.folder.best, as_experiment(all_words, title))
    seeds = list(plan.study.settings.final_seeds)
    chosen: dict[str, object] = {"trial": number, "overrides": all_words, "seeds": seeds}
    records = run_cells(final_cells(plan, words))
    chosen["runs"] = [record.run_id for record in records]
    summary = summarize(plan, opened, chosen)
    plan.folder.write(summary)
    plan.folder.forget_searches()
    return summary


def _refuse_to_write_passwords(plan: Plan, launcher: LauncherConfig) -> None:
    url = plan.study.settings.storage or ""
    writes = not isinstance(launcher, LocalConfig | ProcessesConfig)
    if writes and without_password(url) != url:
        raise ConfigError(
            f"launcher={launcher.kind} writes down what it starts, and storage= has a password in "
            "it; leave it to ~/.pgpass or the driver's own file"
        )


def _launch(plan: Plan, launcher: LauncherConfig, on_done: OnDone) -> None:
    """Start workers; those that are left do the trials of one that dies."""
    assert not isinstance(launcher, LocalConfig)
    words = list(plan.study.command)
    folder = Path(plan.study.base.config.results_dir)

    outcomes = launch(work_on, [words] * launcher.workers, launcher, folder=folder, on_done=on_done)
    failed = [outcome.reason for outcome in outcomes if isinstance(outcome, Failed)]
    if len(failed) == len(outcomes):
        raise RunError(f"all {len(failed)} workers of {plan.name} failed: {failed[0]}")
