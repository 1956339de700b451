"""The `cvrbench` command: its subcommands, and how errors become one sentence and an exit code."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cvrbench import __version__
from cvrbench.cli import compare, data, export, predict, report, reproduce, run, show, sweep
from cvrbench.cli.console import warn, write
from cvrbench.config.folder import find_conf
from cvrbench.errors import ConfigError, CvrbenchError, RunError, RunInterrupted

DONE, FAILED, MISUSE, INTERRUPTED = 0, 1, 2, 130


INSTEAD = {
    "train": "cvrbench run model=ncs",
    "fit": "cvrbench run model=ncs",
    "tune": "cvrbench sweep model=ncs",
    "models": "cvrbench ls models",
    "strategies": "cvrbench ls models",
    "plot": "cvrbench report --figures DIR",
    "list": "cvrbench ls, or cvrbench data list",
    "runs": "cvrbench ls",
    "results": "cvrbench report",
    "test": "cvrbench report",
    "evaluate": "cvrbench report",
    "datasets": "cvrbench data list",
    "version": "cvrbench --version",
    "help": "cvrbench --help",
}
"""What other programs call a command, and what it is here."""


class Commands(TyperGroup):
    """The commands; an EOFError, which typer takes for Ctrl-D, says what it is."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called, or say which one is meant."""
        of_data = {
            command.name or getattr(command.callback, "__name__", "")
            for command in data.app.registered_commands
        }
        usual = f"cvrbench data {' '.join(args)}" if args[0] in of_data else None
        meant = INSTEAD.get(args[0], usual) if args[0] not in self.commands else None
        if meant is not None:
            raise ConfigError(f"there is no command {args[0]!r}; write {meant}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Call the command."""
        try:
            Path.cwd()
        except FileNotFoundError:
            raise ConfigError(
                "the folder that this command was called in no longer exists; go to one that does"
            ) from None
        try:
            return super().invoke(ctx)
        except EOFError:
            raise RunError(
                "a helper process of this command has ended without an answer, as when the system "
                "kills it because memory runs out; the same command goes on where it was"
            ) from None
        except Exception as error:
            if (option := getattr(error, "option_name", None)) is None:
                raise
            raise _as_word(str(option), [*sys.argv[1:], ""]) or error from None


def _as_word(option: str, words: list[str]) -> ConfigError | None:
    """Return how a setting is written that was given as an option; None if it is none."""
    key = option.lstrip("-").replace("-", "_")
    if key not in {*find_conf().groups, "seed", "data_dir", "results_dir"}:
        return None
    place = next(k for k, word in enumerate(words) if word.partition("=")[0] == option)
    value = words[place].partition("=")[2] or words[place + 1] or "..."
    if words[0] == "report" and key == "results_dir":
        return ConfigError(f"{option}: the folder is a word of its own: cvrbench report {value}")
    return ConfigError(f"{option}: a setting is a word without dashes: {key}={value}")


app = typer.Typer(
    cls=Commands,
    name="cvrbench",
    help="Which way of sharing a network between click and conversion prediction is better?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=show.options())(run.run)
app.command()(run.resume)
app.command()(compare.compare)
app.command()(sweep.sweep)
app.command()(report.report)
app.command()(predict.predict)
app.command()(export.export)
app.command()(show.config)
app.command(name="ls")(show.list_runs)
app.command(name="rm")(show.remove_runs)
app.command()(show.show)
app.command()(show.diff)
app.command()(reproduce.reproduce)
app.command()(report.check)
app.command()(report.doctor)
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
