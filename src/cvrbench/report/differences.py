"""Which differences to the baseline are real: paired over seeds, and over the same test rows."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from cvrbench.errors import ConfigError, StoreError
from cvrbench.record import RunRecord
from cvrbench.report.frames import Comparison
from cvrbench.report.margin import MARGIN
from cvrbench.report.moves import KINDS, Moves, MovesReader, doubt_of_rows
from cvrbench.stats.difference import Difference, difference
from cvrbench.stats.equivalence import equivalence
from cvrbench.stats.multiple import holm
from cvrbench.stats.over_seeds import paired_t, wilcoxon
from cvrbench.store import ResultStore

ON_MARGIN = ("auc", "gauc")
"""Kinds of metric that a margin of AUC is a margin of."""
ROWS_AT_ONCE = 20_000_000
"""Test rows that may be in memory together, some 100 bytes each; larger runs are read in turn."""
USUAL_BASELINES = ("shared_bottom", "shared_embedding", "single_task")
"""What a table is held against where the user names nothing, the first that is there."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How differences are tested."""

    margin: float = MARGIN
    """Difference of AUC or GAUC that matters."""
    draws: int = 0
    """Bootstrap draws of the test rows; 0: their variance is DeLong's and Obuchowski's."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A variant's metric less the baseline's."""

    difference: Difference
    adjusted_p: float
    """After Holm, over all variants of one metric."""
    equivalence_p: float | None
    """Of a difference as large as the margin, after Holm; None where a margin says nothing."""
    t_p: float
    """Of Student's paired test over seeds, which knows nothing of the test rows; not adjusted."""
    wilcoxon_p: float
    """Of the signed-rank test over seeds, likewise."""

    @property
    def is_real(self) -> bool:
        """Whether the difference stands at 5 per cent after the adjustment."""
        return self.adjusted_p < 0.05

    @property
    def is_equivalent(self) -> bool:
        """Whether it is shown, at 5 per cent, to be smaller than the margin."""
        return self.equivalence_p is not None and self.equivalence_p < 0.05


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All verdicts of a comparison; a variant without two seeds in common has none."""

    baseline: str
    verdicts: dict[str, dict[str, Verdict]]
    """Metric -> variant -> verdict; AUC, log loss and GAUC of every space."""
    clustered: bool
    """Whether test rows were taken user by user."""
    how: Method

    @property
    def margin(self) -> float:
        """Difference of AUC or GAUC that matters."""
        return self.how.margin

    def of(self, metric: str, label: str) -> Verdict | None:
        """Give a variant's verdict in one metric, if it has one."""
        return self.verdicts.get(metric, {}).get(label)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Give the plain form; `p` and `adjusted_p` are with both doubts, the last two with seeds'."""
    d = verdict.difference
    return {
        "mean": d.mean,
        "half_width": d.half_width,
        "p": d.p,
        "seeds": d.seeds,
        "adjusted_p": verdict.adjusted_p,
        "equivalence_p": verdict.equivalence_p,
        "seed_variance": d.of_seeds,
        "row_variance": d.of_rows,
        "t_p": verdict.t_p,
        "wilcoxon_p": verdict.wilcoxon_p,
    }


def choose_baselines(comparisons: Sequence[Comparison], wanted: str | None) -> list[str | None]:
    """Give each comparison's baseline: the wanted row, else a usual one; None where it has none.

    Raises:
        ConfigError: The wanted row is in no comparison.
    """
    rows = [[variant.label for variant in comparison.variants] for comparison in comparisons]
    if wanted is None:
        return [next((u for u in USUAL_BASELINES if u in labels), None) for labels in rows]
    if not any(wanted in labels for labels in rows):
        there = list(dict.fromkeys(label for labels in rows for label in labels))
        raise ConfigError(f"--baseline {wanted}: no such row; there are {', '.join(there)}")
    return [wanted if wanted in labels else None for labels in rows]


