"""`cvrbench config` and `cvrbench ls`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cvrbench.cli.console import out, print_json, write
from cvrbench.cli.run import AsJson, Overrides
from cvrbench.errors import ConfigError

ResultsDir = Annotated[Path, typer.Option(help="Folder of results")]


def options() -> str:
    """Return every group and its options, for the end of a help text; nothing without a conf."""
    from cvrbench.config.folder import find_conf, groups

    try:
        found = groups(find_conf())
    except (ConfigError, OSError):
        return ""
    return "\n\n".join(f"{group}=  {', '.join(names)}" for group, names in found.items())


def config(
    overrides: Overrides = None,
    where: Annotated[
        bool, typer.Option("--where", help="Print only the folder of yaml files")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the composed configuration and where each value comes from."""
    from cvrbench.config.compose import compose, origins
    from cvrbench.config.folder import find_conf
    from cvrbench.config.validate import config_to_dict

    if where:
        write(str(find_conf()))
        return
    if as_json:
        print_json(config_to_dict(compose(overrides or []).config))
        return
    table = Table("key", "value", "from", box=None, pad_edge=False)
    for key, value, origin in origins(overrides or []):
        table.add_row(key, value, origin)
    out.print(table)
    write(f"yaml files: {find_conf()}")


def list_runs(
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """List runs, finished and unfinished, and those whose record cannot be read."""
    from cvrbench.runs.store import ResultStore

    survey = ResultStore(results_dir).survey()
    begun = [one.folder for one in survey.begun]
    rows = [
        (record.run_id, "finished", str(record.environment.get("finished", "")))
        for record in survey.records
    ]
    rows += [(folder.name, "unfinished: cvrbench resume", "") for folder in begun]
    rows += [(one.folder.name, f"unreadable: {one.why}", "") for one in survey.unreadable]
    if as_json:
        for run_id, words, when in rows:
            state, _, why = words.partition(": ")
            known = {"run_id": run_id, "state": state, "finished": when or None}
            print_json({**known, "why": why} if state == "unreadable" else known)
        return
    table = Table("run", "state", "finished", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    if rows:
        out.print(table)
    else:
        out.print(f"no runs in {results_dir}")
