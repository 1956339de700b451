"""`cvrbench export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cvrbench.cli.console import out, print_json, working
from cvrbench.cli.run import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.serving.latency import Spread
    from cvrbench.serving.savings import Row, Savings
    from cvrbench.trained import Trained

BATCHES = (1, 512)
"""Rows of the calls that are timed: one request, and a page of candidates."""


class Layout(StrEnum):
    """What a network is written as."""

    onnx = "onnx"
    state_dict = "state_dict"


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, or a part of its name")],
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK", help="A task, whose own network is written; `all`: the whole as trained"
        ),
    ] = "all",
    layout: Annotated[
        Layout, typer.Option("--format", help="An ONNX graph, or plain weights as safetensors")
    ] = Layout.onnx,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Where; default: folder `export` of the run"),
    ] = None,
    results_dir: Annotated[Path, typer.Option(help="Folder of results")] = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Write a trained network to files that need no cvrbench, and say what its masks save.

    Examples:
        cvrbench export kuairand-ncs-s0 --task cvr

        cvrbench export kuairand-mmoe-s0 --format state_dict --to serving
    """
    from cvrbench.serving.export import part_of, write
    from cvrbench.store import ResultStore
    from cvrbench.trained import load_trained

    folder = ResultStore(results_dir).folder(run)
    with working(f"reading {folder.name}"):
        trained = load_trained(folder)
        part = part_of(trained, task)
    with working(f"writing {part.name}"):
        files = write(part, trained, to or folder / "export", layout.value)
    with working("timing the networks side by side"):
        savings = _savings(trained, [output.task for output in part.outputs])
    if as_json:
        about = {"run_id": trained.record.run_id, "task": task, "files": [str(f) for f in files]}
        print_json({**about, **savings.to_json()})
        return
    _print(savings, files)


def _savings(trained: "Trained", tasks: list[str]) -> "Savings":
    from cvrbench.serving.costs import first_rows
    from cvrbench.serving.savings import compare

    split, schema = trained.dataset.valid, trained.schema
    batches = {size: first_rows(split, schema, size) for size in BATCHES}
    return compare(trained.network, schema, tasks, batches)


def _print(savings: "Savings", files: "Sequence[Path]") -> None:
    trained, *others = savings.rows
    for task in savings.compactions:
        out.print(_table([trained, *(row for row in others if row.task == task)]))
    if not savings.compactions:
        out.print(_table([trained]))
    for line in (*savings.sentences, *map(str, files)):
        out.print(line, soft_wrap=True)


def _table(rows: "Sequence[Row]") -> Table:
    """What each network costs; ratios of times as median and quartiles over rounds of calls."""
    table = Table("per example", box=None, pad_edge=False)
    for row in rows:
        table.add_column(row.name, justify="right")
    costs = [row.cost for row in rows]
    table.add_row("dense parameters", *(f"{cost.dense_parameters:,}" for cost in costs))
    table.add_row("embedding parameters", *(f"{cost.embedding_parameters:,}" for cost in costs))
    table.add_row("multiply-adds", *(f"{cost.multiply_adds:,}" for cost in costs))
    table.add_row("  not with 0", *(f"{cost.connections:,}" for cost in costs))
    for size in BATCHES:
        table.add_row(
            f"ms, batch {size}", *(f"{1e3 * row.seconds[size].median:.3f}" for row in rows)
        )
        if len(rows) > 1:
            table.add_row("  of trained", "", *(_ratio(r.to_trained[size]) for r in rows[1:]))
            table.add_row("  of masked", *(_ratio(r.to_masked.get(size)) for r in rows))
    return table


def _ratio(spread: "Spread | None") -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})" if spread else ""
