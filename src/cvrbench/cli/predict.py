"""`cvrbench predict`."""

from pathlib import Path
from typing import Annotated

import typer

from cvrbench.cli.console import note, out, preparing_bar, print_json, warn, working
from cvrbench.cli.options import RESULTS, AsJson, ResultsDir, Run

REMARKABLE = 0.5
"""Share of a field's values from which on it is remarked that the run does not know them."""


def predict(
    run: Run,
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="Parquet or delimited text, or a folder of it")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help=".parquet, .csv or .tsv")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists")] = False,
    results_dir: ResultsDir = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Predict every row of a table: its columns, and one more per task and joint probability.

    The rows need the columns that the run learnt from, and no labels.

    Examples:
        cvrbench predict table-mmoe-s0 new.parquet -o scores.parquet
    """
    from cvrbench.runs.load import load_trained
    from cvrbench.runs.store import ResultStore
    from cvrbench.serving.predict import predict_file

    folder = ResultStore(results_dir).folder(run)
    with working(f"reading {folder.name}"):
        trained = load_trained(folder)
    with preparing_bar() as on_rows:
        n_rows, unknown = predict_file(trained, rows, output, force=force, on_rows=on_rows)
    for field, share in unknown.items():
        if share >= REMARKABLE:
            warn(
                f"{share:.0%} of the values of {field!r} are unknown to the run, and count as "
                "rare ones; are they written as in its data?",
                style="yellow",
            )
    if as_json:
        print_json({"run_id": folder.name, "rows": n_rows, "file": str(output), "unknown": unknown})
        return
    note(f"{n_rows:,} rows")
    out.print(str(output), soft_wrap=True)
