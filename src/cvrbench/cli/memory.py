"""The memory part of `cvrbench run --dry-run`."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from cvrbench.cli.console import out

if TYPE_CHECKING:
    from cvrbench.footprint.outlook import Need, Outlook

GB = 1e9


def print_outlook(outlook: "Outlook") -> None:
    """Print what every configuration of a plan needs, against what is free for it."""
    if not outlook.needs:
        return
    table = Table("#", "memory", "free", "most of it, in GB", box=None, pad_edge=False)
    rows: dict[tuple[str, str, str], list[int]] = {}
    for need in outlook.needs:
        rows.setdefault(_words(need), []).extend(need.runs)
    for words, runs in rows.items():
        table.add_row(spans(sorted(runs)), *map(escape, words))
    out.print()
    out.print(table)
    if (at_once := outlook.at_once) is not None:
        told = f"will not fit; {at_once.advice}" if at_once.advice else "fits"
        out.print(
            f"{at_once.runs} at once: {at_once.needed / GB:.1f} GB of {at_once.free / GB:.1f} GB: "
            f"{told}",
            style="red" if at_once.advice else None,
            soft_wrap=True,
        )


def spans(places: Sequence[int]) -> str:
    """Write places of a plan, counted from 1: `1-3, 7`."""
    runs = groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    ends = [(group[0][1] + 1, group[-1][1] + 1) for group in (list(run) for _, run in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def _words(need: "Need") -> tuple[str, str, str]:
    free = "" if need.free is None else f"{need.free.n_bytes / GB:.1f} GB, {need.free.limit}"
    if need.footprint is None:
        return "", free, need.reason
    told = need.footprint.told()
    if need.fits is False:
        told = f"will not fit; {need.advice}: {told}"
    elif need.free is None:
        free = "not known here"
    return f"{need.footprint.needed / GB:.1f} GB", free, told
