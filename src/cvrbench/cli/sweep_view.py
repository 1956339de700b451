"""The live view of a sweep: a table of its best and latest trials, what is spent, time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cvrbench.cli.console import errors

if TYPE_CHECKING:
    from cvrbench.studies import StudySummary
    from cvrbench.training.progress import Progress

ROWS = 12
"""Trials that the view has room for."""


class StudyView:
    """State of a study as the terminal shows it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.summary: StudySummary | None = None
        self.table: RenderableType = ""
        self.step = ""
        self.begun = time.monotonic()
        self.finished_before: int | None = None

    def on_summary(self, summary: "StudySummary") -> None:
        """Show a new state of the study."""
        if self.finished_before is None:
            self.finished_before = int(summary.spent["trials"])
        self.summary = summary
        if errors.is_terminal:
            self.table = _table(summary)

    def on_trial(self, number: int, now: "Progress") -> None:
        """Show the progress of this process's trial."""
        done = 100 * now.step // max(now.total_steps, 1)
        rate = f"{now.examples_per_second:,.0f} examples/s"
        self.step = f"trial {number} · {now.stage} {done} % · {rate}"

    def render(self) -> RenderableType:
        """Return the table of trials and a line of progress."""
        return Group(self.table, Text(self._line(), style="dim"))

    def _line(self) -> str:
        if self.summary is None:
            return f"{self.title}: beginning"
        spent, limits = self.summary.spent, self.summary.limits
        parts = [f"{self.title}: {_of(spent['trials'], limits['trials'])} trials"]
        parts += [
            f"{_of(spent[name], limits[name])} {name}"
            for name in ("epochs", "examples", "seconds")
            if limits[name] is not None
        ]
        return " · ".join(p for p in (*parts, self._left(), self.step) if p)

    def _left(self) -> str:
        """Time left, by what this command has seen of it."""
        assert self.summary is not None
        spent, limits = self.summary.spent, self.summary.limits
        done = spent["trials"] - (self.finished_before or 0)
        shares = [spent[name] / limit for name, limit in limits.items() if limit]
        if done < 1 or not shares or max(shares) <= 0:
            return ""
        each = (time.monotonic() - self.begun) / done
        trials_left = spent["trials"] / max(shares) - spent["trials"]
        minutes = max(0.0, each * trials_left) / 60
        return f"{minutes:.0f} min left" if minutes >= 1 else f"{60 * minutes:.0f} s left"


@contextmanager
def study_view(title: str) -> Iterator[StudyView]:
    """Show a study on a terminal; quiet when piped."""
    view = StudyView(title)
    if not errors.is_terminal:
        yield view
        return
    with Live(console=errors, transient=True, refresh_per_second=2, get_renderable=view.render):
        yield view


def _table(summary: "StudySummary") -> Table:
    from cvrbench.report.studies import trials_grid
    from cvrbench.report.tables import grid_table

    table = grid_table(trials_grid(summary, limit=ROWS))
    table.caption = None
    return table


def _of(value: float, limit: float | None) -> str:
    return f"{value:,.0f}" if limit is None else f"{value:,.0f}/{limit:,.0f}"
