"""`cvrbench sweep`."""

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cvrbench.cli.console import (
    errors,
    heading,
    note,
    out,
    plain_table,
    preparing_bar,
    print_json,
    warn,
    write,
)
from cvrbench.cli.options import RESULTS, AsJson, DryRun, Overrides, ResultsDir
from cvrbench.cli.plan import run_plan, workers_here
from cvrbench.cli.report import present_runs
from cvrbench.errors import CvrbenchError, RunInterrupted, StoreError

if TYPE_CHECKING:
    from cvrbench.config.compose import Composed
    from cvrbench.config.runtime import LauncherConfig
    from cvrbench.runs.record import RunRecord
    from cvrbench.runs.study import StudySummary
    from cvrbench.sweep.study import Plan
    from cvrbench.training.callbacks import Progress

ROWS = 10
"""Trials that are printed of a study that is over; `--status` prints all."""
LIVE_ROWS = 12
"""Trials that the live view has room for."""


def sweep(
    overrides: Overrides = None,
    multirun: Annotated[
        bool,
        typer.Option("--multirun", "-m", help="One study per combination of comma lists"),
    ] = False,
    status: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print all trials of a sweep and stop")
    ] = None,
    best: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print the best configuration of a sweep and stop"),
    ] = None,
    results_dir: ResultsDir = RESULTS,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tune strategies with Optuna, each under the same budget; the same command again goes on.

    A key given as 'interval(a,b)', a..b, 'range(a,b)' or 'choice(a,b)' is searched, quoted for the
    shell; so are those of sweep=.

    Examples:
        cvrbench sweep

        cvrbench sweep model=ncs dataset=kuairand sweep=ncs_sparsity trials=50

        cvrbench sweep -m model=single_task,mmoe,ncs sweep=equal_budget workers=4

        cvrbench sweep --best ncs
    """
    from cvrbench.config.compose import take_launcher
    from cvrbench.launch import check_installed
    from cvrbench.sweep.study import check_studies, plan_studies

    if status is not None or best is not None:
        _print_stored(results_dir, status=status, best=best, as_json=as_json)
        return
    launcher, words = take_launcher(overrides or [])
    check_installed(launcher)
    plans = plan_studies(words, multirun=multirun)
    if dry_run:
        _print_plans(plans, as_json=as_json)
        return
    with preparing_bar() as on_rows:
        check_studies(plans, at_once=workers_here(launcher), on_rows=on_rows)
    summaries, failed = _run_studies(plans, launcher, as_json=as_json)
    _print_results(summaries, Path(plans[0].study.base.config.results_dir), as_json=as_json)
    for line in failed:
        warn(line, style="red")
    if failed:
        raise typer.Exit(1)


def _run_studies(
    plans: "Sequence[Plan]", launcher: "LauncherConfig", *, as_json: bool
) -> "tuple[list[StudySummary], list[str]]":
    """Run studies one after another; one that fails stops no other.

    Returns:
        What they came to, and a line for each thing that failed.

    Raises:
        CvrbenchError: The only study failed.
        RunInterrupted: The user stopped it.
    """
    from cvrbench.sweep.run_study import finish

    summaries: list[StudySummary] = []
    failed: list[str] = []

    def run_final(cells: "Sequence[Composed]") -> "list[RunRecord]":
        if not cells:
            return []
        records, lines = run_plan(
            cells, launcher, force=False, fail_fast=False, as_json=as_json, lonely=False
        )
        failed.extend(lines)
        return records

    for number, plan in enumerate(plans, 1):
        title = f"{number}/{len(plans)} {plan.name}"
        try:
            _tune(plan, launcher, title)
            note(f"{title}: training the best configuration on fresh seeds")
            summaries.append(finish(plan, run_final))
        except RunInterrupted:
            raise RunInterrupted("stopped; the same command goes on where it was") from None
        except CvrbenchError as error:
            if len(plans) == 1:
                raise
            failed.append(f"failed: {plan.name}: {error}")
            note(failed[-1])
    return summaries, failed


def _tune(plan: "Plan", launcher: "LauncherConfig", title: str) -> None:
    from cvrbench.launch import Failed, Outcome
    from cvrbench.sweep.run_study import tune

    def on_done(index: int, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            note(f"{title}: worker {index + 1} is gone: {outcome.reason}")

    view = StudyView(title)
    live = Live(view, console=errors, transient=True, refresh_per_second=2)
    with live if errors.is_terminal else nullcontext():
        tune(
            plan,
            launcher,
            on_summary=view.on_summary,
            on_trial=view.on_trial,
            on_done=on_done,
        )


def _print_plans(plans: "Sequence[Plan]", *, as_json: bool) -> None:
    """Print what each study would search."""
    for plan in plans:
        study = plan.study
        space = {d.key: d.text for d in study.space.always}
        when = {c.word: {d.key: d.text for d in c.dimensions} for c in study.space.when}
        if as_json:
            print_json({"name": plan.name, "words": study.words, "space": space, "when": when})
            continue
        heading(plan.name, f"  {' '.join(study.words)}")
        table = plain_table("key", "searched", "preset")
        preset = study.preset() if study.settings.preset else {}
        for dimension in study.space.always:
            table.add_row(dimension.key, dimension.text, str(preset.get(dimension.key, "")))
        for condition in study.space.when:
            for dimension in condition.dimensions:
                table.add_row(dimension.key, dimension.text, f"where {condition.word}")
        out.print(table)


def _print_results(
    summaries: "Sequence[StudySummary]", results_dir: Path, *, as_json: bool
) -> None:
    """Print what the studies found, and how the chosen configurations test."""
    from cvrbench.report.studies import budgets_grid, study_json, trials_grid
    from cvrbench.report.tables import GridTable
    from cvrbench.runs.store import ResultStore

    if as_json:
        for summary in summaries:
            print_json({"study": study_json(summary)})
        return
    for summary in summaries:
        out.print(GridTable(trials_grid(summary, limit=ROWS)))
    if not summaries:
        return
    out.print(GridTable(budgets_grid(summaries)))
    store = ResultStore(results_dir)
    final = {run for summary in summaries for run in (summary.chosen or {}).get("runs", [])}
    chosen = [record for record in store.records() if record.run_id in final]
    present_runs(chosen, store, sweeps=summaries)
    for summary in summaries:
        out.print(_command(summary), soft_wrap=True)


def _print_stored(
    results_dir: Path, *, status: str | None, best: str | None, as_json: bool
) -> None:
    """Print a study that has been begun: its trials, or its best configuration."""
    from cvrbench.config.study import as_experiment
    from cvrbench.report.studies import study_json, trials_grid
    from cvrbench.report.tables import GridTable
    from cvrbench.runs.study import Studies

    folder = Studies(results_dir).find(status or best or "")
    summary = folder.read()
    if status is not None:
        if as_json:
            print_json({**study_json(summary), "trials": [asdict(t) for t in summary.trials]})
        else:
            out.print(GridTable(trials_grid(summary)))
        return
    if not (words := summary.best_words()):
        raise StoreError(f"no trial of {summary.name} is complete yet")
    text = as_experiment(words, f"the best of the sweep {summary.name}")
    if as_json:
        print_json({"overrides": words, "command": _command(summary), "yaml": text})
        return
    write(f"{_command(summary)}\n\n{text}", end="")


def _command(summary: "StudySummary") -> str:
    """The best configuration as a line that can be run."""
    return shlex.join(["cvrbench", "run", *summary.best_words()])


@dataclass
class StudyView:
    """The live view of a study: its best and latest trials, what is spent, and the time left."""

    title: str
    table: RenderableType = ""
    spent: str = "beginning"
    step: str = ""
    begun: float = field(default_factory=time.monotonic)
    finished_before: float | None = None

    def on_summary(self, summary: "StudySummary") -> None:
        """Show what the study has come to."""
        from cvrbench.report.studies import trials_grid
        from cvrbench.report.tables import GridTable

        spent, limits = summary.spent, summary.limits
        if self.finished_before is None:
            self.finished_before = spent["trials"]
        parts = [
            f"{spent[name]:,.0f}{'' if limits[name] is None else f'/{limits[name]:,.0f}'} {name}"
            for name in ("trials", "epochs", "examples", "seconds")
            if name == "trials" or limits[name] is not None
        ]
        done = spent["trials"] - self.finished_before
        share = max((spent[name] / limit for name, limit in limits.items() if limit), default=0)
        if done >= 1 and share > 0:
            each = (time.monotonic() - self.begun) / done
            seconds = max(0.0, each * spent["trials"] * (1 / share - 1))
            parts.append(
                f"{seconds / 60:.0f} min left" if seconds >= 60 else f"{seconds:.0f} s left"
            )
        self.spent = " · ".join(parts)
        self.table = GridTable(replace(trials_grid(summary, limit=LIVE_ROWS), caption=""))

    def on_trial(self, number: int, now: "Progress") -> None:
        """Show where the trial of this process is."""
        done = 100 * now.step // max(now.total_steps, 1)
        rate = f"{now.examples_per_second:,.0f} ex/s"
        self.step = f"trial {number} · {now.stage} {done} % · {rate}"

    def __rich__(self) -> RenderableType:
        """Return the table, and a line of where everything is."""
        line = " · ".join(filter(None, (f"{self.title}: {self.spent}", self.step)))
        return Group(self.table, Text(line, style="dim"))
