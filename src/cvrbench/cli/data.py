"""`cvrbench data`: list, inspect, fetch, generate, prepare, describe and verify datasets."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cvrbench.cli.console import (
    confirmed,
    download_bar,
    heading,
    out,
    plain_table,
    preparing_bar,
    print_json,
    size_words,
    warn,
    working,
    write,
)
from cvrbench.cli.options import (
    RESULTS,
    AsJson,
    Click,
    Conversion,
    DataDir,
    Overrides,
    ResultsDir,
    Tasks,
    Time,
    User,
    Yes,
    wanted,
)
from cvrbench.config.folder import datasets
from cvrbench.errors import ConfigError, StoreError
from cvrbench.system.files import explain_write, write_text

if TYPE_CHECKING:
    from cvrbench.config.dataset import DatasetConfig
    from cvrbench.data.registry import Description

app = typer.Typer(
    help="List, inspect, fetch, generate, prepare, describe and verify datasets.",
    no_args_is_help=True,
)

PRESET, DEFAULT_PRESET = "preset=", "lossless"
"""`preset=aitm` is short for the dataset of that name behind a `_`: aliccp_aitm."""


def _called(name: str) -> str:
    """Take `dataset=kuairand` for `kuairand`."""
    return name.removeprefix("dataset=")


Name = Annotated[
    str,
    typer.Argument(
        help="A dataset, as `cvrbench data list` shows", autocompletion=datasets, callback=_called
    ),
]


@app.command(name="list")
def list_datasets(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List datasets: what is prepared, and where raw files come from."""
    from cvrbench.config.folder import find_conf
    from cvrbench.data.downloads import licence_of
    from cvrbench.data.registry import prepared_folders, status
    from cvrbench.data.sources import raw_folders
    from cvrbench.system.files import size_of

    table = plain_table("dataset", "state", "rows", "size", "licence of the data")
    for name in find_conf().groups["dataset"]:
        size = None
        try:
            config, name, data_dir = _compose(name, overrides)
            state, rows = status(config, name, data_dir)
            if folders := prepared_folders(name, data_dir):
                size = sum(map(size_of, folders))
            licence = licence_of((*raw_folders(config), config.kind)[0])
        except ConfigError as problem:
            state, rows, licence = f"its yaml is to be filled in: {problem}", None, ""
        if as_json:
            plain = {"dataset": name, "state": state, "rows": rows, "bytes": size}
            print_json({**plain, "licence": licence})
        shown = "" if size is None else size_words(size)
        table.add_row(name, state, f"{rows:,}" if rows is not None else "", shown, licence)
    if not as_json:
        out.print(table)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .csv, .tsv or .parquet, or a folder of them")],
    click: Click = None,
    conversion: Conversion = None,
    task: Tasks = None,
    user: User = None,
    time: Time = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the yaml alone")] = False,
    to: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the yaml there, if it is new"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Guess what the columns of your log are, and print the yaml that makes it a dataset.

    Examples:
        cvrbench data inspect log.parquet

        cvrbench data inspect log.csv --click clicked --conversion bought -o conf/dataset/mine.yaml
    """
    from cvrbench.data.inspect import inspect as inspect_table

    with working(f"reading {file}"):
        found = inspect_table(file, wanted(click, conversion, task, user, time))
    text = found.yaml(to.stem if to is not None else "mine")
    if as_json:
        print_json({"columns": [c._asdict() for c in found.columns], "keys": found.keys})
    elif yaml:
        write(text, end="")
    else:
        table = plain_table("column", "role", "why")
        for column in found.columns:
            table.add_row(*column)
        out.print(table)
        out.print(f"\nguessed from {found.rows:,} rows; read it before you believe it:\n")
        write(text, end="")
    if to is not None:
        write_new(to, text)
        warn(f"wrote {to}")


def write_new(file: Path, text: str) -> None:
    """Write a file that must not be there with another content.

    Raises:
        ConfigError: It is.
    """
    if file.exists() and (not file.is_file() or file.read_text() != text):
        raise ConfigError(
            f"{file} is there already, and differs; edit or remove it, or name another"
        )
    with explain_write(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


@app.command()
def fetch(
    name: Name,
    data_dir: DataDir = Path("datasets"),
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
        Literal["stop", "skip"],
        typer.Option(help="At a faulty line: stop, or skip and account for it (aliccp)"),
    ] = "stop",
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
    from cvrbench.data.sources import raw_folders

    tolerance = Tolerance(on_error, max_skips)
    own = _compose(name, overrides)
    if raw is not None and not raw_folders(own[0]):
        key = "dataset.path" if own[0].kind == "table" else None
        raise ConfigError(
            f"--raw {raw}: {name} is read from {key}: write {key}={raw}"
            if key
            else f"--raw {raw}: {name} is drawn, not read; leave it out"
        )
    with preparing_bar() as on_rows:
        dataset = ensure(*own, raw=raw, force=force, tolerance=tolerance, on_rows=on_rows)
    schema, accounting = dataset.schema, dataset.manifest["accounting"]
    remarks = dataset.manifest.get("remarks", [])
    cut = dataset.manifest.get("split", [])
    if as_json:
        facts = {"path": str(dataset.path), "rows": schema.rows, "fingerprint": schema.fingerprint}
        print_json({**facts, "accounting": accounting, "split": cut, "remarks": remarks})
        return
    rows = ", ".join(f"{n:,} {split}" for split, n in schema.rows.items())
    heading(schema.name, f": {rows} rows; {schema.vocabulary_size:,} ids")
    read = [f"{reason}: {n:,} rows" for reason, n in accounting.items()]
    for line in (*read, *cut, *remarks):
        out.print(f"  {line}")
    out.print(str(dataset.path), soft_wrap=True)


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
    found = {split.name: counts(dataset.schema, split.labels, split.weights) for split in splits}
    description = describe_dataset(dataset, found)
    if as_json:
        print_json(description_json(description))
    else:
        _print_description(description)
    path = figure or dataset.path.parent / f"{dataset.path.name}.png"
    try:
        written = save(description_figure(description), path, titles=True)
    except StoreError as error:
        raise StoreError(f"{error}".partition("; set ")[0] + "; name another by --figure") from None
    if not as_json:
        out.print(f"picture: {written}", soft_wrap=True)


@app.command()
def sample(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .parquet")],
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Most rows")] = 1000,
    split: Annotated[Literal["train", "valid", "test"], typer.Option()] = "test",
) -> None:
    """Write rows of a dataset as it is learnt from: the columns that `predict` takes.

    Examples:
        cvrbench data sample kuairand -o rows.parquet
    """
    from cvrbench.data.registry import first_rows

    found = first_rows(*_compose(name, overrides), split=split, most=rows)
    if output.exists():
        raise ConfigError(f"{output} is there already; name another, or remove it")
    with explain_write(output):
        found.write_parquet(output)
    write(f"{output}: {len(found):,} rows of {split}, {len(found.columns)} columns")


@app.command(name="rm")
def remove(
    name: Name,
    data_dir: DataDir = Path("datasets"),
    results_dir: ResultsDir = RESULTS,
    yes: Yes = False,
) -> None:
    """Remove what is prepared of a dataset; raw files and results stay."""
    from cvrbench.data.registry import prepared_folders
    from cvrbench.data.writer import remove_prepared
    from cvrbench.runs.store import ResultStore
    from cvrbench.system.files import size_of

    folders = prepared_folders(name, data_dir)
    if not folders:
        raise ConfigError(f"nothing is prepared of {name!r} in {data_dir}; `cvrbench data list`")
    store = ResultStore(results_dir)
    for run in store.unfinished():
        if run.name.startswith(f"{name}-") and store.is_busy(run.name):
            raise ConfigError(f"{run} is being run on {name}; wait until it has ended")
    for folder in folders:
        out.print(f"{folder}  {size_words(size_of(folder))}", soft_wrap=True)
    if confirmed(f"Remove {'it' if len(folders) == 1 else 'them'}?", yes=yes):
        for folder in folders:
            remove_prepared(folder)


@app.command()
def verify(name: Name, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare every file of a prepared dataset with its recorded checksum."""
    from cvrbench.data.dataset import verify as compare
    from cvrbench.data.registry import prepared_folder

    folder = prepared_folder(*_compose(name, overrides))
    with working(f"reading {folder}"):
        n = compare(folder)
    if as_json:
        print_json({"dataset": name, "path": str(folder), "files": n})
        return
    out.print(f"{name}: {n} files are as they were written")