def against(
    comparison: Comparison,
    baselines: Sequence[str],
    store: ResultStore,
    how: Method | None = None,
    on_read: Callable[[], None] = lambda: None,
    on_problem: Callable[[str], None] = lambda _: None,
) -> dict[str, Differences]:
    """Compare every variant with each baseline, from the predictions kept on the test rows.

    Every run's predictions are read once, those of a variant side by side; a run that has no
    partner is not read.

    Args:
        comparison: The variants.
        baselines: Labels of some of them.
        store: Where the predictions are.
        how: Margin and bootstrap draws; None for the usual.
        on_read: Told of every run whose predictions are read.
        on_problem: Told of every run whose predictions are missing, damaged, or of other rows; it
            has no part in any difference.
    """
    how = how or Method()
    reader = MovesReader(comparison.tasks, how.draws)

    def read(run: RunRecord) -> dict[str, Moves] | None:
        on_read()
        try:
            return reader.read(run, store.predictions(run.run_id))
        except StoreError as problem:
            on_problem(str(problem))
            return None

    tested: dict[str, dict[tuple[str, str], _Tested]] = {label: {} for label in baselines}
    n_rows = max(count["rows"] for count in comparison.counts.values())
    workers = max(1, min(os.cpu_count() or 1, ROWS_AT_ONCE // max(n_rows, 1)))
    for label, baseline, runs in _read_pairs(_pairs(comparison, baselines), read, workers):
        found = _test(runs, how.margin)
        tested[baseline] |= {(metric, label): one for metric, one in found.items()}
    clustered = any(rows.users is not None for rows in reader.known.values())
    return {
        label: Differences(
            baseline=label,
            verdicts=_verdicts(comparison, tested[label]),
            clustered=clustered,
            how=how,
        )
        for label in baselines
    }


_Pairs = dict[str, dict[str, list[tuple[RunRecord, RunRecord]]]]
"""Variant -> baseline -> runs of one seed each."""


class _Tested(NamedTuple):
    """A difference before its neighbours are known."""

    difference: Difference
    equivalence_p: float | None
    t_p: float
    wilcoxon_p: float


def tested_metrics(comparison: Comparison, kind: str) -> list[str]:
    """Name the metrics of one kind that are tested, in the order of the spaces."""
    return [f"{name}_{kind}" for name in comparison.counts]


def _pairs(comparison: Comparison, baselines: Sequence[str]) -> _Pairs:
    """Pair runs by seed, where a variant and a baseline have two seeds or more in common."""
    runs = {one.label: {run.seed: run for run in one.runs} for one in comparison.variants}
    found: _Pairs = {}
    for label, own in runs.items():
        for baseline in baselines:
            base = runs[baseline]
            both = [(own[seed], base[seed]) for seed in own if seed in base]
            if label != baseline and len(both) >= 2:
                found.setdefault(label, {})[baseline] = both
    return found


def _read_pairs(
    pairs: _Pairs, read: Callable[[RunRecord], dict[str, Moves] | None], workers: int
) -> Iterator[tuple[str, str, list[tuple[dict[str, Moves], dict[str, Moves]]]]]:
    """Give variant, baseline and what both moved; the baselines and two variants are kept."""
    sides = [both for of in pairs.values() for both in of.values()]
    bases = {base.run_id: base for both in sides for _, base in both}
    known: dict[str, dict[str, Moves] | None] = {}
    while bases and not any(known.values()):  # all must have the rows of the first
        name, first = bases.popitem()
        known[name] = read(first)
    with ThreadPoolExecutor(workers) as pool:  # NumPy and polars let other threads run

        def read_all(runs: Mapping[str, RunRecord]) -> dict[str, dict[str, Moves] | None]:
            return dict(zip(runs, pool.map(read, runs.values()), strict=True))

        known |= read_all(bases)
        for label, of in pairs.items():
            own = {run.run_id: run for both in of.values() for run, _ in both}
            moves = known | read_all({name: own[name] for name in own if name not in known})
            for baseline, both in of.items():
                found = [(moves[a.run_id], moves[b.run_id]) for a, b in both]
                yield label, baseline, [(a, b) for a, b in found if a is not None and b is not None]


def _test(
    runs: Sequence[tuple[Mapping[str, Moves], Mapping[str, Moves]]], margin: float
) -> dict[str, _Tested]:
    """Test every metric that two pairs or more have."""
    found = {}
    for metric in dict.fromkeys(metric for own, _ in runs for metric in own):
        pairs = [
            (own[metric], base[metric]) for own, base in runs if metric in own and metric in base
        ]
        if len(pairs) < 2:
            continue
        per_seed = [one.value - other.value for one, other in pairs]
        result = difference(per_seed, doubt_of_rows(pairs))
        found[metric] = _Tested(
            result,
            equivalence(result, margin) if pairs[0][0].kind in ON_MARGIN else None,
            paired_t(per_seed),
            wilcoxon(per_seed),
        )
    return found


def _verdicts(
    comparison: Comparison, tested: Mapping[tuple[str, str], _Tested]
) -> dict[str, dict[str, Verdict]]:
    """Adjust what was tested, metric by metric."""
    found = {}
    for metric in (name for kind in KINDS for name in tested_metrics(comparison, kind)):
        of = {label: one for (name, label), one in tested.items() if name == metric}
        adjusted = holm([one.difference.p for one in of.values()])
        margins = [one.equivalence_p for one in of.values() if one.equivalence_p is not None]
        within = holm(margins) if margins else [None] * len(of)
        if of or metric in comparison.auc_metrics:
            found[metric] = {
                label: Verdict(
                    difference=one.difference,
                    adjusted_p=p,
                    equivalence_p=equal,
                    t_p=one.t_p,
                    wilcoxon_p=one.wilcoxon_p,
                )
                for (label, one), p, equal in zip(of.items(), adjusted, within, strict=True)
            }
    return found
