"""Arguments and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvrbench.config.folder import complete
from cvrbench.errors import ConfigError

if TYPE_CHECKING:
    from cvrbench.data.inspect import Wanted


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
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line")]

Click = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the click, 0 or 1")]
Conversion = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of the conversion, given a click")
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME=COLUMN", help="A task by its label; one option for each"),
]
User = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the user")]
Time = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column that orders the rows")]


def wanted(
    click: str | None,
    conversion: str | None,
    tasks: list[str] | None,
    user: str | None,
    time: str | None,
) -> "Wanted":
    """Return what the user says of the columns of a table.

    Raises:
        ConfigError: A task is not NAME=COLUMN, or a conversion comes without a click.
    """
    from cvrbench.data.inspect import Wanted

    labels = {"ctr": click, "cvr": conversion}
    for word in tasks or []:
        name, equals, label = word.partition("=")
        if not (name and equals and label):
            raise ConfigError(f"--task {word}: write NAME=COLUMN, as --task cart=added_to_cart")
        labels[name] = label
    given = {name: label for name, label in labels.items() if label is not None}
    if conversion is not None and click is None:
        raise ConfigError(
            f"--conversion {conversion} needs the click that it is given: --click COLUMN; a label "
            f"without one is --task NAME={conversion}"
        )
    return Wanted(tasks=given, only_these=bool(tasks), user=user, time=time)
