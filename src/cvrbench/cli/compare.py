"""`cvrbench compare`: from a file to an answer, by what the other commands do."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.cli.console import out, preparing_bar, print_json, warn, working, write
from cvrbench.cli.data import write_new
from cvrbench.cli.options import (
    AsJson,
    Click,
    Conversion,
    DryRun,
    Overrides,
    Tasks,
    Time,
    User,
    wanted,
)
from cvrbench.cli.plan import run_plan
from cvrbench.cli.report import report
from cvrbench.errors import ConfigError

if TYPE_CHECKING:
    from cvrbench.data.inspect import Inspection, Wanted

MODELS = ("single_task", "shared_bottom", "mmoe", "ple", "ncs")


def compare(
    file: Annotated[Path, typer.Argument(help="A .csv, .tsv or .parquet, or a folder of them")],
    overrides: Overrides = None,
    click: Click = None,
    conversion: Conversion = None,
    task: Tasks = None,
    user: User = None,
    time: Time = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Most minutes: decides how many seeds and epochs")
    ] = 15,
    name: Annotated[
        str | None,
        typer.Option(help="What to call the dataset; its yaml is conf/dataset/NAME.yaml"),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Say which strategy to take for your own log: inspect, prepare, run five, report.

    Examples:
        cvrbench compare log.parquet --dry-run

        cvrbench compare log.csv --click clicked --conversion bought --user user_id --time ts

        cvrbench compare log.csv --minutes 60 model=shared_bottom,mmoe objective=entire_space
    """
    from cvrbench.config.compose import plan, take_launcher
    from cvrbench.launch import check_installed
    from cvrbench.runs.planning import check_plan

    own = overrides or []
    keys = {word.partition("=")[0] for word in own}
    if taken := keys & {"dataset", "dataset.path"}:
        raise ConfigError(f"{taken.pop()}= is what {file} says here; leave it out")
    dataset = _dataset(file, wanted(click, conversion, task, user, time), name)
    words = [f"dataset={dataset}", *own]
    if "model" not in keys:
        words.insert(1, f"model={','.join(MODELS)}")
    launcher, words = take_launcher(words)
    check_installed(launcher)
    cells = plan(words, multirun=True)
    with preparing_bar() as on_rows:
        check_plan(cells, on_rows=on_rows)
    words += _affordable(words, keys, minutes, as_json=as_json)
    line = shlex.join(["cvrbench", "run", "-m", *words])
    if as_json:
        print_json({"dataset": dataset, "command": line})
    else:
        out.print(f"the same again: {line}\n", soft_wrap=True)
    if dry_run:
        return
    cells = plan(words, multirun=True)
    _, failed = run_plan(cells, launcher, force=False, fail_fast=False, as_json=as_json)
    report([cells[0].config.results_dir, f"dataset={dataset}"], as_json=as_json)
    for said in failed:
        warn(said, style="red")
    if failed:
        raise typer.Exit(1)


def _dataset(file: Path, said: "Wanted", name: str | None) -> str:
    """Write the yaml of a table, or find it as it was written; return the dataset's name."""
    from cvrbench.data.inspect import inspect

    with working(f"reading {file}"):
        found = inspect(file, said)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", file.name.split(".")[0]).strip("_-")
    name = name or plain or "mine"
    yaml = Path("conf", "dataset", f"{name}.yaml")
    text = found.yaml(name)
    if yaml.is_file() and yaml.read_text() != text:
        raise ConfigError(
            f"{yaml} is there already, and is not what this command would write: take it as it is "
            f"with `cvrbench run -m dataset={name} model={','.join(MODELS)} seed=0..2`, or call "
            "this one otherwise with --name"
        )
    write_new(yaml, text)
    _print_guess(found, yaml, text)
    labels = [column.name for column in found.columns if column.role == "label"]
    if len(labels) == 1:
        raise ConfigError(
            f"{labels[0]} is the only label, and a single task shares with none: name the second "
            "one by --conversion COLUMN or --task NAME=COLUMN; `cvrbench run model=shared_bottom "
            f"dataset={name}` trains a network for {labels[0]} alone"
        )
    return name


def _print_guess(found: "Inspection", yaml: Path, text: str) -> None:
    left = [column for column in found.columns if column.role == "left out"]
    warn(f"{yaml}, guessed from {found.rows:,} rows of {found.path}; edit it where it is wrong:\n")
    for line in text.splitlines()[1:]:
        warn(f"    {line}")
    warn("".join(f"\nleft out: {c.name} ({c.why})" for c in left) + "\n")


def _affordable(words: list[str], keys: set[str], minutes: float, *, as_json: bool) -> list[str]:
    """Time every strategy; return the seeds and epochs that fit, where the user names no seeds."""
    from cvrbench.config.compose import plan
    from cvrbench.runs.planning import afford, measure

    cells = plan([word for word in words if not word.startswith("seed=")], multirun=True)
    paces = []
    for cell in cells:
        with working(f"timing {cell.choices['model']}"):
            paces.append(measure(cell))
    limit = cells[0].config.trainer.epochs
    seeds, epochs, seconds = afford(paces, limit, 60 * minutes)
    if "seed" in keys:
        seeds, epochs = len(plan(words, multirun=True)) // len(cells), limit
        seconds = seeds * sum(pace.seconds(limit) for pace in paces)
    plural = "" if seeds == 1 else "s"
    size = f"{len(paces)} strategies x {seeds} seed{plural} x at most {epochs} epochs"
    if seconds > 60 * minutes:
        raise ConfigError(
            f"{size} may take {seconds / 60:.1f} minutes here, more than --minutes {minutes:g}; "
            "give more, or fewer strategies: model=shared_bottom,mmoe"
        )
    rates = ", ".join(f"{pace.model} {pace.rate:,.0f}" for pace in paces)
    told = f"{size}: at most {seconds / 60:.1f} of {minutes:g} minutes (rows a second: {rates})"
    (warn if as_json else write)(told)
    chosen = [] if "seed" in keys else [f"seed=0..{seeds - 1}"]
    return chosen if epochs == limit else [*chosen, f"trainer.epochs={epochs}"]
