"""Records and grids as tables for the terminal, and as plain values for `--json`."""

import re
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from cvrbench.data.schema import Task
from cvrbench.evaluation import describe_metric
from cvrbench.record import RunRecord
from cvrbench.report.differences import Differences, verdict_json
from cvrbench.report.frames import Comparison, Variant
from cvrbench.report.grids import Cell, Grid, number
from cvrbench.report.harmless import harmless

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
    planted = any(name.endswith("_best_auc") for name in values)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("space")
    for header in ("rows", "positives", "valid AUC", f"{split} AUC"):
        table.add_column(header, justify="right")
    if planted:
        table.add_column("best reachable", justify="right")
        table.add_column("regret", justify="right")
    for header in ("GAUC", "log loss", "PCOC"):
        table.add_column(header, justify="right")
    for name, count in record.counts[split].items():
        info = describe_metric(f"{name}_auc", tasks)
        row = [
            escape(f"{name.upper()} ({info.space})"),
            f"{count['rows']:,}",
            f"{count['positives']:,}",
        ]
        row += [
            number(record.metrics["valid"].get(f"{name}_auc")),
            number(values.get(f"{name}_auc")),
        ]
        if planted:
            row += [number(values.get(f"{name}_{kind}")) for kind in ("best_auc", "regret")]
        row += [number(values.get(f"{name}_{kind}")) for kind in ("gauc", "logloss", "pcoc")]
        table.add_row(*row)
    return table


def grid_table(grid: Grid, width: int | None = None) -> Table:
    """Draw a grid; no word of a header or of a number is cut at 80 columns.

    Args:
        grid: The table.
        width: Columns of the terminal, where it is known: labels are then broken into lines at
            need, and `a ± b` only where there is no room for it.
    """
    table = Table(
        title=_shown(grid.title),
        title_justify="left",
        caption=_shown(grid.caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=NARROW,
        pad_edge=False,
    )
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


def _widths(grid: Grid) -> list[int]:
    """Give the least width of every column in which no word and no `a ± b` is parted."""
    found = []
    for place, header in enumerate(grid.headers):
        texts = [row[place].text for row in grid.rows]
        pieces = [piece for text in texts for piece in WHOLE.findall(text)]
        lines = header.split("\n") if "\n" in header else header.split()
        found.append(max(map(len, [*lines, *pieces]), default=0))
    return found


def _marked(cell: Cell) -> str:
    return f"[bold]{_shown(cell.text)}[/bold]" if cell.strong else _shown(cell.text)


def _shown(text: str) -> str:
    return escape(harmless(text))


def comparison_json(comparison: Comparison, found: Differences | None = None) -> dict[str, Any]:
    """One dataset's comparison as plain values, with the differences where there are some."""
    return {
        "dataset": comparison.dataset,
        "fingerprint": comparison.fingerprint,
        "label_share": comparison.label_share,
        "scarce_task": comparison.scarce_task,
        "test": comparison.counts,
        "baseline": found.baseline if found else None,
        "margin": found.margin if found else None,
        "strategies": [_variant_json(variant, found) for variant in comparison.variants],
        "absent": [
            {"strategy": one.label, "missing": [m._asdict() for m in one.missing]}
            for one in comparison.absent
        ],
    }


def _variant_json(variant: Variant, found: Differences | None) -> dict[str, Any]:
    metrics = {}
    for metric in variant.runs[0].metrics["test"]:
        estimate = variant.estimate(metric)
        metrics[metric] = None if estimate is None else estimate._asdict()
    differences = {
        metric: verdict_json(verdict)
        for metric, by_label in (found.verdicts if found is not None else {}).items()
        if (verdict := by_label.get(variant.label)) is not None
    }
    return {
        "strategy": variant.label,
        "settings": variant.settings,
        "differences": differences,
        "seeds": [run.seed for run in variant.runs],
        "missing": [one._asdict() for one in variant.missing],
        "metrics": metrics,
        "parameters": variant.runs[0].parameters,
        "multiply_adds": variant.runs[0].multiply_adds,
        "seconds": variant.seconds,
        "examples": variant.examples,
        "examples_per_second": variant.rate,
    }
