"""`cvrbench run` and `cvrbench resume`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.auto import run_auto, take_budget
from cvrbench.cli.console import (
    heading,
    out,
    plain_table,
    preparing_bar,
    print_json,
    size_words,
    training_bar,
    warn,
    working,
)
from cvrbench.cli.options import RESULTS, AsJson, DryRun, Overrides, Own, ResultsDir, Run
from cvrbench.cli.plan import run_plan, spans, summary, with_advice, workers_here
from cvrbench.cli.report import present_runs
from cvrbench.errors import ConfigError, RunInterrupted

if TYPE_CHECKING:
    from cvrbench.config.compose import Composed
    from cvrbench.config.runtime import LauncherConfig
    from cvrbench.runs.memory import AtOnce, Need
    from cvrbench.runs.record import RunRecord

GB = 1e9


Multirun = Annotated[
    bool,
    typer.Option(
        "--multirun",
        "-m",
        help="Run every combination of comma lists and ranges (0..7)",
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Draw the comparison there; an experiment with a plan is drawn in results_dir",
    ),
]


def run(
    overrides: Overrides = None,
    multirun: Multirun = False,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again")] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first run that fails")
    ] = False,
    figures: Figures = None,
    as_json: AsJson = False,
) -> None:
    """Train strategies on datasets and record how they score; finished cells are only read.

    Examples:
        cvrbench run model=ncs

        cvrbench run -m model=single_task,mmoe,ncs dataset=kuairand seed=0,1,2

        cvrbench run experiment=ncs_ablation dataset=kuairand

        cvrbench run -m model=ncs seed=0..7 launcher=processes workers=4

        cvrbench run -m model=shared_bottom,mmoe,ncs seeds=auto max_seeds=20 max_minutes=60
    """
    from cvrbench.config.compose import plan, take_launcher

    launcher, words = take_launcher(overrides or [])
    budget, words = take_budget(words)
    if budget is not None:
        if dry_run or force:
            raise ConfigError("seeds=auto decides as it goes: leave out --dry-run and --force")
        records, failed = run_auto(words, budget, launcher, fail_fast=fail_fast, as_json=as_json)
        _end(records, failed, figures=figures, as_json=as_json)
        return
    cells = plan(words, multirun=multirun)
    if figures is None and len(cells) > 1 and not multirun:
        figures = Path(cells[0].config.results_dir) / "figures"
    if dry_run:
        _print_plan(cells, launcher, force=force, as_json=as_json)
        return
    from cvrbench.launch import check_installed
    from cvrbench.runs import planning

    check_installed(launcher)
    with preparing_bar() as on_rows:
        planning.check_plan(cells, at_once=workers_here(launcher), on_rows=on_rows)
    records, failed = run_plan(cells, launcher, force=force, fail_fast=fail_fast, as_json=as_json)
    _end(records, failed, figures=figures, as_json=as_json)


def _end(
    records: "list[RunRecord]", failed: list[str], *, figures: Path | None, as_json: bool
) -> None:
    """Print what a plan found, and what failed of it."""
    if not as_json:
        _print_results(records, figures=figures)
    for line in failed:
        warn(line, style="red")
    if failed:
        n = len(failed) + len(records)
        warn(f"{len(failed)} of {n} runs failed; the others are recorded")
        raise typer.Exit(1)


def resume(
    run: Run,
    overrides: Own = None,
    results_dir: ResultsDir = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run; it ends where the uninterrupted one would have ended."""
    from cvrbench.runs import experiment
    from cvrbench.runs.store import ResultStore

    folder = ResultStore(results_dir).folder(run)
    try:
        with training_bar(folder.name) as on_progress:
            record = experiment.resume(folder, words=overrides or [], on_progress=on_progress)
    except RunInterrupted as stop:
        raise with_advice(stop, folder, overrides or []) from None
    if as_json:
        print_json(summary(record, folder))
    else:
        _print_results([record], folder=folder)


