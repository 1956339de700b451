"""What all figures have in common: type, colours, and how they are written."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from cvrbench.files import explain_write
from cvrbench.report.escape import escape_control
from cvrbench.report.studies import cut

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
"""Of a title at its size, roughly."""


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
    """Give the n-th strategy's point: the first five are as `look` has them, then hollow ones.

    They repeat after twenty.
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
    """Say above all panels what is drawn, in lines that fit the figure."""
    letters = int(LETTERS_PER_INCH * figure.get_figwidth())
    # No line begins with a per cent sign.
    together = words.replace(" %", "\N{MIDDLE DOT}%")
    lines = textwrap.wrap(together, letters, max_lines=3, placeholder=" …")
    text = "\n".join(lines).replace("\N{MIDDLE DOT}%", " %")
    figure.suptitle(plain(text), x=0.01, ha="left", fontsize=10)


def row_name(text: str, letters: int = 36) -> str:
    """Break a strategy's name into two lines at most; both of its ends stay."""
    short = cut(text, 2 * letters)
    lines = textwrap.wrap(short, letters) or ["?"]
    if len(lines) > 2:  # the words do not fill the lines
        lines = [short[:letters], short[letters:]]
    return plain("\n".join(lines))


def heading(text: str) -> str:
    """Break the name of a metric so that it fits above one panel, or beside it."""
    return row_name(text, 30)


def look(number: int) -> Look:
    """Give the look of the n-th thing; they repeat where there are many."""
    return LOOKS[number % len(LOOKS)]


def plain(text: str) -> str:
    """Keep a name from being read as a formula, and what is no character from being drawn."""
    return escape_control(text).replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, as the path's ending says.

    Raises:
        StoreError: The folder is not writable.
    """
    # A salt of its own makes equal figures equal files; matplotlib would draw one at random.
    with explain_write(path), mpl.rc_context({"svg.hashsalt": "cvrbench"}):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=METADATA.get(path.suffix, METADATA[".png"]))
    return path
