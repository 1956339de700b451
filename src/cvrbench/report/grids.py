"""The tables of one comparison: values, costs, differences, gains, and power."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from cvrbench.metrics.evaluation import METRICS_INFO, describe_metric
from cvrbench.report.comparison import Comparison, Missing, Variant
from cvrbench.report.differences import (
    KINDS,
    RANKING,
    REFERENCE,
    Differences,
    Transfer,
    Verdict,
    few_users_words,
)
from cvrbench.report.studies import Tuned, tuned_words
from cvrbench.report.tables import Cell, Grid, cells, interval, number, p_value, percent
from cvrbench.report.verdict import Recommendation
from cvrbench.stats.power import detectable

BEYOND_AUC = ("rmse", "mae", "logloss", "gxauc", "gauc", "pcoc", "ece")
"""What else a space is judged by: kinds of `cvrbench.metrics.evaluation`."""
UNCLICKED = ("auc_unclicked", "pcoc_unclicked", "regret_unclicked")
CAPTIONS = {
    BEYOND_AUC: "± as above. Log loss, RMSE, MAE and ECE: less is better; GAUC and GXAUC: within "
    "each user, weighted by rows; PCOC: predicted over observed positives, best at 1.",
    UNCLICKED: "± as above. Against the true probability of exposures without a click, which only "
    "planted data know. AUC: of labels drawn by it; PCOC: predicted over true, best at 1; regret: "
    "log loss above that of the truth, less is better.",
}
REASON = 90
"""Letters of a reason that a caption shows."""
OF_KIND = {"auc": ""} | {k: f" in {METRICS_INFO[k].label}" for k in KINDS if k not in RANKING}
MARK = "*"
"""After seconds that do not compare with those of the other rows."""


def comparison_grid(comparison: Comparison) -> Grid:
    """All variants on one dataset: AUC of every space, mean over seeds and its interval."""
    metrics = comparison.auc_metrics
    usual = max(len(variant.runs) + len(variant.missing) for variant in comparison.variants)
    rows = []
    for variant in comparison.variants:
        values = [interval(variant.estimate(metric)) for metric in metrics]
        n = str(len(variant.runs))
        seeds = f"{n} of {len(variant.runs) + len(variant.missing)}" if variant.missing else n
        rows.append(cells(variant.label, seeds, *values))
    dashes = ["-"] * len(metrics)
    rows += [cells(one.label, f"0 of {usual}", *dashes) for one in comparison.absent]
    reachable = [comparison.best_reachable(metric) for metric in metrics]
    planted = any(value is not None for value in reachable)
    n_rows = max(count["rows"] for count in comparison.counts.values())
    errors = [(metric, comparison.row_error(metric)) for metric in metrics]
    blur = [f"{metric} ±{error:.4f}" for metric, error in errors if error is not None]
    return Grid(
        title=f"{comparison.name}: {n_rows:,} test rows",
        headers=("strategy", "seeds", *map(comparison.header, metrics)),
        rows=tuple(rows),
        last=cells("best reachable", "", *map(number, reachable)) if planted else None,
        caption=(
            "± is the 95 % interval of the mean over seeds (one seed has none). The test rows "
            f"alone blur each value by {', '.join(blur)}.{_missing_words(comparison)}"
        ),
    )


def _missing_words(comparison: Comparison) -> str:
    """Name the missing runs and why they are missing; nothing where none is."""
    missing = [(variant.label, variant.missing) for variant in comparison.variants]
    missing += [(one.label, one.missing) for one in comparison.absent]
    found = [words for row in missing for words in _reasons(*row)]
    return f" Missing: {'; '.join(found)}." if found else ""


def _reasons(label: str, missing: Sequence[Missing]) -> Iterator[str]:
    """Yield `ncs seeds 3, 4 (not run)`, once per reason."""
    seeds: dict[str, list[str]] = {}
    for one in missing:
        seeds.setdefault(one.reason, []).append(str(one.seed))
    for reason, of in seeds.items():
        cut = reason if len(reason) <= REASON else f"{reason[: REASON - 3]}..."
        yield f"{label} seed{'' if len(of) == 1 else 's'} {', '.join(of)} ({cut})"


def space_grids(comparison: Comparison) -> list[Grid]:
    """Return a table per space of what else it is judged by, those metrics that any row has."""
    found = []
    for name, kinds in product(comparison.counts, (BEYOND_AUC, UNCLICKED)):
        metrics = {
            f"{name}_{kind}": METRICS_INFO[kind].label
            for kind in kinds
            if any(variant.estimate(f"{name}_{kind}") for variant in comparison.variants)
        }
        if not metrics:
            continue
        space = describe_metric(next(iter(metrics)), comparison.tasks).space
        found.append(
            Grid(
                title=f"{comparison.name}: {name.upper()} beyond AUC ({space})",
                headers=("strategy", *metrics.values()),
                rows=tuple(
                    cells(v.label, *(interval(v.estimate(metric)) for metric in metrics))
                    for v in comparison.variants
                ),
                caption=CAPTIONS[kinds],
            )
        )
    return found


def rows_grid(comparison: Comparison) -> Grid:
    """Return the test rows and positives of every space, the population in its header."""
    counts = comparison.counts
    ranking = dict(zip(counts, comparison.auc_metrics, strict=True))
    spaces = {n: describe_metric(ranking[n], comparison.tasks).space for n in counts}
    errors = [comparison.row_error(ranking[name]) for name in counts]
    shares = [100 * c["positives"] / c["rows"] if c["rows"] else None for c in counts.values()]
    return Grid(
        title=f"{comparison.name}: what was tested",
        headers=("in the test split", *(f"{n.upper()} ({space})" for n, space in spaces.items())),
        rows=(
            cells("test rows", *(f"{count['rows']:,}" for count in counts.values())),
            cells("positives", *(f"{count['positives']:,}" for count in counts.values())),
            cells("positives (%)", *("-" if s is None else f"{s:.2f}" for s in shares)),
            cells("blur of an AUC", *("-" if e is None else f"±{e:.4f}" for e in errors)),
        ),
        caption="The header names the population of each space. Blur: 1.96 standard errors (Hanley "
        "and McNeil, 1982), what these rows alone leave open of one AUC.",
    )


def cost_grid(comparison: Comparison, tuned: Mapping[str, Tuned | None]) -> Grid:
    """All variants: size, speed, and everything that was computed to get them.

    Args:
        comparison: The variants.
        tuned: Row -> the sweep that chose it; None for a preset.
    """
    others = timed_otherwise(comparison)
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
        rows=tuple(
            _cost_row(v, tuned.get(v.label), MARK if v.label in others else "")
            for v in comparison.variants
        ),
        caption=(
            "Means over seeds. Dense params: all but the embedding tables. Multiply-adds: of one "
            "example's forward pass, masked weights included. Train and search: seconds of "
            "optimiser steps; rows: those that gradients were computed on, searches included. "
            f"{tuned_words(dict(tuned))}{_otherwise_words(others)}"
        ),
    )


def timed_otherwise(comparison: Comparison) -> dict[str, str]:
    """Return the rows whose seconds do not compare with the others': label -> seeds at once.

    Seeds that are trained as one program share its time. The others are the rows whose seeds
    trained alone, or if there are none those of the commonest number of seeds at once.
    """
    at_once = {v.label: v.seeds_at_once for v in comparison.variants}
    usual = max(at_once.values(), key=lambda n: (n == "1", [*at_once.values()].count(n)))
    return {label: n for label, n in at_once.items() if n != usual}


def _otherwise_words(others: Mapping[str, str]) -> str:
    if not others:
        return ""
    named = ", ".join(f"{label} ({n} at once)" for label, n in others.items())
    return (
        f" {MARK} Seeds trained as one program in another number than the other rows': {named}; "
        "compare such seconds among themselves only."
    )


def _cost_row(variant: Variant, tuned: Tuned | None, mark: str) -> tuple[Cell, ...]:
    run = variant.runs[0]
    return cells(
        variant.label,
        f"{run.parameters - run.embedding_parameters:,}",
        f"{run.multiply_adds:,}",
        f"{variant.seconds_of('train'):.1f}{mark}",
        f"{variant.seconds_of('search'):.1f}{mark}",
        f"{variant.rate:,.0f}{mark}",
        f"{variant.examples / 1e6:.2f}",
        "preset" if tuned is None else f"{tuned.trials}: {tuned.examples / 1e6:.2f}",
    )


def difference_grid(comparison: Comparison, found: Differences, kind: str = "auc") -> Grid:
    """All variants less the baseline, in one kind of metric."""
    named = [f"{n}_{kind}" for n in comparison.counts] if kind != "auc" else comparison.auc_metrics
    metrics = [metric for metric in named if metric in found.verdicts]
    drawn = "users, each with all of its rows" if found.clustered else "test rows"
    if found.how.draws:
        drawn += f" ({found.how.draws:,} bootstrap draws)"
    within = (
        " Less is better."
        if METRICS_INFO[kind].direction == "lower"
        else f" ={found.margin:g}: equivalent, shown at 5 % to be smaller than that either way "
        "(two one-sided tests, Holm)."
    )
    return Grid(
        title=f"{comparison.name}: difference to {found.baseline}{OF_KIND[kind]}",
        headers=("strategy", *map(comparison.header, metrics)),
        rows=tuple(
            (
                Cell(variant.label),
                *(verdict(found.of(metric, variant.label), found.margin) for metric in metrics),
            )
            for variant in comparison.variants
            if variant.label != found.baseline
        ),
        caption=(
            f"± is the 95 % interval over seeds and over redrawn {drawn}; p is two-sided, adjusted "
            f"(Holm) over the rows of its column. Bold (*): shown, p below 0.05.{within} A dash: "
            "fewer than two seeds in common that have the metric."
            f"{few_users_words(found.few_users)}"
        ),
    )


def verdict(found: Verdict | None, margin: float) -> Cell:
    """`+0.0031 ± 0.0022 p=0.012`, strong where shown; `=0.001` instead of p where equivalent."""
    if found is None:
        return Cell("-")
    d = found.difference
    is_small = found.is_equivalent and not found.is_shown
    words = f"={margin:g}" if is_small else p_value(found.adjusted_p)
    mean = round(d.mean, 4) + 0.0  # no negative zero
    return Cell(f"{mean:+.4f} ± {d.half_width:.4f} {words}", strong=found.is_shown)


def transfer_grid(comparison: Comparison, found: Transfer) -> Grid:
    """Return a row per strategy: its gain in every space, and delta_m."""
    grid = difference_grid(comparison, found.gains)

    def gain(cell: Cell) -> Cell:
        return Cell(re.sub(r" (p[=<]|=).*", "", cell.text))

    def relative(label: str) -> Cell:
        one = found.relative.get(label)
        if one is None or one.half_width is None:
            return Cell("-")
        return Cell(f"{100 * one.mean:+.2f} ± {100 * one.half_width:.2f}")

    return replace(
        grid,
        title=f"{comparison.name}: transfer: gain over {REFERENCE}",
        headers=(*grid.headers, "mean gain (%)"),
        rows=tuple((row[0], *map(gain, row[1:]), relative(row[0].text)) for row in grid.rows),
        caption="± is the 95 % interval over seeds and over redrawn test rows. Mean gain: relative "
        f"to the tasks' own AUC (delta_m), ± over seeds. Tested with --baseline {REFERENCE}.",
    )


def power_grid(comparison: Comparison, found: Differences) -> Grid:
    """Return the smallest difference that these seeds and rows could have shown, row by row."""
    metrics = [metric for metric in comparison.auc_metrics if found.verdicts.get(metric)]
    by_label = {
        variant.label: [found.of(metric, variant.label) for metric in metrics]
        for variant in comparison.variants
    }
    return Grid(
        title=f"{comparison.name}: what could have been seen",
        headers=("strategy", *map(comparison.header, metrics)),
        rows=tuple(
            cells(label, *("-" if v is None else f"{detectable(v.difference):.4f}" for v in row))
            for label, row in by_label.items()
            if any(row)
        ),
        caption=f"The smallest true difference to {found.baseline} that these seeds and rows find "
        "with 80 % power at 5 % (two-sided, not adjusted). The verdict tells what more would take.",
    )


def wins_grid(found: Recommendation) -> Grid | None:
    """Return how often each row beats each other one; None where nothing is ranked."""
    if found.ranking is None:
        return None
    labels, wins = found.ranking.labels, found.ranking.best.wins
    return Grid(
        title=f"{found.name}: how often a row beats a column, in {found.header}",
        headers=("strategy", *labels),
        rows=tuple(
            cells(label, *("-" if i == j else percent(wins[i, j]) for j in range(len(labels))))
            for i, label in enumerate(labels)
        ),
        caption="Share of draws in which the row's mean is the better one, seeds and test rows "
        "drawn anew, the same for both. It describes these runs; the best set is what is shown.",
    )
