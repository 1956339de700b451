"""What all commands print with: results on stdout, the rest on stderr, bars on a terminal only.

Everything that is printed passes `SafeConsole`, `write` or `print_json`, and nowhere else are names
of users, files or attackers escaped for the terminal.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from cvrbench.errors import ConfigError
from cvrbench.report import escape_control

if TYPE_CHECKING:
    from cvrbench.data.downloads import FetchProgress
    from cvrbench.data.raw import RowsProgress
    from cvrbench.training import callbacks as training


class SafeConsole(Console):
    """A console on which no text is a command: no markup, no emoji, no control character."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text, escaped before its width is measured."""
        return super().render_str(escape_control(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, and escape what was text before it came here."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_control(text), style, control)


out = SafeConsole()
errors = SafeConsole(stderr=True)
ROOMY = 110
"""Columns of a terminal from which a training's bar is long and has the AUCs beside it."""
WIDE = 200
"""Width when piped: tables are cut to the terminal's width, a file has none."""

SIZES = {"kB": 1, "MB": 2, "GB": 3, "TB": 4}
"""Units and their powers of a thousand bytes."""

if not out.is_terminal:
    out.width = WIDE


def print_json(value: Any) -> None:
    """Print one JSON object as one line; a number that JSON has no word for (inf) is null."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        text = json.dumps(finite, allow_nan=False)
    print(text.replace("\x7f", r"\u007f"), flush=True)


def plain_table(*headers: str, **options: Any) -> Table:
    """Return a table without lines."""
    return Table(*headers, box=None, pad_edge=False, **options)


def write(text: str, end: str = "\n") -> None:
    """Print lines for a program or an editor, not wrapped to the width of a terminal."""
    print(escape_control(text), end=end, flush=True)


def heading(name: str, rest: str = "") -> None:
    """Print a name in bold and what else its line says."""
    out.print(Text.assemble((escape_control(name), "bold"), escape_control(rest)), soft_wrap=True)


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask on a terminal; `yes` answers for the user.

    Raises:
        ConfigError: Nobody is there to answer.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody can answer here: --yes does")
    errors.print(f"{question} [y/N] ", end="")
    return input().strip().lower() in {"y", "yes"}


def size_words(n_bytes: int) -> str:
    """Return a size for a person: `3.2 MB`."""
    unit = next((u for u in ("kB", "MB", "GB") if n_bytes < 1000 ** (SIZES[u] + 1)), "TB")
    return f"{n_bytes / 1000 ** SIZES[unit]:,.1f} {unit}"


def warn(text: str, style: str = "") -> None:
    """Print a line on stderr, however long."""
    errors.print(text, style=style, soft_wrap=True)


def note(text: str) -> None:
    """Print on a terminal what is no result; silent when piped."""
    if errors.is_terminal:
        errors.print(text, style="dim")


@contextmanager
def training_bar(title: str) -> "Iterator[Callable[[training.Progress], None]]":
    """Show a run: stage, steps, examples per second, time left, and where there is room its AUCs.

    A narrow terminal cuts the title at its end, and nothing else: a title begins with the number
    of the run in its plan.
    """
    wide = errors.width >= ROOMY
    bar = _bar(
        "{task.description}",
        MofNCompleteColumn(),
        "{task.fields[rate]}",
        TimeRemainingColumn(compact=True),
        *([_text("{task.fields[scores]}", "green")] if wide else []),
        width=16 if wide else 8,
        titled=True,
    )
    shown: dict[str, TaskID] = {}

    def update(now: "training.Progress") -> None:
        if bar.disable:
            return
        bar.update(
            _task_of(bar, shown, now.stage, title=title, scores=""),
            total=now.total_steps,
            completed=now.step,
            rate=f"{now.examples_per_second:,.0f} ex/s",
            scores=_scores(now.scores),
        )

    with bar:
        yield update


@contextmanager
def plan_bar(total: int) -> "Iterator[Callable[[int, int], None]]":
    """Show a plan whose runs others do: how many are done and failed, and the time left."""
    bar = _bar(
        "runs",
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        _text("{task.fields[failed]}", "red"),
        # Lines printed meanwhile go above the bar; rich would send a piped stdout there as well.
        redirect_stdout=out.is_terminal,
    )
    task = bar.add_task("", total=total, failed="")

    def update(done: int, failed: int) -> None:
        bar.update(task, completed=done, failed=f"{failed} failed" if failed else "")

    with bar:
        yield update


@contextmanager
def download_bar() -> "Iterator[Callable[[FetchProgress], None]]":
    """Show downloads: bytes, rate and time left."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    bar = _bar(
        "{task.description}",
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        transient=False,
    )
    shown: dict[str, TaskID] = {}

    def update(now: "FetchProgress") -> None:
        if now.file_name not in shown:
            shown[now.file_name] = bar.add_task(now.file_name, total=now.total)
        bar.update(shown[now.file_name], completed=now.received, total=now.total)

    with bar:
        yield update


@contextmanager
def preparing_bar() -> "Iterator[Callable[[RowsProgress], None]]":
    """Show a preparation: stage, share done, rows per second, time left."""
    bar = _bar(
        "{task.description}",
        TaskProgressColumn(),
        "{task.fields[rate]}",
        TimeRemainingColumn(compact=True),
        width=12,
    )
    shown: dict[str, TaskID] = {}

    def update(now: "RowsProgress") -> None:
        if bar.disable:
            return
        task = _task_of(bar, shown, now.stage)
        elapsed = bar.tasks[task].elapsed or 0.0
        rate = f"{now.rows / elapsed:,.0f} rows/s" if elapsed > 0 else ""
        # A stage that cannot tell how far it is keeps a bar without an end.
        bar.update(task, rate=rate, total=1.0 if now.done else None, completed=now.done)

    with bar:
        yield update


@contextmanager
def reading_bar(total: int) -> Iterator[Callable[[], None]]:
    """Show how many runs' predictions were read, their rate and the time left."""
    bar = _bar(
        "predictions",
        MofNCompleteColumn(),
        "{task.fields[rate]}",
        TimeRemainingColumn(compact=True),
    )
    task = bar.add_task("", total=total, rate="")

    def advance() -> None:
        bar.advance(task)
        speed = bar.tasks[task].speed
        bar.update(task, rate="" if speed is None else f"{speed:,.1f} runs/s")

    with bar:
        yield advance


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show that something of unknown length is under way."""
    if not errors.is_terminal:
        yield
        return
    with errors.status(Text(text)):
        yield


def _bar(
    about: str,
    *columns: ProgressColumn | str,
    width: int = 24,
    transient: bool = True,
    redirect_stdout: bool = True,
    titled: bool = False,
) -> Progress:
    """Build a bar, which a terminal alone shows: what it is about, the bar, and what follows it.

    With a title in front, that alone is cut where a terminal is narrow.
    """
    flexible = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    title = TextColumn("{task.fields[title]}", markup=False, table_column=flexible)
    return Progress(
        *([title] if titled else []),
        _text(about),
        BarColumn(bar_width=width),
        *(_text(one) if isinstance(one, str) else one for one in columns),
        console=errors,
        transient=transient,
        redirect_stdout=redirect_stdout,
        expand=titled,
        disable=not errors.is_terminal,
    )


def _text(template: str, style: str = "none") -> TextColumn:
    """Build a column of names, which are no markup."""
    return TextColumn(template, style=style, markup=False)


def _task_of(bar: Progress, shown: dict[str, TaskID], stage: str, **fields: Any) -> TaskID:
    """Return a stage's line; where it is a new one, those of the stages before it are hidden."""
    if stage not in shown:
        for other in shown.values():
            bar.update(other, visible=False)
        shown[stage] = bar.add_task(stage, total=None, rate="", **fields)
    return shown[stage]


def _scores(scores: dict[str, float | None] | None) -> str:
    found = [(name.rpartition("_"), v) for name, v in (scores or {}).items() if v is not None]
    return " ".join(f"{name} {v:.4f}" for (name, _, kind), v in found if kind in ("auc", "xauc"))
