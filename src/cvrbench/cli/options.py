"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from cvrbench.config.folder import complete


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    return complete(incomplete, context.params.get("overrides") or [])


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="GROUP=OPTION|KEY=VALUE",
        help="Hydra overrides: model=ncs dataset=kuairand trainer.epochs=2",
        autocompletion=_complete,
        show_default=False,
    ),
]
Own = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[data_dir=DIR] [logger=...]",
        help="Data folder and tracker, where they are not those of your own configuration: a run "
        "that may be somebody else's does not choose them",
        show_default=False,
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or a part of its name")]


def _folder(text: str) -> Path:
    """Return the folder that an option names; an empty text is a slip, not the current folder."""
    if not text:
        raise typer.BadParameter("the folder has no name; write . for the current one")
    return Path(text)


ResultsDir = Annotated[Path, typer.Option(help="Folder of results", parser=_folder, metavar="PATH")]
DataDir = Annotated[Path, typer.Option(help="Folder of datasets", parser=_folder, metavar="PATH")]
RESULTS = Path("results")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be run, and stop")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line")]