def _print_plan(
    cells: "list[Composed]", launcher: "LauncherConfig", *, force: bool, as_json: bool
) -> None:
    """Print every cell, how far it is, and what memory those that would run need."""
    from cvrbench.runs import planning
    from cvrbench.runs.memory import needs_of_plan

    states = [planning.state_of(cell) for cell in cells]
    turn = [number for number, state in enumerate(states) if force or state != "finished"]
    with working("estimating memory"):
        found, at_once = needs_of_plan(cells, turn, launcher)
    if as_json:
        needs = {number: need.plain() for need in found for number in need.runs}
        for number, (cell, state) in enumerate(zip(cells, states, strict=True)):
            print_json(
                {
                    "dataset": cell.choices["dataset"],
                    "model": cell.choices["model"],
                    "seed": cell.config.seed,
                    "overrides": list(cell.overrides),
                    "state": state,
                    "memory": needs.get(number),
                }
            )
        return
    table = plain_table("#", "dataset", "model", "seed", "overrides", "state")
    for number, (cell, state) in enumerate(zip(cells, states, strict=True), 1):
        names = (cell.choices["dataset"], cell.choices["model"], str(cell.config.seed))
        table.add_row(str(number), *names, " ".join(cell.overrides), state)
    out.print(table)
    _print_needs(found, at_once)
    if turn:
        _print_pace([cells[number] for number in turn])


def _print_pace(cells: "Sequence[Composed]") -> None:
    """Print how long runs of a plan will take and how much they leave, by finished ones."""
    from cvrbench.report.tables import duration
    from cvrbench.runs.store import ResultStore
    from cvrbench.system.files import size_of

    store = ResultStore(Path(cells[0].config.results_dir))
    finished = {(run.model, run.dataset): run for run in store.survey().records}
    found = [finished.get((one.choices["model"], one.choices["dataset"])) for one in cells]
    runs = [one for one in found if one is not None]
    minutes = sum(run.seconds.get("total", 0.0) for run in runs) / 60
    size = size_words(sum(size_of(store.runs / run.run_id) for run in runs))
    told = f"about {duration(minutes)} one after another, {size} on disk"
    if not runs:
        told = "known once a run of these strategies is finished"
    elif len(runs) < len(found):
        told += f", and {len(found) - len(runs)} runs of which none is finished"
    out.print(f"\ntime: {told}", soft_wrap=True)


def _print_needs(needs: "Iterable[Need]", at_once: "AtOnce | None") -> None:
    """Print what every configuration of a plan needs, against what is free for it."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for need in needs:
        rows.setdefault(_words(need), []).extend(need.runs)
    if not rows:
        return
    table = plain_table("#", "memory", "free", "most of it, in GB")
    for words, runs in rows.items():
        table.add_row(spans(sorted(runs)), *words)
    out.print()
    out.print(table)
    if at_once is not None:
        free = at_once.free.n_bytes
        verdict = f"{_verdict(at_once.needed / max(1, free))}; {at_once.advice}"
        out.print(
            f"{at_once.runs} at once: {at_once.needed / GB:.1f} GB of {free / GB:.1f} GB: "
            f"{verdict if at_once.advice else 'fits'}",
            style="red" if at_once.advice else None,
            soft_wrap=True,
        )


def _words(need: "Need") -> tuple[str, str, str]:
    free = "" if need.free is None else f"{need.free.n_bytes / GB:.1f} GB, {need.free.limit}"
    if need.estimate is None:
        return "", free, need.words
    summary = need.estimate.summary()
    if need.times_free is None:
        free = "not known here"
    elif need.times_free > 1:
        summary = f"{_verdict(need.times_free)}; {need.words}: {summary}"
    return f"{need.estimate.needed / GB:.1f} GB", free, summary


def _verdict(times_free: float) -> str:
    from cvrbench.runs.memory import REFUSED

    return "will not fit" if times_free > REFUSED else "may not fit"


def _print_results(
    records: "list[RunRecord]", *, folder: Path | None = None, figures: Path | None = None
) -> None:
    from cvrbench.report.tables import GridTable, run_grid
    from cvrbench.runs.store import ResultStore

    if len(records) == 1:
        (record,) = records
        heading(
            f"{record.model} on {record.dataset}",
            f", seed {record.seed}: "
            f"{record.parameters:,} parameters, {record.seconds['total']:.0f} s, "
            f"{record.examples_per_second:,.0f} examples/s",
        )
        out.print(GridTable(run_grid(record)))
        where = folder or Path(str(record.config["results_dir"])) / "runs" / record.run_id
        out.print(f"{where}", soft_wrap=True)
        return
    if records:
        store = ResultStore(Path(str(records[0].config["results_dir"])))
        present_runs(records, store, figures=figures)