def _rows(text: str) -> int:
    """Read `1e6`, `1_000_000` or `1000000`."""
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number of rows, such as 1e6") from None
    if not number.is_integer():
        raise typer.BadParameter(f"{text} is no whole number of rows")
    return int(number)


Rows = typer.Option(parser=_rows, metavar="N", help="Training rows, such as 1e6")
TestRows = typer.Option(parser=_rows, metavar="N", help="Test rows; a quarter as many if not given")
Replay = typer.Option(
    parser=_rows,
    metavar="N",
    help="Draw N rows, then repeat them with fresh ids and labels; for 10^8 rows",
)
Conflict = typer.Option(help="Strength of effects of opposite sign on the tasks")
Anomaly = typer.Option(help="Share of rows with a conversion but no click")


@app.command()
def generate(
    name: Annotated[Literal["aliccp"], typer.Argument(help="In whose format")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write; empty or new")],
    rows: Annotated[int, Rows] = 100_000,
    test_rows: Annotated[int | None, TestRows] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes")] = 0,
    ctr: Annotated[float, typer.Option(help="Share of rows that are clicked")] = 0.03887,
    cvr: Annotated[float, typer.Option(help="Share of clicks that convert")] = 0.00535,
    conflict: Annotated[float, Conflict] = 0.8,
    card: Annotated[float, typer.Option(help="Number of values of a field, 1 = real")] = 1.0,
    hist: Annotated[float, typer.Option(help="Length of the histories, 1 = real")] = 1.0,
    anomaly: Annotated[float, Anomaly] = 5.4e-6,
    replay: Annotated[int | None, Replay] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes; as many as cores")
    ] = None,
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
        test_rows=test_rows if test_rows is not None else max(rows // 4, 10),
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
    out.print(f"{out_dir}; go on with `cvrbench data prepare {name} --raw {out_dir}`")


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
    rates = plain_table("space", *description.counts)
    for space in description.counts["train"]:
        cells = [
            f"{spaces[space]['positives']:,} of {spaces[space]['rows']:,} "
            f"({description.rates[split][space]:.2%})"
            for split, spaces in description.counts.items()
        ]
        rates.add_row(space, *cells)
    out.print(rates)
    fields = plain_table("field", "kind")
    for header in ("ids", "missing", "unknown in test", "most frequent id"):
        fields.add_column(header, justify="right")
    for fact in description.fields:
        cells = [f"{fact.ids:,}", *(f"{s:.1%}" for s in (fact.missing, fact.unknown_test))]
        cells = ["", cells[1]] if fact.kind == "numeric" else [*cells, f"{fact.top_share:.1%}"]
        fields.add_row(fact.name, fact.kind, *([] if fact.kind.startswith("vector") else cells))
    out.print()
    out.print(fields)
    out.print()
    for reason, n in description.accounting.items():
        out.print(f"rows {reason}: {n:,}")
    for line in description.split:
        out.print(line)
