"""`cvrbench export`."""

from pathlib import Path
from typing import Annotated, Literal

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
        str,
        typer.Option(
            metavar="TASK", help="A task, written without the others; `all`: the whole as trained"
        ),
    ] = "all",
    layout: Annotated[
        Literal["onnx", "state_dict"],
        typer.Option("--format", help="An ONNX graph, or plain weights as safetensors"),
    ] = "onnx",
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Where; default: folder `export` of the run"),
    ] = None,
    results_dir: ResultsDir = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Write a trained network to files that need no cvrbench, and say what that saves.

    Examples:
        cvrbench export kuairand-ncs-s0 --task cvr

        cvrbench export kuairand-mmoe-s0 --format state_dict --to serving
    """
    from cvrbench.runs.load import load_trained
    from cvrbench.runs.store import ResultStore
    from cvrbench.serving.compaction import compare
    from cvrbench.serving.export import part_of, write
    from cvrbench.system.files import make_folder

    folder = ResultStore(results_dir).folder(run)
    with working(f"reading {folder.name}"):
        trained = load_trained(folder)
        part = part_of(trained, task)
    with working(f"writing {part.name}"):
        to = to or make_folder(folder / "export", within=folder.parent)
        files = write(part, trained, to, layout)
    savings = compare(trained.network, trained.schema, [o.task for o in part.outputs])
    if as_json:
        about = {"run_id": trained.record.run_id, "task": task, "files": [str(f) for f in files]}
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
    for line in (*savings.sentences, *map(str, files)):
        out.print(line, soft_wrap=True)
