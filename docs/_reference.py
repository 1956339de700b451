"""Write the generated pages of the reference, from the command line and from docstrings.

mkdocs calls `on_files` while it builds. Python has the public functions and what a new strategy,
objective, balancing method, interaction, metric or dataset is built from; the rest is internal.
"""

import html
import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {
    "python": (
        "Python: run, compose and read results",
        "What `import cvrbench` offers, the record of a run, and the errors.",
        (
            "cvrbench",
            "cvrbench.report.results.Results",
            "cvrbench.serving.predict.Predictor",
            "cvrbench.runs.record.RunRecord",
            "cvrbench.errors",
        ),
    ),
    "strategies": (
        "Parts of a strategy",
        "For [a strategy of your own](../../how-to/add-a-strategy.md).",
        ("cvrbench.strategies.base", "cvrbench.nn.Output", "cvrbench.nn.layers"),
    ),
    "objectives": (
        "Parts of an objective",
        "For [an objective of your own](../../how-to/add-an-objective.md).",
        ("cvrbench.objectives.base", "cvrbench.data.batches.Batch"),
    ),
    "balancing": (
        "Parts of a balancing method",
        "For [a balancing method of your own](../../how-to/add-a-balancing-method.md).",
        ("cvrbench.balancing.base",),
    ),
    "interactions": (
        "Parts of an interaction",
        "For [an interaction of your own](../../how-to/add-an-interaction.md).",
        ("cvrbench.nn.embedding.Interaction", "cvrbench.nn.FeatureEncoder"),
    ),
    "metrics": (
        "Metrics as functions",
        "Numbers from NumPy arrays; for [a metric of your own](../../how-to/add-a-metric.md).",
        ("cvrbench.metrics",),
    ),
    "datasets": (
        "Parts of a dataset",
        "For [a dataset of your own](../../how-to/add-a-dataset.md).",
        ("cvrbench.data.raw", "cvrbench.data.schema"),
    ),
}
"""Page below reference/api -> title, sentence, and the modules and objects it documents."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for page, (title, sentence, names) in PAGES.items():
        # The package's own page must not list its rooms.
        sections = [f"::: {name}\n    options:\n      show_submodules: false" for name in names]
        content = "\n\n".join([f"# {title}", sentence, *sections])
        files.append(File.generated(config, f"reference/api/{page}.md", content=content))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def commands() -> str:
    """Return the page of all commands and their options, in Markdown."""
    from cvrbench.cli.app import app

    parts = [
        "# Commands and their options",
        "What `cvrbench COMMAND --help` prints. Overrides (`model=ncs`) are explained in"
        " [Configuration](configuration.md).",
    ]
    for name, command in _walk(typer.main.get_command(app), "cvrbench"):
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        shown = [one.get_help_record(context) for one in command.params]
        rows = [
            f"| <code>{_cell(left)}</code> | {_cell(right)} |"
            for left, right in filter(None, shown)
        ]
        table = "\n".join(["| argument or option | meaning |", "|---|---|", *rows])
        parts += [f"## {name}", f"    {usage}", _unfolded(command.help), table]
    return "\n\n".join(parts) + "\n"


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, each with its full name."""
    if hasattr(command, "commands"):
        for word, below in command.commands.items():
            yield from _walk(below, f"{name} {word}")
    else:
        yield name, command


def _unfolded(text: str) -> str:
    """Return help as Markdown: examples that follow each other are one block below a blank line."""
    joined = re.sub(r"\n\n(?= {4}\S)", "\n", inspect.cleandoc(text))
    return re.sub(r"(?m)^(\S.*)\n(?= {4}\S)", r"\1\n\n", joined)


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split())).replace("|", "&#124;")
