"""Records as tables for the terminal, and as plain values for `--json`."""

from typing import Any

from rich import box
from rich.table import Table

from cvrbench.data.schema import Task
from cvrbench.evaluation import describe_metric
from cvrbench.report.frames import Comparison
from cvrbench.stats import Estimate
from cvrbench.store import RunRecord


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
        row = [f"{name.upper()} ({info.space})", f"{count['rows']:,}", f"{count['positives']:,}"]
        row += [
            number(record.metrics["valid"].get(f"{name}_auc")),
            number(values.get(f"{name}_auc")),
        ]
        if planted:
            row += [number(values.get(f"{name}_{kind}")) for kind in ("best_auc", "regret")]
        row += [number(values.get(f"{name}_{kind}")) for kind in ("gauc", "logloss", "pcoc")]
        table.add_row(*row)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """All variants on one dataset: AUC of every space, mean over seeds and its interval."""
    rows = max(count["rows"] for count in comparison.counts.values())
    title = f"{comparison.dataset}: {rows:,} test rows"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    table.add_column("seeds", justify="right")
    metrics = comparison.auc_metrics
    best = {metric: _best(comparison, metric) for metric in metrics}
    for metric in metrics:
        table.add_column(comparison.header(metric), justify="right")
    table.add_column("dense parameters", justify="right")
    table.add_column("seconds", justify="right")
    for variant in comparison.variants:
        cells = []
        for metric in metrics:
            estimate = variant.estimate(metric)
            cell = interval(estimate)
            is_best = estimate is not None and estimate.mean == best[metric]
            cells.append(f"[bold]{cell}[/bold]" if is_best else cell)
        run = variant.runs[0]
        dense = f"{run.parameters - run.embedding_parameters:,}"
        table.add_row(
            variant.label, str(len(variant.runs)), *cells, dense, f"{variant.seconds:.0f}"
        )
    reachable = [comparison.best_reachable(metric) for metric in metrics]
    if any(value is not None for value in reachable):
        table.add_section()
        table.add_row("best reachable", "", *map(number, reachable), "", "")
    table.caption = caption(comparison)
    table.caption_justify = "left"
    return table


def caption(comparison: Comparison) -> str:
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


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """One dataset's comparison as plain values."""
    rows = []
    for variant in comparison.variants:
        metrics = {}
        for metric in variant.runs[0].metrics["test"]:
            estimate = variant.estimate(metric)
            metrics[metric] = None if estimate is None else estimate._asdict()
        rows.append(
            {
                "strategy": variant.label,
                "seeds": [run.seed for run in variant.runs],
                "metrics": metrics,
                "parameters": variant.runs[0].parameters,
                "multiply_adds": variant.runs[0].multiply_adds,
                "seconds": variant.seconds,
            }
        )
    return {
        "dataset": comparison.dataset,
        "fingerprint": comparison.fingerprint,
        "test": comparison.counts,
        "strategies": rows,
    }


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


def _best(comparison: Comparison, metric: str) -> float | None:
    means = [
        e.mean for variant in comparison.variants if (e := variant.estimate(metric)) is not None
    ]
    return max(means) if len(means) > 1 else None
