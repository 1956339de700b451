"""Tables as cells of text, drawn alike in the terminal, Markdown and LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from cvrbench.data.schema import Task
from cvrbench.metrics.evaluation import describe_metric
from cvrbench.report import escape_control
from cvrbench.runs.record import RunRecord
from cvrbench.stats.difference import Estimate


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
    """Return a row of plain cells."""
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


def share(value: float) -> str:
    """`16.5 %`."""
    return f"{100 * value:.1f} %"


def p_value(p: float) -> str:
    """`p=0.012`, or `p<0.001`."""
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


WHOLE = re.compile(r"\S+ ± \S+|\S+")
"""What no line break should part."""
GAP = 2
"""Columns between two columns."""
NARROW = (0, 1, 0, 0)
"""Cell padding at which a comparison of two tasks fits 80 columns."""


def run_table(record: RunRecord) -> Table:
    """One finished run: a row per space, validation AUC and the main test metrics."""
    tasks = tuple(Task(**task) for task in record.tasks)
    split = "test" if "test" in record.metrics else "valid"
    values = record.metrics[split]
    kinds = {"auc": f"{split} AUC"}
    if any(name.endswith("_best_auc") for name in values):  # planted data
        kinds |= {"best_auc": "best reachable", "regret": "regret"}
    kinds |= {"gauc": "GAUC", "logloss": "log loss", "pcoc": "PCOC"}
    table = Table("space", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("rows", "positives", "valid AUC", *kinds.values()):
        table.add_column(header, justify="right")
    for name, count in record.counts[split].items():
        table.add_row(
            escape(f"{name.upper()} ({describe_metric(f'{name}_auc', tasks).space})"),
            f"{count['rows']:,}",
            f"{count['positives']:,}",
            number(record.metrics["valid"].get(f"{name}_auc")),
            *(number(values.get(f"{name}_{kind}")) for kind in kinds),
        )
    return table


def grid_table(grid: Grid, width: int | None = None) -> Table:
    """Draw a grid; no word of a header and no number is cut at 80 columns.

    Args:
        grid: The table.
        width: Columns of the terminal, if known: labels are then broken into lines where they must
            be, and `a ± b` only where there is no room for it.
    """
    table = _empty_table(grid)
    first, *others = grid.headers
    label, *whole = _widths(grid)
    is_wide = width is not None and label + sum(whole) + GAP * len(whole) <= width
    if width is None:
        table.add_column(_shown(first), no_wrap=True)
    else:
        table.add_column(_shown(first), min_width=label, overflow="fold")
    for header, least in zip(others, whole, strict=True):
        words = header.split()
        if "\n" in header or len(words) == 1:
            table.add_column(_shown(header), justify="right", no_wrap=True)
        else:
            least = least if is_wide else max(map(len, words))
            table.add_column(_shown(header), justify="right", min_width=least)
    for row in grid.rows:
        table.add_row(*map(_marked, row))
    if grid.last is not None:
        table.add_section()
        table.add_row(*map(_marked, grid.last))
    return table


def words_table(grid: Grid) -> Table:
    """Draw a grid of words, which are folded where a number would not be."""
    table = _empty_table(grid)
    for header in grid.headers:
        table.add_column(header, overflow="fold")
    for row in grid.rows:
        table.add_row(*map(_marked, row))
    return table


def _empty_table(grid: Grid) -> Table:
    return Table(
        title=_shown(grid.title),
        title_justify="left",
        caption=_shown(grid.caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=NARROW,
        pad_edge=False,
    )


def _widths(grid: Grid) -> list[int]:
    """Return the least width of every column in which no word and no `a ± b` is parted."""
    found = []
    for place, header in enumerate(grid.headers):
        pieces = [piece for row in grid.rows for piece in WHOLE.findall(row[place].text)]
        lines = header.split("\n") if "\n" in header else header.split()
        found.append(max(map(len, [*lines, *pieces]), default=0))
    return found


def _marked(cell: Cell) -> str:
    return f"[bold]{_shown(cell.text)}[/bold]" if cell.strong else _shown(cell.text)


def _shown(text: str) -> str:
    return escape(escape_control(text))


LATEX_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "±": r"$\pm$",
        "\n": " ",
    }
)
MINUS = re.compile(r"(?<!\w)-(?=\d)")
"""A hyphen that is a sign."""
MARKDOWN_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_{}[]<>|"} | {"\n": " "}
)


def to_markdown(grid: Grid) -> str:
    """Return a grid as a heading, a table and its caption."""

    def plain(text: str) -> str:
        return escape_control(text).translate(MARKDOWN_SPECIAL)

    def line(row: Sequence[Cell]) -> str:
        return f"| {' | '.join(f'**{plain(t)}**' if strong else plain(t) for t, strong in row)} |"

    rows = [*grid.rows, *([grid.last] if grid.last is not None else [])]
    return "\n".join(
        [
            f"### {plain(grid.title)}",
            "",
            line(cells(*grid.headers)),
            "|---|" + "---:|" * (len(grid.headers) - 1),
            *map(line, rows),
            "",
            plain(grid.caption),
            "",
        ]
    )


def to_latex(grid: Grid) -> str:
    """Return a grid as a floating table; needs the package booktabs."""

    def plain(text: str) -> str:
        return escape_control(text).translate(LATEX_SPECIAL)

    def marked(cell: Cell) -> str:
        text = MINUS.sub("$-$", plain(cell.text))
        return rf"\textbf{{{text}}}" if cell.strong else text

    def line(row: Sequence[Cell]) -> str:
        return " & ".join(map(marked, row)) + r" \\"

    last = [] if grid.last is None else [r"\midrule", line(grid.last)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{plain(f'{grid.title}. {grid.caption}')}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.headers) - 1)}}}",
            r"\toprule",
            line(cells(*grid.headers)),
            r"\midrule",
            *map(line, grid.rows),
            *last,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
