"""Tables as cells of text, from which the terminal, Markdown, LaTeX and HTML are drawn alike."""

from dataclasses import dataclass
from typing import NamedTuple

from cvrbench.stats.intervals import Estimate


class Cell(NamedTuple):
    """Plain text, never markup; `strong` marks a difference that is real."""

    text: str
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table without a medium: the first column is words, all others are numbers."""

    title: str
    headers: tuple[str, ...]
    """A line break is where a narrow medium breaks the header; others read it as a space."""
    rows: tuple[tuple[Cell, ...], ...]
    last: tuple[Cell, ...] | None = None
    """A row set apart below the others."""
    caption: str


def cells(*texts: str) -> tuple[Cell, ...]:
    """Give a row of plain cells."""
    return tuple(map(Cell, texts))


def number(value: float | None) -> str:
    """Four decimals, or a dash where undefined."""
    return "-" if value is None else f"{value:.4f}"


def interval(estimate: Estimate | None) -> str:
    """`0.7253 ± 0.0011`, without the half where there is none."""
    if estimate is None:
        return "-"
    if estimate.half_width is None:
        return f"{estimate.mean:.4f}"
    return f"{estimate.mean:.4f} ± {estimate.half_width:.4f}"
