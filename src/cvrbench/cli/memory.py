"""The memory part of `cvrbench run --dry-run`."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from cvrbench.cli.console import out

if TYPE_CHECKING:
    from cvrbench.memory_estimate import AtOnce, Need

GB = 1e9


def print_needs(needs: "Iterable[Need]", at_once: "AtOnce | None") -> None:
    """Print what every configuration of a plan needs, against what is free for it."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for need in needs:
        rows.setdefault(_words(need), []).extend(need.runs)
    if not rows:
        return
    table = Table("#", "memory", "free", "most of it, in GB", box=None, pad_edge=False)
    for words, runs in rows.items():
        table.add_row(spans(sorted(runs)), *map(escape, words))
    out.print()
    out.print(table)
    if at_once is not None:
        verdict = f"{_verdict(at_once.needed / at_once.free)}; {at_once.advice}"
        out.print(
            f"{at_once.runs} at once: {at_once.needed / GB:.1f} GB of {at_once.free / GB:.1f} GB: "
            f"{verdict if at_once.advice else 'fits'}",
            style="red" if at_once.advice else None,
            soft_wrap=True,
        )


def spans(places: Sequence[int]) -> str:
    """Return places of a plan, counted from 1: `1-3, 7`."""
    runs = groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    ends = [(group[0][1] + 1, group[-1][1] + 1) for group in (list(run) for _, run in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def _words(need: "Need") -> tuple[str, str, str]:
    free = "" if need.free is None else f"{need.free.n_bytes / GB:.1f} GB, {need.free.limit}"
    if need.estimate is None:
        return "", free, need.words
    summary = need.estimate.summary()
    if need.times_free is None:
        free = "not known here"
    elif need.times_free > 1:
        summary = f"{_verdict(need.times_free)}; {need.words}: {summary}"
    return f"{need.estimate.needed / GB:.1f} GB", free, summary


def _verdict(times_free: float) -> str:
    from cvrbench.memory_estimate import REFUSED

    return "will not fit" if times_free > REFUSED else "may not fit"
