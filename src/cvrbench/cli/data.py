"""`cvrbench data`: list, fetch, generate, prepare, describe and verify datasets."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cvrbench.cli.console import (
    download_bar,
    heading,
    out,
    preparing_bar,
    print_json,
    working,
    write,
)
from cvrbench.cli.options import AsJson, Overrides
from cvrbench.config.folder import datasets
from cvrbench.errors import ConfigError

if TYPE_CHECKING:
    from cvrbench.config.dataset import DatasetConfig
    from cvrbench.data.dataset import Dataset
    from cvrbench.data.registry import Description

app = typer.Typer(
    help="List, fetch, generate, prepare, describe and verify datasets.", no_args_is_help=True
)

PRESET, DEFAULT_PRESET = "preset=", "lossless"
"""`preset=aitm` is short for the dataset of that name behind a `_`: aliccp_aitm."""


class OnError(StrEnum):
    """What to do at a faulty line."""

    stop = "stop"
    skip = "skip"


Name = Annotated[
    str, typer.Argument(help="A dataset, as `cvrbench data list` shows", autocompletion=datasets)
]


@app.command(name="list")
def list_datasets(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List datasets: what is prepared, and where raw files come from."""
    from cvrbench.config.folder import find_conf, groups

    table = Table("dataset", "state", "rows", "licence of the data", box=None, pad_edge=False)
    for name in groups(find_conf())["dataset"]:
        state, rows, licence = _status(name, overrides or [])
        if as_json:
            print_json({"dataset": name, "state": state, "rows": rows, "licence": licence})
        table.add_row(name, state, f"{rows:,}" if rows is not None else "", licence)
    if not as_json:
        out.print(table)


