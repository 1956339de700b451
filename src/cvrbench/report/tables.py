"""Tables as cells of text, drawn alike in the terminal, Markdown and LaTeX."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from cvrbench.data.schema import Task
from cvrbench.metrics.evaluation import describe_metric, ranking_metric
from cvrbench.report import as_written, escape_control
from cvrbench.runs.record import RunRecord
from cvrbench.stats.difference import Estimate


class Cell(NamedTuple):
    """Plain text, never markup; `strong` marks a difference that is shown."""

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
    """`p=0.012`, or `p<0.001`; at the line of 5 % so many digits that it stays on its side.

    >>> [p_value(p) for p in (0.0004, 0.0496, 0.0504, 0.04999)]
    ['p<0.001', 'p=0.0496', 'p=0.0504', 'p<0.05']
    """
    if p < 0.001:
        return "p<0.001"
    if abs(p - 0.05) >= 0.0005:
        return f"p={p:.3f}"
    words = f"{p:.4f}"
    if words == "0.0500":
        return "p<0.05" if p < 0.05 else "p=0.0501"
    return f"p={words}"


def percent(chance: float) -> str:
    """Return a chance for a person, never 0 or 100 %."""
    return "<1 %" if chance < 0.01 else ">99 %" if chance > 0.99 else f"{100 * chance:.0f} %"


def duration(minutes: float) -> str:
    """`37 s`, `7 min`, `2.5 h`."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


LINE, WHOLE, WORD = map(re.compile, (r".+", r"\S+ ± \S+|\S+", r"\S+"))
"""What no line break parts: all there is, an interval, a word."""
GAP, EDGES = 2, 2
"""Characters between two columns, and at both ends of a line."""
LONGEST_LABEL = 3
"""Parts of the width of which a name without a space takes one at most."""


def run_grid(record: RunRecord) -> Grid:
    """One finished run: a row per space, validation AUC and the main test metrics."""
    tasks = tuple(Task(**task) for task in record.tasks)
    split = "test" if "test" in record.metrics else "valid"
    values = record.metrics[split]
    ratios = any(task.is_ratio for task in tasks)
    ranks = "AUC or XAUC" if ratios else "AUC"
    kinds: dict[tuple[str, ...], str] = {("auc", "xauc"): f"{split} {ranks}"}
    if any(name.endswith("_regret") for name in values):  # planted data
        kinds |= {("best_auc", "best_xauc"): "best reachable", ("regret",): "regret"}
    kinds |= {("gauc", "gxauc"): "GAUC or GXAUC" if ratios else "GAUC", ("logloss",): "log loss"}
    if ratios:
        kinds |= {("rmse",): "RMSE", ("mae",): "MAE"}
    kinds |= {("pcoc",): "PCOC"}

    def value(name: str, words: tuple[str, ...]) -> str:
        found = (values.get(f"{name}_{word}") for word in words)
        return number(next((one for one in found if one is not None), None))

    rows = []
    for name, count in record.counts[split].items():
        ranking = ranking_metric(name, tasks)
        space = f"{name.upper()} ({describe_metric(ranking, tasks).space})"
        sizes = f"{count['rows']:,}", f"{count['positives']:,}"
        valid = number(record.metrics["valid"].get(ranking))
        rows.append(cells(space, *sizes, valid, *(value(name, words) for words in kinds)))
    headers = ("space", "rows", "positives", f"valid {ranks}", *kinds.values())
    return Grid(title="", headers=headers, rows=tuple(rows), caption="")


