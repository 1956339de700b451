"""What was measured: every row's values in every space, and on how many test rows."""

from collections.abc import Iterator, Sequence

from scipy.stats import rankdata

from cvrbench.evaluation import METRICS_INFO, describe_metric
from cvrbench.report.frames import Comparison, Missing
from cvrbench.report.grids import Grid, cells, interval, number

BEYOND_AUC = ("logloss", "gauc", "pcoc", "ece")
"""What else a space is judged by: kinds of `cvrbench.evaluation`."""
REASON = 90
"""Letters of a reason that a caption shows."""


def comparison_grid(comparison: Comparison) -> Grid:
    """All variants on one dataset: AUC of every space, mean over seeds and its interval."""
    metrics = comparison.auc_metrics
    ranks = mean_ranks(comparison)
    usual = max(len(variant.runs) + len(variant.missing) for variant in comparison.variants)
    rows = []
    for variant, rank in zip(comparison.variants, ranks, strict=True):
        values = [interval(variant.estimate(metric)) for metric in metrics]
        n = str(len(variant.runs))
        seeds = f"{n} of {len(variant.runs) + len(variant.missing)}" if variant.missing else n
        rows.append(cells(variant.label, seeds, *values, rank))
    dashes = ["-"] * (len(metrics) + 1)
    rows += [cells(one.label, f"0 of {usual}", *dashes) for one in comparison.absent]
    reachable = [comparison.best_reachable(metric) for metric in metrics]
    planted = any(value is not None for value in reachable)
    n_rows = max(count["rows"] for count in comparison.counts.values())
    return Grid(
        title=f"{comparison.name}: {n_rows:,} test rows",
        headers=("strategy", "seeds", *map(comparison.header, metrics), "rank"),
        rows=tuple(rows),
        last=cells("best reachable", "", *map(number, reachable), "") if planted else None,
        caption=f"{_blur(comparison)}{_missing_words(comparison)}",
    )


def space_grids(comparison: Comparison) -> list[Grid]:
    """Give a table per space of what else it is judged by, those metrics that any row has."""
    found = []
    for name in comparison.counts:
        kinds = [
            kind
            for kind in BEYOND_AUC
            if any(variant.estimate(f"{name}_{kind}") for variant in comparison.variants)
        ]
        if not kinds:
            continue
        described = [describe_metric(f"{name}_{kind}", comparison.tasks) for kind in kinds]
        found.append(
            Grid(
                title=f"{comparison.name}: {name.upper()} beyond AUC ({described[0].space})",
                headers=("strategy", *(METRICS_INFO[kind].label for kind in kinds)),
                rows=tuple(
                    cells(v.label, *(interval(v.estimate(f"{name}_{kind}")) for kind in kinds))
                    for v in comparison.variants
                ),
                caption=(
                    "± as above. Log loss and ECE: less is better; GAUC: AUC within each user, "
                    "weighted by rows; PCOC: predicted over observed positives, best at 1."
                ),
            )
        )
    return found


def rows_grid(comparison: Comparison) -> Grid:
    """Give the test rows and positives of every space, the population in its header."""
    names = list(comparison.counts)
    spaces = [describe_metric(f"{name}_auc", comparison.tasks).space for name in names]
    counts = [comparison.counts[name] for name in names]
    errors = [comparison.row_error(f"{name}_auc") for name in names]
    shares = [100 * c["positives"] / c["rows"] if c["rows"] else None for c in counts]
    return Grid(
        title=f"{comparison.name}: what was tested",
        headers=(
            "in the test split",
            *(f"{name.upper()} ({space})" for name, space in zip(names, spaces, strict=True)),
        ),
        rows=(
            cells("test rows", *(f"{count['rows']:,}" for count in counts)),
            cells("positives", *(f"{count['positives']:,}" for count in counts)),
            cells("positives (%)", *("-" if s is None else f"{s:.2f}" for s in shares)),
            cells("blur of an AUC", *("-" if e is None else f"±{e:.4f}" for e in errors)),
        ),
        caption="The header names the population of each space. Blur: 1.96 standard errors (Hanley "
        "and McNeil, 1982), what these rows alone leave open of one AUC.",
    )


def mean_ranks(comparison: Comparison) -> list[str]:
    """Give every variant's place by AUC, 1 the best, as a mean over the tasks' own spaces."""
    columns = []
    for task in comparison.tasks:
        estimates = [variant.estimate(f"{task.name}_auc") for variant in comparison.variants]
        means = [None if one is None else -one.mean for one in estimates]
        if any(mean is None for mean in means):
            return ["-"] * len(comparison.variants)
        columns.append(rankdata(means))
    return [f"{sum(places) / len(places):.1f}" for places in zip(*columns, strict=True)]


def _blur(comparison: Comparison) -> str:
    """Say what the numbers after ± mean, and how far the test rows alone blur an AUC."""
    errors = [
        f"{metric} ±{error:.4f}"
        for metric in comparison.auc_metrics
        if (error := comparison.row_error(metric)) is not None
    ]
    return (
        "± is the 95 % interval of the mean over seeds (one seed has none). The test rows alone "
        f"blur each value by {', '.join(errors)}. Rank: by AUC, mean over the tasks' own spaces."
    )


def _missing_words(comparison: Comparison) -> str:
    """Say which runs are missing and why; nothing where none is."""
    told = [
        *(words for v in comparison.variants for words in _reasons(v.label, v.missing)),
        *(words for one in comparison.absent for words in _reasons(one.label, one.missing)),
    ]
    return f" Missing: {'; '.join(told)}." if told else ""


def _reasons(label: str, missing: Sequence[Missing]) -> Iterator[str]:
    """Say `ncs seeds 3, 4 (not run)`, once per reason."""
    seeds: dict[str, list[str]] = {}
    for one in missing:
        seeds.setdefault(one.reason, []).append(str(one.seed))
    for reason, of in seeds.items():
        cut = reason if len(reason) <= REASON else f"{reason[: REASON - 3]}..."
        yield f"{label} seed{'' if len(of) == 1 else 's'} {', '.join(of)} ({cut})"
