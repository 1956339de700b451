"""HTML from plain text: the one place where names out of records become markup.

`Html` is text that is markup already. Only `text` and `tag` make it, so that the type checker
finds a name that was not escaped.
"""

from collections.abc import Iterable
from html import escape
from typing import NewType

from cvrbench.report.escape import escape_control
from cvrbench.report.tables import Cell, Grid

Html = NewType("Html", str)

NOTHING = Html("")
VOID = ("meta",)
BLOCKS = ("section", "tr", "p", "li", "figure", "table", "details", "h1", "h2", "h3", "h4", "dd")
SHORT = 34
"""Letters of a cell that is never broken into lines: a number, its interval and its p."""


def text(words: str) -> Html:
    """Escape plain text, for an element's content and within an attribute's quotes.

    What is no letter, as an escape sequence for terminals, is spelt out.
    """
    return Html(escape(escape_control(words)))


def tag(name: str, /, *children: Html, **attributes: str) -> Html:
    """Make an element: `tag("p", text("a"), class_="note")`; `aria_label` is `aria-label`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()
    )
    end = "" if name in VOID else f"</{name}>"
    return Html(f"<{name}{told}>{''.join(children)}{end}" + ("\n" if name in BLOCKS else ""))


def join(parts: Iterable[Html]) -> Html:
    """Put elements one behind the other."""
    return Html("".join(parts))


def paragraph(words: str, class_: str | None = None) -> Html:
    """Make a paragraph of plain text."""
    return tag("p", text(words), **({"class_": class_} if class_ else {}))


def bullets(lines: Iterable[str]) -> Html:
    """Make a list of plain texts."""
    return tag("ul", *(tag("li", text(line)) for line in lines))


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Make a list of names and what they are."""
    found = (join([tag("dt", text(name)), tag("dd", text(words))]) for name, words in pairs)
    return tag("dl", *found)


def code(words: str) -> Html:
    """Show a command or a configuration as it is."""
    return tag("pre", tag("code", text(words)), tabindex="0")


def fold(summary: str, *children: Html) -> Html:
    """Hide what only some readers look for below one line; it is there in print."""
    return tag("details", tag("summary", text(summary)), tag("div", *children))


def table(grid: Grid, ident: str) -> Html:
    """Draw a grid in a box that scrolls by itself, its caption below."""
    headers = (header.replace("\n", " ") for header in grid.headers)
    head = tag("tr", *(tag("th", text(header), scope="col") for header in headers))
    parts = [
        tag("caption", text(grid.title)),
        tag("thead", head),
        tag("tbody", *map(_row, grid.rows)),
    ]
    if grid.last is not None:
        parts.append(tag("tfoot", _row(grid.last)))
    about = {"aria_describedby": f"{ident}-note"} if grid.caption else {}
    note = tag("p", text(grid.caption), class_="note", id=f"{ident}-note")
    box = tag(
        "div",
        tag("table", *parts, id=ident, **about),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=grid.title,
    )
    return join([box, note if grid.caption else NOTHING])


def _row(cells: tuple[Cell, ...]) -> Html:
    first, *others = cells
    return tag("tr", tag("th", _cell(first), scope="row"), *map(_number, others))


def _number(cell: Cell) -> Html:
    is_short = all(len(line) <= SHORT for line in cell.text.split("\n"))
    return tag("td", _cell(cell), **({} if is_short else {"class_": "words"}))


def _cell(cell: Cell) -> Html:
    return tag("strong", text(cell.text)) if cell.strong else text(cell.text)