@dataclass(frozen=True)
class GridTable:
    """A grid on a terminal of any width: no word and no number is cut.

    Labels are broken into lines where they must be, `a ± b` only where there is no room for it;
    columns that do not fit beside each other stand in tables below each other.
    """

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the tables."""
        grid = self.grid if console.is_terminal else _starred(self.grid)
        room = options.max_width - EDGES
        natural, whole, least = (_widths(grid, unbroken) for unbroken in (LINE, WHOLE, WORD))
        whole[0] = least[0] = min(least[0], room // LONGEST_LABEL)
        parts = [range(1, len(grid.headers))]
        if sum(least) + GAP * len(parts[0]) > room:
            parts = _parts(whole, room)
        for columns in parts:
            shown = [0, *columns]
            sizes = ([widths[place] for place in shown] for widths in (natural, whole, least))
            part = replace(
                grid,
                title=grid.title if columns is parts[0] else "",
                caption=grid.caption if columns is parts[-1] else "",
            )
            yield _table(part, shown, _narrowed(*sizes, room=room - GAP * len(columns)))


def _starred(grid: Grid) -> Grid:
    """Mark in the text itself what is strong, where no terminal shows it."""
    rows = [[Cell(f"{t} *", s) if s else Cell(t) for t, s in row] for row in grid.rows]
    return replace(grid, rows=tuple(map(tuple, rows)))


def _widths(grid: Grid, unbroken: re.Pattern[str]) -> list[int]:
    """Return the width of every column in which nothing that is to stay whole is parted."""
    rows = [*grid.rows, *([] if grid.last is None else [grid.last])]
    found = []
    for place, header in enumerate(grid.headers):
        pieces = [piece for row in rows for piece in unbroken.findall(row[place].text)]
        lines = header.split("\n") if "\n" in header or unbroken is LINE else header.split()
        found.append(max(map(cell_len, [*lines, *pieces]), default=0))
    return found


def _parts(widths: Sequence[int], room: int) -> list[range]:
    """Group the columns beside the first so that each group fits, or is one column."""
    starts, used = [1], widths[0]
    for place, width in enumerate(widths[1:], 1):
        if place > starts[-1] and used + GAP + width > room:
            starts.append(place)
            used = widths[0]
        used += GAP + width
    return [range(*ends) for ends in pairwise([*starts, len(widths)])]


def _narrowed(natural: list[int], *floors: Sequence[int], room: int) -> list[int]:
    """Narrow columns to a common room, the widest first, to the first floor before the next.

    >>> _narrowed([9, 4, 4], [8, 3, 3], [3, 2, 2], room=12)
    [6, 3, 3]
    """
    widths = list(natural)
    for floor in floors:
        while sum(widths) > room and (
            wide := [place for place, width in enumerate(widths) if width > floor[place]]
        ):
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _table(grid: Grid, places: Sequence[int], widths: Sequence[int]) -> Table:
    """Draw some columns of a grid."""
    table = _empty_table(grid)
    for place, width in zip(places, widths, strict=True):
        justify: Literal["left", "right"] = "right" if place else "left"
        table.add_column(grid.headers[place], justify=justify, width=width, overflow="fold")
    for row in grid.rows:
        table.add_row(*(_marked(row[place]) for place in places))
    if grid.last is not None:
        table.add_section()
        table.add_row(*(_marked(grid.last[place]) for place in places))
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
        title=grid.title or None,
        title_justify="left",
        caption=grid.caption or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _marked(cell: Cell) -> str | Text:
    return Text(escape_control(cell.text), "bold") if cell.strong else cell.text


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
NUMBERS = re.compile(r"(?:p ?[=<] ?)?[-+±=]?\d[\d,]*(?:\.\d+)?(?: ± \d[\d.]*)?")
"""Numbers of a cell with their sign and interval: `+0.0012 ± 0.0004`, `p<0.001`, `24,600`."""
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


def words_to_markdown(title: str, lines: Sequence[str]) -> str:
    """Return sentences as a heading and a list."""

    def point(line: str) -> str:
        plain = escape_control(line)
        is_command = plain.startswith("cvrbench ") and "`" not in plain
        return f"  `{plain}`" if is_command else f"- {plain.translate(MARKDOWN_SPECIAL)}"

    heading = escape_control(title).translate(MARKDOWN_SPECIAL)
    return "\n".join([f"## {heading}", "", *map(point, lines), ""])


def words_to_latex(title: str, lines: Sequence[str]) -> str:
    """Return sentences as a paragraph with a title; commands are nothing for a paper."""
    told = [
        re.sub(r" \([^()]*\):$|:$", ".", as_written(line))
        for line in lines
        if not line.startswith("cvrbench ")
    ]
    plain = [escape_control(line).translate(LATEX_SPECIAL) for line in (as_written(title), *told)]
    words = [MINUS.sub("$-$", line) for line in plain]
    return "\n".join([rf"\paragraph{{{words[0]}.}}", *words[1:], ""])


def to_latex(grid: Grid) -> str:
    """Return a grid as a floating table as wide as the page; needs booktabs and adjustbox."""

    def plain(text: str) -> str:
        return escape_control(text).translate(LATEX_SPECIAL)

    def numbers(found: re.Match[str]) -> str:
        return f"${found.group().replace('±', chr(92) + 'pm').replace(',', '{,}')}$"

    def marked(cell: Cell) -> str:
        parts = NUMBERS.split(cell.text)
        found = [*map(numbers, NUMBERS.finditer(cell.text)), ""]
        text = "".join(plain(part) + number for part, number in zip(parts, found, strict=True))
        return rf"\textbf{{\boldmath {text}}}" if cell.strong else text

    def line(row: Sequence[Cell]) -> str:
        name = plain(as_written(row[0].text))
        first = rf"\textbf{{{name}}}" if row[0].strong else name
        return " & ".join([first, *map(marked, row[1:])]) + r" \\"

    last = [] if grid.last is None else [r"\midrule", line(grid.last)]
    label = re.sub(r"[^a-z0-9]+", "-", grid.title.lower()).strip("-")
    caption = plain(as_written(f"{grid.title}. {grid.caption}"))
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{caption}}}\label{{tab:{label}}}",
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.headers) - 1)}}}",
            r"\toprule",
            " & ".join(map(plain, grid.headers)) + r" \\",
            r"\midrule",
            *map(line, grid.rows),
            *last,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            r"\end{table*}",
            "",
        ]
    )
