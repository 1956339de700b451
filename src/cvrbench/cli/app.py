"""The `cvrbench` command: its subcommands, and how errors become one sentence and an exit code."""

import os
import sys
from typing import Annotated

import typer

from cvrbench import __version__
from cvrbench.cli import browse, check, data, diff, export, report, reproduce, run, show, sweep
from cvrbench.cli.console import warn, write
from cvrbench.errors import ConfigError, CvrbenchError, RunInterrupted

DONE, FAILED, MISUSE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="cvrbench",
    help="Which way of sharing a network between click and conversion prediction is better?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=browse.options())(run.run)
app.command()(run.resume)
app.command()(sweep.sweep)
app.command()(report.report)
app.command()(export.export)
app.command()(browse.config)
app.command(name="ls")(browse.list_runs)
app.command()(show.show)
app.command()(diff.diff)
app.command()(reproduce.reproduce)
app.command()(check.check)
app.add_typer(data.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        write(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Which way of sharing a network between click and conversion prediction is better?"""


def main() -> int:
    """Run the command line.

    Returns:
        0 done, 1 something failed, 2 misuse, 130 interrupted.
    """
    try:
        app()
    except RunInterrupted as stop:
        warn(str(stop), style="yellow")
        return INTERRUPTED
    except CvrbenchError as error:
        warn(f"error: {error}", style="red")
        return MISUSE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python must not complain while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else FAILED
    return DONE
