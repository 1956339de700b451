"""`cvrbench export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cvrbench.cli.console import out, print_json, working
from cvrbench.cli.options import RESULTS, AsJson, ResultsDir, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.serving.compaction import Row, Savings


class Layout(StrEnum):
    """What a network is written as."""

    onnx = "onnx"
    state_dict = "state_dict"


def export(
    run: Run,
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK", help="A task, written without the others; `all`: the whole as trained"
        ),
    ] = "all",
    layout: Annotated[
        Layout, typer.Option("--format", help="An ONNX graph, or plain weights as safetensors")
    ] = Layout.onnx,
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

    folder = ResultStore(results_dir).folder(run)
    with working(f"reading {folder.name}"):
        trained = load_trained(folder)
        part = part_of(trained, task)
    with working(f"writing {part.name}"):
        files = write(part, trained, to or folder / "export", layout.value)
    savings = compare(trained.network, trained.schema, [o.task for o in part.outputs])
    if as_json:
        about = {"run_id": trained.record.run_id, "task": task, "files": [str(f) for f in files]}
        print_json({**about, **savings.to_json()})
        return
    _print(savings, files)


def _print(savings: "Savings", files: "Sequence[Path]") -> None:
    trained, *others = savings.rows
    tasks = dict.fromkeys(row.task for row in others)
    for task in tasks or [None]:
        out.print(_table([trained, *(row for row in others if row.task == task)]))
    for line in (*savings.sentences, *map(str, files)):
        out.print(line, soft_wrap=True)


def _table(rows: "Sequence[Row]") -> Table:
    """Return what each network costs."""
    table = Table("per example", box=None, pad_edge=False)
    for row in rows:
        table.add_column(row.name, justify="right")
    costs = [row.cost for row in rows]
    table.add_row("dense parameters", *(f"{cost.dense_parameters:,}" for cost in costs))
    table.add_row("embedding parameters", *(f"{cost.embedding_parameters:,}" for cost in costs))
    table.add_row("multiply-adds", *(f"{cost.multiply_adds:,}" for cost in costs))
    table.add_row("  not with 0", *(f"{cost.connections:,}" for cost in costs))
    return table
