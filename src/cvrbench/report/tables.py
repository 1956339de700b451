"""Records as tables for the terminal, and as plain values for `--json`."""

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from cvrbench.data.schema import Task
from cvrbench.evaluation import describe_metric
from cvrbench.report.differences import Differences, Verdict
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
    title = escape(f"{comparison.dataset}: {rows:,} test rows")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    table.add_column("seeds", justify="right")
    metrics = comparison.auc_metrics
    for metric in metrics:
        table.add_column(comparison.header(metric), justify="right")
    table.add_column("dense parameters", justify="right")
    table.add_column("seconds", justify="right")
    for variant in comparison.variants:
        cells = [interval(variant.estimate(metric)) for metric in metrics]
        run = variant.runs[0]
        dense = f"{run.parameters - run.embedding_parameters:,}"
        table.add_row(
            escape(variant.label), str(len(variant.runs)), *cells, dense, f"{variant.seconds:.0f}"
        )
    reachable = [comparison.best_reachable(metric) for metric in metrics]
    if any(value is not None for value in reachable):
        table.add_section()
        table.add_row("best reachable", "", *map(number, reachable), "", "")
    table.caption = caption(comparison)
    table.caption_justify = "left"
    return table


def difference_table(comparison: Comparison, found: Differences) -> Table:
    """All variants less the baseline; bold where the difference is real."""
    title = escape(f"{comparison.dataset}: difference to {found.baseline}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    for metric in comparison.auc_metrics:
        table.add_column(comparison.header(metric), justify="right")
    for variant in comparison.variants:
        if variant.label != found.baseline:
            cells = [found.verdicts[m].get(variant.label) for m in comparison.auc_metrics]
            table.add_row(escape(variant.label), *map(verdict, cells))
    rows = "users, each with all of its rows" if found.clustered else "test rows"
    table.caption = (
        f"± is the 95 % interval over seeds and over redrawn {rows}; p is two-sided, adjusted "
        "(Holm) over the rows of its column. Bold: p below 0.05. A dash: fewer than two seeds in "
        "common."
    )
    table.caption_justify = "left"
    return table


def verdict(found: Verdict | None) -> str:
    """`+0.0031 ± 0.0022 (p 0.012)`, bold where real."""
    if found is None:
        return "-"
    d = found.difference
    p = "<0.001" if found.adjusted_p < 0.001 else f"{found.adjusted_p:.3f}"
    text = f"{d.mean:+.4f} ± {d.half_width:.4f} (p {p})"
    return f"[bold]{text}[/bold]" if found.is_real else text


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


def comparison_json(comparison: Comparison, found: Differences | None = None) -> dict[str, Any]:
    """One dataset's comparison as plain values, with the differences where there are some."""
    rows = []
    for variant in comparison.variants:
        metrics = {}
        for metric in variant.runs[0].metrics["test"]:
            estimate = variant.estimate(metric)
            metrics[metric] = None if estimate is None else estimate._asdict()
        differences = {
            metric: {**v.difference._asdict(), "adjusted_p": v.adjusted_p}
            for metric, verdicts in (found.verdicts if found else {}).items()
            if (v := verdicts.get(variant.label)) is not None
        }
        rows.append(
            {
                "strategy": variant.label,
                "differences": differences,
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
        "baseline": found.baseline if found else None,
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
