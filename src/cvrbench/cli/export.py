"""`cvrbench export`."""

from pathlib import Path
from typing import Annotated

import typer

from cvrbench.cli.console import out, plain_table, print_json, working
from cvrbench.cli.options import RESULTS, AsJson, ResultsDir, Run

COSTS = {
    "dense parameters": "dense_parameters",
    "embedding parameters": "embedding_parameters",
    "multiply-adds": "multiply_adds",
    "  not with 0": "connections",
}
"""Rows of the table, and the attribute of a network's cost that they show."""


def export(
    run: Run,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="One task, without what it does not need; default: all"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="DIR", help="A new folder; default: below `export` of the run"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export")] = False,
    results_dir: ResultsDir = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Write a folder that serves without cvrbench: ONNX, vocabularies, scorer; say what it saves.

    Examples:
        cvrbench export table-ncs-s0 --task cvr

        cvrbench export table-mmoe-s0 --to serving
    """
    from cvrbench.data.dataset import escaped_name
    from cvrbench.runs.load import load_trained
    from cvrbench.runs.store import ResultStore
    from cvrbench.serving.compaction import compare
    from cvrbench.serving.export import part_of, write_bundle
    from cvrbench.system.files import make_folder

    folder = ResultStore(results_dir).folder(run)
    with working(f"reading {folder.name}"):
        trained = load_trained(folder)
        part = part_of(trained, task)
    with working("writing"):
        if to is None:
            name = "all-tasks" if task is None else f"task-{escaped_name(task)}"
            to = make_folder(folder / "export", within=folder.parent) / name
        write_bundle(part, trained, to, force=force)
    tasks = list(dict.fromkeys(output.task for output in part.outputs))
    savings = compare(trained.network, trained.schema, tasks)
    if as_json:
        files = sorted(str(to / file.name) for file in to.iterdir())
        about = {"run_id": trained.record.run_id, "task": task, "folder": str(to), "files": files}
        print_json({**about, **savings.to_json()})
        return
    whole, *others = savings.rows
    for asked in dict.fromkeys(row.task for row in others) or [None]:
        rows = [whole, *(row for row in others if row.task == asked)]
        table = plain_table("per example")
        for row in rows:
            table.add_column(row.name, justify="right")
        for name, key in COSTS.items():
            table.add_row(name, *(f"{getattr(row.cost, key):,}" for row in rows))
        out.print(table)
    for line in (*savings.sentences, str(to)):
        out.print(line, soft_wrap=True)
