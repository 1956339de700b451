"""A comparison as cells of text, from which the terminal, Markdown and LaTeX are drawn alike."""

from dataclasses import dataclass
from typing import NamedTuple

from cvrbench.report.differences import Differences, Verdict
from cvrbench.report.frames import Comparison
from cvrbench.stats import Estimate


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


def comparison_grid(comparison: Comparison) -> Grid:
    """All variants on one dataset: AUC of every space, mean over seeds and its interval."""
    metrics = comparison.auc_metrics
    rows = []
    for variant in comparison.variants:
        run = variant.runs[0]
        values = [interval(variant.estimate(metric)) for metric in metrics]
        dense = f"{run.parameters - run.embedding_parameters:,}"
        seconds = f"{variant.seconds:.0f}"
        rows.append(_cells(variant.label, str(len(variant.runs)), *values, dense, seconds))
    reachable = [comparison.best_reachable(metric) for metric in metrics]
    planted = any(value is not None for value in reachable)
    n = max(count["rows"] for count in comparison.counts.values())
    return Grid(
        title=f"{comparison.dataset}: {n:,} test rows",
        headers=(
            "strategy",
            "seeds",
            *map(comparison.header, metrics),
            "dense\nparams",
            "train\n(s)",
        ),
        rows=tuple(rows),
        last=_cells("best reachable", "", *map(number, reachable), "", "") if planted else None,
        caption=_blur(comparison),
    )


def difference_grid(comparison: Comparison, found: Differences) -> Grid:
    """All variants less the baseline."""
    metrics = comparison.auc_metrics
    rows = []
    for variant in comparison.variants:
        if variant.label != found.baseline:
            verdicts = [found.of(metric, variant.label) for metric in metrics]
            rows.append((Cell(variant.label), *map(verdict, verdicts)))
    drawn = "users, each with all of its rows" if found.clustered else "test rows"
    return Grid(
        title=f"{comparison.dataset}: difference to {found.baseline}",
        headers=("strategy", *map(comparison.header, metrics)),
        rows=tuple(rows),
        caption=(
            f"± is the 95 % interval over seeds and over redrawn {drawn}; p is two-sided, adjusted "
            "(Holm) over the rows of its column. Bold: p below 0.05. A dash: fewer than two seeds "
            "in common."
        ),
    )


def verdict(found: Verdict | None) -> Cell:
    """`+0.0031 ± 0.0022 p=0.012`, strong where real."""
    if found is None:
        return Cell("-")
    d = found.difference
    p = "p<0.001" if found.adjusted_p < 0.001 else f"p={found.adjusted_p:.3f}"
    return Cell(f"{d.mean:+.4f} ± {d.half_width:.4f} {p}", strong=found.is_real)


def _cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(map(Cell, texts))


def _blur(comparison: Comparison) -> str:
    """Say what the numbers after ± mean, and how far the test rows alone blur an AUC."""
    errors = [
        f"{metric} ±{error:.4f}"
        for metric in comparison.auc_metrics
        if (error := comparison.row_error(metric)) is not None
    ]
    return (
        "± is the 95 % interval of the mean over seeds (one seed has none). The test rows alone "
        f"blur each value by {', '.join(errors)}."
    )


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
