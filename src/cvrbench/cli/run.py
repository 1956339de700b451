"""`cvrbench run` and `cvrbench resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cvrbench.cli.console import errors, note, out, preparing_bar, print_json, training_bar
from cvrbench.cli.report import present
from cvrbench.config.complete import complete
from cvrbench.errors import CvrbenchError, RunInterrupted

if TYPE_CHECKING:
    from cvrbench.config.compose import Composed
    from cvrbench.store import RunRecord


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    return complete(incomplete, context.params.get("overrides") or [])


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="GROUP=OPTION|KEY=VALUE",
        help="Hydra overrides: model=ncs dataset=kuairand trainer.epochs=2",
        autocompletion=_complete,
        show_default=False,
    ),
]
Multirun = Annotated[
    bool,
    typer.Option(
        "--multirun", "-m", help="Run every combination of comma lists, range() and choice()"
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Draw the comparison there; an experiment with a plan is drawn in results_dir",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line")]


def run(
    overrides: Overrides = None,
    multirun: Multirun = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop")] = False,
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
    """
    from cvrbench.config.compose import plan

    cells = plan(overrides or [], multirun=multirun)
    if figures is None and len(cells) > 1 and not multirun:
        figures = Path(cells[0].config.results_dir) / "figures"
    if dry_run:
        _print_plan(cells, as_json=as_json)
        return
    from cvrbench import planning

    with preparing_bar() as on_rows:
        planning.check_plan(cells, on_rows=on_rows)
    records, failed = _run_cells(cells, force=force, fail_fast=fail_fast, as_json=as_json)
    if not as_json:
        _print_results(records, figures=figures)
    for line in failed:
        errors.print(line, style="red", markup=False, soft_wrap=True)
    if failed:
        errors.print(f"{len(failed)} of {len(cells)} runs failed; the others are recorded")
        raise typer.Exit(1)


def resume(
    run: Annotated[str, typer.Argument(help="A run's folder, or a part of its name")],
    results_dir: Annotated[Path, typer.Option(help="Folder of results")] = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run; it ends where the uninterrupted one would have ended."""
    from cvrbench import experiment
    from cvrbench.store import ResultStore

    folder = ResultStore(results_dir).folder(run)
    try:
        with training_bar(folder.name) as on_progress:
            record = experiment.resume(folder, on_progress=on_progress)
    except RunInterrupted as stop:
        raise RunInterrupted(f"{stop}; go on with `cvrbench resume {folder}`") from None
    if as_json:
        print_json(_summary(record, folder))
    else:
        _print_results([record], folder=folder)


def _run_cells(
    cells: "list[Composed]", *, force: bool, fail_fast: bool, as_json: bool
) -> "tuple[list[RunRecord], list[str]]":
    """Run a plan; give the records, and a line for each cell that failed."""
    records: list[RunRecord] = []
    failed: list[str] = []
    for number, cell in enumerate(cells, 1):
        try:
            record = _run_cell(cell, f"{number}/{len(cells)}", force=force)
        except RunInterrupted as stop:
            raise _with_advice(stop, cell) from None
        except CvrbenchError as error:
            if fail_fast or len(cells) == 1:
                raise
            failed.append(f"failed: {' '.join(cell.overrides)}: {error}")
            note(failed[-1])
            continue
        records.append(record)
        if as_json:
            print_json(_as_json(cell, record))
        elif len(cells) > 1:
            out.print(_line(record))
    return records, failed


def _run_cell(cell: "Composed", position: str, *, force: bool) -> "RunRecord":
    from cvrbench import experiment, planning

    if not force and planning.state_of(cell) == "finished":
        note(f"{position} {_title(cell)}: finished before")
        return experiment.run(cell)
    with training_bar(f"{position} {_title(cell)}") as on_progress:
        return experiment.run(cell, force=force, on_progress=on_progress)


def _with_advice(stop: RunInterrupted, cell: "Composed") -> RunInterrupted:
    from cvrbench import planning

    folder = planning.folder_of(cell)
    return RunInterrupted(f"{stop}; go on with `cvrbench resume {folder}`")


def _print_plan(cells: "list[Composed]", *, as_json: bool) -> None:
    from cvrbench import planning

    table = Table("#", "dataset", "model", "seed", "overrides", "state", box=None, pad_edge=False)
    for number, cell in enumerate(cells, 1):
        state = planning.state_of(cell)
        if as_json:
            print_json(
                {
                    "dataset": cell.choices["dataset"],
                    "model": cell.choices["model"],
                    "seed": cell.config.seed,
                    "overrides": list(cell.overrides),
                    "state": state,
                }
            )
        words = " ".join(cell.overrides)
        table.add_row(
            str(number),
            cell.choices["dataset"],
            cell.choices["model"],
            str(cell.config.seed),
            words,
            state,
        )
    if not as_json:
        out.print(table)


def _print_results(
    records: "list[RunRecord]", *, folder: Path | None = None, figures: Path | None = None
) -> None:
    from cvrbench.report.tables import run_table
    from cvrbench.store import ResultStore

    if len(records) == 1:
        (record,) = records
        out.print(
            f"[bold]{record.model}[/bold] on [bold]{record.dataset}[/bold], seed {record.seed}: "
            f"{record.parameters:,} parameters, {record.seconds['total']:.0f} s, "
            f"{record.examples_per_second:,.0f} examples/s"
        )
        out.print(run_table(record))
        where = folder or Path(str(record.config["results_dir"])) / "runs" / record.run_id
        out.print(f"{where}", soft_wrap=True)
        return
    if records:
        store = ResultStore(Path(str(records[0].config["results_dir"])))
        present(records, store, figures=figures)


def _line(record: "RunRecord") -> str:
    split = "test" if "test" in record.metrics else "valid"
    values = record.metrics[split]
    spaces = record.counts[split]
    aucs = [f"{n} {v:.4f}" for n in spaces if (v := values.get(f"{n}_auc")) is not None]
    return f"{record.run_id}  {split} AUC: {'  '.join(aucs)}"


def _as_json(cell: "Composed", record: "RunRecord") -> dict[str, object]:
    return _summary(record, Path(cell.config.results_dir) / "runs" / record.run_id)


def _summary(record: "RunRecord", folder: Path) -> dict[str, object]:
    return {
        "run_dir": str(folder),
        "model": record.model,
        "dataset": record.dataset,
        "seed": record.seed,
        "metrics": record.metrics,
        "parameters": record.parameters,
        "seconds": record.seconds,
        "examples_per_second": record.examples_per_second,
    }


def _title(cell: "Composed") -> str:
    return f"{cell.choices['model']} on {cell.choices['dataset']}, seed {cell.config.seed}"