@app.command()
def fetch(
    name: Name,
    data_dir: Annotated[Path, typer.Option(help="Folder of datasets")] = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Download a public dataset, or say what to download where a login is needed."""
    from cvrbench.data.downloads import fetch as download

    with download_bar() as on_progress:
        files = download(name, data_dir / "raw" / name, on_progress=on_progress)
    if as_json:
        print_json({"dataset": name, "files": [str(file) for file in files]})
        return
    for file in files:
        write(str(file))


@app.command()
def prepare(
    name: Name,
    overrides: Overrides = None,
    raw: Annotated[
        Path | None, typer.Option(help="Folder or archive with the raw files", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare again what is prepared")] = False,
    on_error: Annotated[
        OnError, typer.Option(help="At a faulty line: stop, or skip and account for it (aliccp)")
    ] = OnError.stop,
    max_skips: Annotated[int, typer.Option(min=0, help="Most lines to skip")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Check, clean, split and encode a dataset.

    Examples:
        cvrbench data prepare aliccp --raw DIR

        cvrbench data prepare aliccp --raw DIR preset=aitm
    """
    from cvrbench.data.raw import Tolerance
    from cvrbench.data.registry import ensure

    config, name, data_dir = _compose(name, overrides)
    with preparing_bar() as on_rows:
        dataset = ensure(
            config,
            name,
            data_dir,
            raw=raw,
            force=force,
            tolerance=Tolerance(on_error.value, max_skips),
            on_rows=on_rows,
        )
    _print_prepared(dataset, as_json=as_json)


@app.command()
def describe(
    name: Name,
    overrides: Overrides = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG", help="Where the picture goes; default: beside the prepared data"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show fields, cardinalities and label rates per split and space, with a picture."""
    from cvrbench.data.registry import describe as describe_dataset
    from cvrbench.data.registry import description_json, ensure
    from cvrbench.metrics.evaluation import counts
    from cvrbench.report.figures.runs import description_figure
    from cvrbench.report.figures.style import save

    with preparing_bar() as on_rows:
        dataset = ensure(*_compose(name, overrides), on_rows=on_rows)
    splits = (dataset.train, dataset.valid, dataset.test)
    found = {split.name: counts(dataset.schema, split.labels) for split in splits}
    description = describe_dataset(dataset, found)
    if as_json:
        print_json(description_json(description))
    else:
        _print_description(description)
    path = figure or dataset.path.parent / f"{dataset.path.name}.png"
    written = save(description_figure(description), path)
    if not as_json:
        out.print(f"picture: {written}", soft_wrap=True)


@app.command()
def verify(name: Name, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare every file of a prepared dataset with its recorded checksum."""
    from cvrbench.data.dataset import verify as compare
    from cvrbench.data.registry import prepared_folder

    config, name, data_dir = _compose(name, overrides)
    folder = prepared_folder(config, name, data_dir)
    with working(f"reading {folder}"):
        n = compare(folder)
    if as_json:
        print_json({"dataset": name, "path": str(folder), "files": n})
        return
    out.print(f"{name}: {n} files are as they were written")


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


GeneratedName = Annotated[Format, typer.Argument(help="In whose format")]
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


@app.command()
def generate(
    name: GeneratedName,
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
    from cvrbench.data.generator import generate as generate_files
    from cvrbench.data.generator.world import GeneratorConfig
    from cvrbench.data.raw import RowsProgress

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
    with preparing_bar() as on_rows:
        manifest = generate_files(
            config,
            out_dir,
            workers=workers or os.cpu_count() or 1,
            on_progress=lambda n, total: on_rows(RowsProgress("generating", n, n / total)),
        )
    if as_json:
        print_json({"path": str(out_dir), **manifest})
        return
    for half in ("train", "test"):
        n = manifest[half]
        out.print(
            f"{half}: {n['rows']:,} rows, {n['clicks']:,} clicks, {n['conversions']:,} conversions,"
            f" {n['common_rows']:,} common rows"
        )
    out.print(f"{out_dir}; go on with `cvrbench data prepare {name.value} --raw {out_dir}`")


def _status(name: str, overrides: list[str]) -> tuple[str, int | None, str]:
    """State, rows if prepared, and licence of one option of the group `dataset`."""
    from cvrbench.data.downloads import licence_of
    from cvrbench.data.registry import status

    try:
        config, name, data_dir = _compose(name, overrides)
    except ConfigError as problem:
        return f"its yaml is to be filled in: {problem}", None, ""
    state, rows = status(config, name, data_dir)
    return state, rows, licence_of(config.kind)


def _compose(name: str, overrides: list[str] | None) -> tuple["DatasetConfig", str, Path]:
    """Return the dataset's configuration, its name, and the folder of datasets."""
    from cvrbench.config.compose import compose

    texts = overrides or []
    presets = [text.removeprefix(PRESET) for text in texts if text.startswith(PRESET)]
    if presets and presets[-1] != DEFAULT_PRESET:
        name = f"{name}_{presets[-1]}"
    rest = [text for text in texts if not text.startswith(PRESET)]
    composed = compose([f"dataset={name}", *rest])
    return composed.config.dataset, composed.choices["dataset"], Path(composed.config.data_dir)


def _print_description(description: "Description") -> None:
    heading(description.name, f" (fingerprint {description.fingerprint})")
    rates = Table("space", *(s for s in description.counts), box=None, pad_edge=False)
    for space in description.counts["train"]:
        cells = [
            f"{spaces[space]['positives']:,} of {spaces[space]['rows']:,} "
            f"({description.rates[split][space]:.2%})"
            for split, spaces in description.counts.items()
        ]
        rates.add_row(space, *cells)
    out.print(rates)
    fields = Table("field", "kind", box=None, pad_edge=False)
    for header in ("ids", "missing", "unknown in test", "most frequent id"):
        fields.add_column(header, justify="right")
    for fact in description.fields:
        if fact.kind == "numeric":
            fields.add_row(fact.name, fact.kind, "", "", "", "")
            continue
        shares = (fact.missing, fact.unknown_test, fact.top_share)
        fields.add_row(fact.name, fact.kind, f"{fact.ids:,}", *(f"{s:.1%}" for s in shares))
    out.print()
    out.print(fields)
    out.print()
    for reason, n in description.accounting.items():
        out.print(f"rows {reason}: {n:,}")


def _print_prepared(dataset: "Dataset", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "path": str(dataset.path),
                "rows": dataset.schema.rows,
                "fingerprint": dataset.schema.fingerprint,
                "accounting": dataset.manifest["accounting"],
                "remarks": dataset.manifest.get("remarks", []),
            }
        )
        return
    rows = ", ".join(f"{n:,} {split}" for split, n in dataset.schema.rows.items())
    heading(dataset.schema.name, f": {rows} rows; {dataset.schema.vocabulary_size:,} ids")
    for reason, n in dataset.manifest["accounting"].items():
        out.print(f"  {reason}: {n:,} rows")
    for remark in dataset.manifest.get("remarks", []):
        out.print(f"  {remark}")
    out.print(str(dataset.path), soft_wrap=True)
