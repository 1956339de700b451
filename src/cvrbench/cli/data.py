"""`cvrbench data`: list, fetch, prepare, describe and verify datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cvrbench.cli.console import download_bar, out, print_json, working
from cvrbench.cli.run import AsJson, Overrides
from cvrbench.config.complete import datasets
from cvrbench.errors import ConfigError

if TYPE_CHECKING:
    from cvrbench.config.compose import Composed
    from cvrbench.data.dataset import Dataset
    from cvrbench.data.describe import Description

app = typer.Typer(help="List, fetch, prepare, describe and verify datasets.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="A dataset, as `cvrbench data list` shows", autocompletion=datasets)
]


@app.command(name="list")
def list_datasets(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List datasets: what is prepared, and where raw files come from."""
    from cvrbench.config.locate import find_conf, groups

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
    from cvrbench.data.fetch import fetch as download

    with download_bar() as on_progress:
        files = download(name, data_dir / "raw" / name, on_progress=on_progress)
    if as_json:
        print_json({"dataset": name, "files": [str(file) for file in files]})
        return
    for file in files:
        print(file)


@app.command()
def prepare(
    name: Name,
    overrides: Overrides = None,
    raw: Annotated[
        Path | None, typer.Option(help="Folder or archive with the raw files", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare again what is prepared")] = False,
    as_json: AsJson = False,
) -> None:
    """Check, clean, split and encode a dataset."""
    from cvrbench.data.library import ensure

    composed = _compose(name, overrides)
    config = composed.config
    with working(f"preparing {name}"):
        dataset = ensure(config.dataset, name, Path(config.data_dir), raw=raw, force=force)
    if as_json:
        print_json(
            {
                "path": str(dataset.path),
                "rows": dataset.schema.rows,
                "fingerprint": dataset.schema.fingerprint,
                "accounting": dataset.manifest["accounting"],
            }
        )
        return
    rows = ", ".join(f"{n:,} {split}" for split, n in dataset.schema.rows.items())
    out.print(f"[bold]{name}[/bold]: {rows} rows; {dataset.schema.vocabulary_size:,} ids")
    for reason, n in dataset.manifest["accounting"].items():
        out.print(f"  {reason}: {n:,} rows")
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
    from cvrbench.data.describe import to_json
    from cvrbench.report.plots import description_figure, save

    dataset = _open(_compose(name, overrides))
    description = _describe(dataset)
    if as_json:
        print_json(to_json(description))
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
    from cvrbench.data.library import prepared_folder

    config = _compose(name, overrides).config
    folder = prepared_folder(config.dataset, name, Path(config.data_dir))
    with working(f"reading {folder}"):
        n = compare(folder)
    if as_json:
        print_json({"dataset": name, "path": str(folder), "files": n})
        return
    out.print(f"{name}: {n} files are as they were written")


def _status(name: str, overrides: list[str]) -> tuple[str, int | None, str]:
    """State, rows if prepared, and licence of one option of the group `dataset`."""
    from cvrbench.data.fetch import licence_of
    from cvrbench.data.library import status

    try:
        config = _compose(name, overrides).config
    except ConfigError as problem:
        return f"its yaml is to be filled in: {problem}", None, ""
    state, rows = status(config.dataset, name, Path(config.data_dir))
    return state, rows, licence_of(config.dataset.kind)


def _compose(name: str, overrides: list[str] | None) -> "Composed":
    from cvrbench.config.compose import compose

    return compose([f"dataset={name}", *(overrides or [])])


def _open(composed: "Composed") -> "Dataset":
    from cvrbench.data.library import ensure

    config = composed.config
    with working("preparing the data"):
        return ensure(config.dataset, composed.choices["dataset"], Path(config.data_dir))


def _describe(dataset: "Dataset") -> "Description":
    from cvrbench.data.describe import describe as look
    from cvrbench.evaluation import counts

    splits = (dataset.train, dataset.valid, dataset.test)
    return look(dataset, {s.name: counts(dataset.schema, s.labels) for s in splits})


def _print_description(description: "Description") -> None:
    out.print(f"[bold]{description.name}[/bold] (fingerprint {description.fingerprint})")
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
