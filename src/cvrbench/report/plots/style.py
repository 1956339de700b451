"""What all figures have in common: type, colours, and how they are written."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from cvrbench.files import explain_write
from cvrbench.report.harmless import harmless

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


def look(number: int) -> Look:
    """Give the look of the n-th thing; they repeat where there are many."""
    return LOOKS[number % len(LOOKS)]


def plain(text: str) -> str:
    """Keep a name from being read as a formula, and what is no character from being drawn."""
    return harmless(text).replace("$", r"\$")


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
