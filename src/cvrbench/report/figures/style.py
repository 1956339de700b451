"""What figures have in common: type, colours, marks, panels, and how they are written."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from cvrbench.report import as_written, escape_control
from cvrbench.report.studies import cut
from cvrbench.stats.difference import Estimate
from cvrbench.system.files import atomic_write, explain_write

INK, GRID, POINT, TRUTH = "#1f2933", "#d9dee4", "#2563a8", "#c2410c"
FAINT, UNUSED = "#7b8794", "#eceff2"
STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.color": GRID,
    "hatch.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
}
METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": "cvrbench"},
    ".svg": {"Creator": "cvrbench", "Date": None},
    ".pdf": {"Creator": "cvrbench", "Producer": None, "CreationDate": None},
}


class Look(NamedTuple):
    """How one of several things is told from the others, in grey and by the colour-blind too."""

    color: str
    hatch: str
    marker: str
    line: str


LOOKS = (
    Look("#0072b2", "////", "o", "-"),
    Look("#e69f00", "....", "s", "--"),
    Look("#009e73", "xxxx", "^", "-."),
    Look("#cc79a7", "\\\\\\\\", "D", ":"),
    Look("#d55e00", "++++", "v", "-"),
)
"""Colours of Okabe and Ito (2008)."""
SHAPES = (*(one.marker for one in LOOKS), "P", "X", "<", "*", ">")
LETTERS_PER_INCH = 13.0
"""Letters of a title that fit an inch, roughly."""


class Mark(NamedTuple):
    """A point that is told from nineteen others by its shape and by whether it is filled."""

    color: str
    shape: str
    filled: bool

    @property
    def face(self) -> str:
        """The colour inside."""
        return self.color if self.filled else "white"


def mark(number: int) -> Mark:
    """Return the point of the n-th strategy: five as of `look`, then hollow ones and other shapes.

    Points repeat after twenty.
    """
    n = len(LOOKS)
    series = number // n % 4
    shape = SHAPES[number % n + n * (series // 2)]
    return Mark(LOOKS[number % n].color, shape, filled=series % 2 == 0)


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of all figures."""
    with mpl.rc_context(rc=STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        yield


def headline(figure: Figure, words: str) -> None:
    """Say what a figure shows: words for its caption, or for a title above all panels."""
    figure.set_label(as_written(words))


def _entitle(figure: Figure) -> None:
    """Write the headline above all panels, in lines that fit the figure."""
    letters = int(LETTERS_PER_INCH * figure.get_figwidth())
    # No line begins with a per cent sign.
    together = str(figure.get_label()).replace(" %", "\N{MIDDLE DOT}%")
    lines = textwrap.wrap(together, letters, max_lines=3, placeholder=" …")
    text = "\n".join(lines).replace("\N{MIDDLE DOT}%", " %")
    figure.suptitle(plain(text), x=0.01, ha="left", fontsize=10)


def row_name(text: str, letters: int = 36) -> str:
    """Break a strategy's name between words, into two lines at most; both of its ends stay."""
    short = " ".join(cut(word, letters) for word in as_written(text).split())
    lines = textwrap.wrap(short, letters, break_on_hyphens=False) or ["?"]
    return plain("\n".join([lines[0], cut(" ".join(lines[1:]), letters)]).rstrip("\n"))


def heading(text: str) -> str:
    """Break the name of a metric so that it fits above one panel, or beside it."""
    return row_name(text, 30)


def look(number: int) -> Look:
    """Return the look of the n-th thing; looks repeat after five."""
    return LOOKS[number % len(LOOKS)]


def plain(text: str) -> str:
    """Escape a name, so that it is neither read as a formula nor drawn with control characters."""
    return escape_control(text).replace("$", r"\$")


def save(figure: Figure, path: Path, *, titles: bool = False) -> Path:
    """Write a figure as PNG, SVG or PDF, as the path's ending says; whole or not at all.

    Args:
        figure: The picture.
        path: Where to.
        titles: Whether its headline is in the picture; else it is for a caption.

    Raises:
        StoreError: The folder is not writable.
    """
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if titles:
        _entitle(figure)
    ending = path.suffix if path.suffix in METADATA else ".png"
    # A salt of its own makes equal figures equal files; matplotlib would draw one at random.
    # Type 42 embeds fonts as they are, which publishers ask for.
    with (
        atomic_write(path) as temporary,
        mpl.rc_context({"svg.hashsalt": "cvrbench", "pdf.fonttype": 42}),
    ):
        figure.savefig(temporary, format=ending[1:], metadata=METADATA[ending])
    return path


# Panels


TOGETHER = len(LOOKS)
"""More lines than these in one panel are a tangle; the rest get a row of panels of their own."""
LETTERS = 26
"""Letters of a line of a key."""
TOUCHING, STEP = 0.02, 0.03
"""Shares of an axis: places nearer than the first are moved apart by the second."""
BEHIND: dict[str, Any] = {"color": FAINT, "linewidth": 0.6, "alpha": 0.5, "zorder": 1}
"""The strategies of the other rows, so that every row can be compared with all."""


class Line(NamedTuple):
    """A line over places, and the band about it; both bounds are the line where there is none."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def rows_of(n: int) -> list[range]:
    """Return the strategies of each row of panels.

    >>> rows_of(7)
    [range(0, 5), range(5, 7)]
    """
    return [range(start, min(start + TOGETHER, n)) for start in range(0, n, TOGETHER)]


def handle(label: str, **style: Any) -> Line2D:
    """Return an entry of a key."""
    return Line2D([], [], label=label, **style)


def key(labels: Sequence[str]) -> list[Line2D]:
    """Return an entry for the point of every strategy."""
    styles = [mark(number) for number in range(len(labels))]
    return [
        handle(
            row_name(label, LETTERS),
            linestyle="none",
            marker=style.shape,
            color=style.color,
            markerfacecolor=style.face,
        )
        for label, style in zip(labels, styles, strict=True)
    ]


def height_of(handles: Sequence[Line2D]) -> float:
    """Return the height of a key in inches."""
    return 0.18 * sum(1 + str(handle.get_label()).count("\n") for handle in handles) + 0.2


def explain_all(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a key beside all panels, below the headline."""
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=8, handlelength=2.6
    )


