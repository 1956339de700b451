"""Differences to the baseline, and what it would take to see smaller ones."""

from collections.abc import Callable

from cvrbench.report.differences import Differences, Verdict, tested_metrics
from cvrbench.report.frames import Comparison
from cvrbench.report.grids import Cell, Grid, cells
from cvrbench.stats.over_seeds import smallest_wilcoxon_p
from cvrbench.stats.power import detectable, rows_factor_needed, seeds_needed

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
