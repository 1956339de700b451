"""The tables of one comparison: values, costs, differences, gains, and power."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from scipy.stats import rankdata

from cvrbench.evaluation import METRICS_INFO, describe_metric
from cvrbench.report.comparison import Comparison, Missing, Variant
from cvrbench.report.differences import REFERENCE, Differences, Transfer, Verdict, tested_metrics
from cvrbench.report.studies import Tuned, tuned_words
from cvrbench.report.tables import Cell, Grid, cells, interval, number
from cvrbench.stats.difference import smallest_wilcoxon_p
from cvrbench.stats.intervals import Estimate
from cvrbench.stats.power import detectable, rows_factor_needed, seeds_needed

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


def cost_grid(comparison: Comparison, tuned: Mapping[str, Tuned | None]) -> Grid:
    """All variants: size, speed, and everything that was computed to get them.

    Args:
        comparison: The variants.
        tuned: Row -> the sweep that chose it; None of a preset.
    """
    return Grid(
        title=f"{comparison.name}: what each row cost",
        headers=(
            "strategy",
            "dense\nparams",
            "multiply\nadds",
            "train\n(s)",
            "search\n(s)",
            "rows\nper s",
            "rows\n(M)",
            "tuned with\nrows (M)",
        ),
        rows=tuple(_cost_row(variant, tuned.get(variant.label)) for variant in comparison.variants),
        caption=(
            "Means over seeds. Dense params: all but the embedding tables. Multiply-adds: of one "
            "example's forward pass, masked weights included. Train and search: seconds of "
            "optimiser steps; rows: those that gradients were computed on, searches included. "
            f"{tuned_words(dict(tuned))}"
        ),
    )


def _cost_row(variant: Variant, tuned: Tuned | None) -> tuple[Cell, ...]:
    run = variant.runs[0]
    return cells(
        variant.label,
        f"{run.parameters - run.embedding_parameters:,}",
        f"{run.multiply_adds:,}",
        f"{variant.seconds_of('train'):.1f}",
        f"{variant.seconds_of('search'):.1f}",
        f"{variant.rate:,.0f}",
        f"{variant.examples / 1e6:.2f}",
        "preset" if tuned is None else f"{tuned.trials}: {tuned.examples / 1e6:.2f}",
    )


OF_KIND = {"auc": "", "logloss": " in log loss", "gauc": " in GAUC"}
MOST_SEEDS = 1000
"""More are as good as no number."""


def difference_grid(comparison: Comparison, found: Differences, kind: str = "auc") -> Grid:
    """All variants less the baseline, in one kind of metric."""
    metrics = [metric for metric in tested_metrics(comparison, kind) if metric in found.verdicts]
    rows = []
    for variant in comparison.variants:
        if variant.label != found.baseline:
            verdicts = [found.of(metric, variant.label) for metric in metrics]
            rows.append((Cell(variant.label), *(verdict(v, found.margin) for v in verdicts)))
    drawn = "users, each with all of its rows" if found.clustered else "test rows"
    if found.how.draws:
        drawn += f" ({found.how.draws:,} bootstrap draws)"
    better = " Less is better." if kind == "logloss" else ""
    within = (
        ""
        if kind == "logloss"
        else f" ={found.margin:g}: equivalent, shown at 5 % to be smaller than that either way "
        "(two one-sided tests, Holm)."
    )
    return Grid(
        title=f"{comparison.name}: difference to {found.baseline}{OF_KIND[kind]}",
        headers=("strategy", *map(comparison.header, metrics)),
        rows=tuple(rows),
        caption=(
            f"± is the 95 % interval over seeds and over redrawn {drawn}; p is two-sided, adjusted "
            f"(Holm) over the rows of its column. Bold: p below 0.05.{better}{within} A dash: "
            "fewer than two seeds in common that have the metric."
        ),
    )


def verdict(found: Verdict | None, margin: float) -> Cell:
    """`+0.0031 ± 0.0022 p=0.012`, strong where real; `=0.001` instead of p where equivalent."""
    if found is None:
        return Cell("-")
    d = found.difference
    p = "p<0.001" if found.adjusted_p < 0.001 else f"p={found.adjusted_p:.3f}"
    words = f"={margin:g}" if found.is_equivalent and not found.is_real else p
    mean = round(d.mean, 4) + 0.0  # no negative zero
    return Cell(f"{mean:+.4f} ± {d.half_width:.4f} {words}", strong=found.is_real)


def over_seeds_grid(comparison: Comparison, found: Differences) -> Grid:
    """Give what tests say that know seeds alone, beside ours, for readers who look for them."""
    seeds = max(v.difference.seeds for of in found.verdicts.values() for v in of.values())
    return Grid(
        title=f"{comparison.name}: p of the same differences by tests over seeds alone",
        headers=_heads(comparison, found),
        rows=_rows(comparison, found, _three),
        caption=(
            "Student's paired t / Wilcoxon's signed ranks / ours, none adjusted. The first two do "
            "not know that other test rows could rank the models otherwise. With "
            f"{seeds} seeds Wilcoxon's p cannot be below {smallest_wilcoxon_p(seeds):.3g}."
        ),
    )


def power_grid(comparison: Comparison, found: Differences) -> Grid:
    """Give what could have been seen, and what it takes to see a difference of the margin."""
    return Grid(
        title=f"{comparison.name}: what it takes to see a difference of {found.margin:g}",
        headers=_heads(comparison, found),
        rows=_rows(comparison, found, lambda one: _power(one, found.margin)),
        caption=(
            "The smallest true difference to the baseline that these seeds and rows find with 80 % "
            f"power at 5 % (two-sided, not adjusted); then what a difference of {found.margin:g} "
            "takes: seeds on these test rows; where a thousand are not enough, these seeds on "
            "so many times the test rows and positives; more of both where neither is enough."
        ),
    )


def _tested(comparison: Comparison, found: Differences) -> list[str]:
    return [metric for metric in comparison.auc_metrics if found.verdicts.get(metric)]


def _heads(comparison: Comparison, found: Differences) -> tuple[str, ...]:
    return ("strategy", *map(comparison.header, _tested(comparison, found)))


def _rows(
    comparison: Comparison, found: Differences, words: Callable[[Verdict], str]
) -> tuple[tuple[Cell, ...], ...]:
    """Give a row per variant that has a verdict; a dash where it has none."""
    metrics = _tested(comparison, found)
    rows = []
    for variant in comparison.variants:
        verdicts = [found.of(metric, variant.label) for metric in metrics]
        if any(verdicts):
            rows.append(cells(variant.label, *("-" if v is None else words(v) for v in verdicts)))
    return tuple(rows)


def _three(found: Verdict) -> str:
    return f"{found.t_p:.3f} / {found.wilcoxon_p:.3f} / {found.difference.p:.3f}"


def _power(found: Verdict, margin: float) -> str:
    d = found.difference
    if d.error == 0:
        return "-"
    smallest = f"{detectable(d):.4f}"
    seeds = seeds_needed(d, margin)
    if seeds is not None and seeds <= MOST_SEEDS:
        return f"{smallest}; {seeds} seed{'' if seeds == 1 else 's'}"
    factor = rows_factor_needed(d, margin, d.seeds)
    return f"{smallest}; {'more of both' if factor is None else f'rows x {factor:.3g}'}"


def transfer_grid(comparison: Comparison, found: Transfer) -> Grid:
    """Give a row per strategy: its gain in every space, and delta_m."""
    grid = difference_grid(comparison, found.gains)
    rows = [(*row, Cell(_percent(found.relative.get(row[0].text)))) for row in grid.rows]
    return replace(
        grid,
        title=f"{comparison.name}: transfer: gain over {REFERENCE}",
        headers=(*grid.headers, "mean gain (%)"),
        rows=tuple(rows),
        caption=f"{grid.caption} Mean gain: relative, over the tasks' own AUC (delta_m); ± over "
        "seeds.",
    )


def _percent(estimate: Estimate | None) -> str:
    """`+0.52 ± 0.31`, or a dash."""
    if estimate is None or estimate.half_width is None:
        return "-"
    return f"{100 * estimate.mean:+.2f} ± {100 * estimate.half_width:.2f}"