class Spread(NamedTuple):
    """Places along an axis, those that would hide each other moved apart."""

    moved: list[float]
    centres: list[float]
    """Place of each group before the move, from left to right."""


def side_by_side(places: Sequence[float], *, is_log: bool) -> Spread:
    """Move equal places apart, by hundredths of the axis.

    >>> side_by_side([1.0, 1.0, 11.0], is_log=False)
    Spread(moved=[0.85, 1.15, 11.0], centres=[1.0, 11.0])
    """
    at = np.log(places) if is_log else np.asarray(places, dtype=np.float64)
    width = float(np.ptp(at)) or abs(float(at[0])) or 1.0
    order = np.argsort(at, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(at[order]) > TOUCHING * width) + 1)
    moved = at.copy()
    for group in groups:
        moved[group] += (np.arange(len(group)) - (len(group) - 1) / 2) * STEP * width
    back = np.exp if is_log else np.asarray
    return Spread(
        [float(one) for one in back(moved)],
        [float(back(at[group].mean())) for group in groups],
    )


def point(axis: Axes, number: int, x: Estimate, y: Estimate) -> None:
    """Draw the n-th strategy's mean and its intervals."""
    style = mark(number)
    axis.errorbar(
        x.mean,
        y.mean,
        xerr=x.half_width,
        yerr=y.half_width,
        fmt=style.shape,
        color=style.color,
        markerfacecolor=style.face,
        markersize=6.5,
        elinewidth=1,
        zorder=4,
    )


def draw_lines(axis: Axes, lines: Sequence[Line | None], shown: range, *, dots: bool) -> None:
    """Draw the strategies of one row over those of all others."""
    for number, line in enumerate(lines):
        if line is None:
            continue
        if number not in shown:
            axis.plot(line.x, line.y, **BEHIND)
            continue
        style = look(number)
        axis.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.15, linewidth=0)
        axis.plot(
            line.x,
            line.y,
            color=style.color,
            linestyle=style.line,
            linewidth=1.4,
            marker=style.marker if dots else "",
            markersize=4,
        )


def line_key(axis: Axes, labels: Sequence[str], shown: range) -> None:
    """Explain the lines of one row beside its last panel."""
    handles = []
    for number in shown:
        style = look(number)
        handles.append(
            handle(
                row_name(labels[number], LETTERS),
                color=style.color,
                linestyle=style.line,
                marker=style.marker,
                markersize=4,
            )
        )
    if len(labels) > len(shown):
        handles.append(handle("the others", **BEHIND))
    axis.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=8,
        handlelength=3,
    )


def log_ticks(axis: Axis) -> None:
    """Put ticks at every decade, or at 1, 2 and 5 where there are only one or two."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 60 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=5))
    axis.set_minor_formatter(NullFormatter())


def quiet_grid(axis: Axes, which: Literal["x", "y", "both"] = "both") -> None:
    """Thin lines behind everything."""
    axis.grid(axis=which, color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
