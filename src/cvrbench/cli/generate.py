"""`cvrbench data generate`: raw files in a public dataset's format, with planted truth."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvrbench.cli.console import out, preparing_bar, print_json
from cvrbench.cli.run import AsJson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvrbench.data.generator.world import GeneratorConfig

TEST_SHARE = 4
"""Test rows are a quarter of the training rows unless wanted otherwise."""


class Format(StrEnum):
    """Datasets whose raw files can be generated."""

    aliccp = "aliccp"


def _rows(text: str) -> int:
    """Read `1e6`, `1_000_000` or `1000000`."""
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number of rows, such as 1e6") from None
    if not number.is_integer():
        raise typer.BadParameter(f"{text} is no whole number of rows")
    return int(number)


Name = Annotated[Format, typer.Argument(help="In whose format")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; empty or new")]
Rows = Annotated[int, typer.Option(parser=_rows, metavar="N", help="Training rows, such as 1e6")]
TestRows = Annotated[
    int | None,
    typer.Option(parser=_rows, metavar="N", help="Test rows; a quarter as many if not given"),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes")]
Ctr = Annotated[float, typer.Option(help="Share of rows that are clicked")]
Cvr = Annotated[float, typer.Option(help="Share of clicks that convert")]
Conflict = Annotated[float, typer.Option(help="Strength of effects of opposite sign on the tasks")]
Card = Annotated[float, typer.Option(help="Number of values of a field, 1 = real")]
Hist = Annotated[float, typer.Option(help="Length of the histories, 1 = real")]
Anomaly = Annotated[float, typer.Option(help="Share of rows with a conversion but no click")]
Replay = Annotated[
    int | None,
    typer.Option(
        parser=_rows,
        metavar="N",
        help="Draw N rows, then repeat them with fresh ids and labels; for 10^8 rows",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores")]


def generate(
    name: Name,
    out_dir: Out,
    rows: Rows = 100_000,
    test_rows: TestRows = None,
    seed: Seed = 0,
    ctr: Ctr = 0.03887,
    cvr: Cvr = 0.00535,
    conflict: Conflict = 0.8,
    card: Card = 1.0,
    hist: Hist = 1.0,
    anomaly: Anomaly = 5.4e-6,
    replay: Replay = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write raw files in Ali-CCP's format whose true probabilities are known.

    Examples:
        cvrbench data generate aliccp --rows 1e6 --out generated

        cvrbench data prepare aliccp --raw generated
    """
    from cvrbench.data.generator.world import GeneratorConfig

    config = GeneratorConfig(
        rows=rows,
        test_rows=test_rows if test_rows is not None else max(rows // TEST_SHARE, 10),
        seed=seed,
        card=card,
        hist=hist,
        ctr=ctr,
        cvr=cvr,
        conflict=conflict,
        anomaly=anomaly,
        replay=replay,
    )
    manifest = _write(config, out_dir, workers or os.cpu_count() or 1)
    if as_json:
        print_json({"path": str(out_dir), **manifest})
    else:
        _print_totals(manifest)
        out.print(f"{out_dir}; go on with `cvrbench data prepare {name.value} --raw {out_dir}`")


def _print_totals(manifest: "Mapping[str, Any]") -> None:
    for half in ("train", "test"):
        n = manifest[half]
        out.print(
            f"{half}: {n['rows']:,} rows, {n['clicks']:,} clicks, {n['conversions']:,} conversions,"
            f" {n['common_rows']:,} common rows"
        )


def _write(config: "GeneratorConfig", out_dir: Path, workers: int) -> "dict[str, Any]":
    from cvrbench.data.generator import generate as write
    from cvrbench.data.raw import RowsProgress

    with preparing_bar() as on_rows:

        def on_progress(done: int, total: int) -> None:
            on_rows(RowsProgress("generating", done, done / total))

        return write(config, out_dir, workers=workers, on_progress=on_progress)
