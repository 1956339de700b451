"""What a report tells of one dataset: values, differences, gains and costs, for every medium."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import polars as pl

from cvrbench.errors import StoreError
from cvrbench.report import escape_control, escape_formula
from cvrbench.report.comparison import Comparison, Variant, compare
from cvrbench.report.diagnostics import (
    Agreement,
    Calibration,
    CalibrationReader,
    Learning,
    agreements,
    learnings,
)
from cvrbench.report.differences import (
    KINDS,
    RANKING,
    REFERENCE,
    Differences,
    Method,
    Transfer,
    Verdict,
    against,
    choose_baselines,
    transfer,
)
from cvrbench.report.grids import (
    comparison_grid,
    cost_grid,
    difference_grid,
    power_grid,
    space_grids,
    transfer_grid,
    wins_grid,
)
from cvrbench.report.studies import Tuned, tuned
from cvrbench.report.tables import Grid
from cvrbench.report.verdict import InfluenceKeeper, Recommendation, primary, recommend
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore, Unfinished
from cvrbench.runs.study import StudySummary

MOST_DRAWN = 40
"""Rows that figures on a page can show; of more a reader sees nothing, and waits for it."""
MOST_PROBLEMS = 3
"""Runs that are named; the rest is a number."""
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """One comparison and all that is known of it."""

    comparison: Comparison
    verdict: Recommendation
    differences: Differences | None
    transfer: Transfer | None
    tuned: Mapping[str, Tuned | None]
    """Row -> the sweep that chose it."""
    sweeps: tuple[StudySummary, ...] = ()
    """All sweeps of the results folder."""
    agreements: tuple[Agreement, ...] = ()
    learnings: tuple[Learning, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    binned: CalibrationReader | None = None
    """Calibration of the runs that were tested, if figures of it were asked for."""
    untested: str | None = None
    """Why nothing was tested although there is a baseline."""
    problems: tuple[str, ...] = ()
    """Why something else is not there."""

    @property
    def fits_a_page(self) -> bool:
        """Whether a page can show its figures."""
        return len(self.comparison.variants) <= MOST_DRAWN

    @property
    def values(self) -> Grid:
        """Every row's AUC in every space."""
        return comparison_grid(self.comparison)

    @property
    def beyond_auc(self) -> list[Grid]:
        """Every row's log loss, GAUC and calibration, a table per space."""
        return space_grids(self.comparison)

    @property
    def costs(self) -> Grid:
        """What every row cost, tuning included."""
        return cost_grid(self.comparison, self.tuned)

    @property
    def differences_grid(self) -> Grid | None:
        """Every row's AUC against the baseline's; None where nothing could be tested."""
        return None if self.tested is None else difference_grid(self.comparison, self.tested)

    @property
    def more_differences(self) -> list[Grid]:
        """Log loss and GAUC against the baseline's, and power."""
        tested = self.tested
        if tested is None:
            return []
        return [
            *(
                difference_grid(self.comparison, tested, kind)
                for kind in KINDS[len(RANKING) :]
                if any(metric.endswith(f"_{kind}") for metric in tested.verdicts)
            ),
            power_grid(self.comparison, tested),
        ]

    @property
    def tested(self) -> Differences | None:
        """The differences, if there is a verdict among them."""
        found = self.differences
        return found if found is not None and any(found.verdicts.values()) else None

    @property
    def why_untested(self) -> str | None:
        """Why there is no difference; None where there is one."""
        if self.tested is not None:
            return None
        reason = self.untested or "no baseline, or no row with two of its seeds"
        return f"nothing could be tested on {self.comparison.name}: {reason}"

    @property
    def transfer_grid(self) -> Grid | None:
        """Gains over the tasks alone, if these are not the differences already."""
        if self.transfer is None or self.transfer.gains is self.differences:
            return None
        return transfer_grid(self.comparison, self.transfer)

    def grids(self, *, full: bool) -> list[Grid]:
        """Return values, differences, gains and costs, as far as they exist; `full`: the rest."""
        found = (self.values, self.differences_grid, self.transfer_grid, self.costs)
        main = [grid for grid in found if grid is not None]
        wins = wins_grid(self.verdict)
        more = [] if wins is None else [wins]
        return [*main, *more, *self.beyond_auc, *self.more_differences] if full else main

    def runs(self) -> Iterator[tuple[Variant, RunRecord]]:
        """Yield every run with its row."""
        return ((variant, run) for variant in self.comparison.variants for run in variant.runs)

    def sweep_of(self, label: str) -> StudySummary | None:
        """Return the sweep that chose a row."""
        one = self.tuned.get(label)
        return next((s for s in self.sweeps if one is not None and s.name == one.sweep), None)


def build(
    records: Sequence[RunRecord],
    store: ResultStore,
    *,
    begun: Sequence[Unfinished] = (),
    sweeps: Sequence[StudySummary] = (),
    baseline: str | None = None,
    metric: str | None = None,
    most_seeds: int | None = None,
    how: Method | None = None,
    on_read: Callable[[], None] = lambda: None,
    curves: bool = False,
) -> list[DatasetReport]:
    """Compare all runs, dataset by dataset; what cannot be tested says why.

    Args:
        records: Finished runs.
        store: Where their predictions are.
        begun: Runs without a record.
        sweeps: All sweeps of the results folder.
        baseline: Row to compare with; None for a usual one.
        metric: The verdict's; None for AUC of the last task in its own space.
        most_seeds: Where seeds are being added in rounds: how many there will be at most.
        how: Margin and bootstrap draws; None for the usual.
        on_read: Called for every run whose predictions are read.
        curves: Whether `with_curves` follows, which then reads no predictions again.

    Raises:
        ConfigError: No comparison has the wanted baseline, or one lacks the metric.
    """
    comparisons = compare(records, begun)
    rows = choose_baselines(comparisons, baseline)
    metrics = [primary(comparison, metric) for comparison in comparisons]
    asked = Method() if how is None else how
    return [
        _build(comparison, row, (name, most_seeds), store, sweeps, asked, on_read, curves)
        for comparison, row, name in zip(comparisons, rows, metrics, strict=True)
    ]


def _build(
    comparison: Comparison,
    baseline: str | None,
    verdict: tuple[str, int | None],
    store: ResultStore,
    sweeps: Sequence[StudySummary],
    how: Method,
    on_read: Callable[[], None],
    curves: bool,
) -> DatasetReport:
    labels = {variant.label for variant in comparison.variants}
    wanted = dict.fromkeys(row for row in (baseline, REFERENCE) if row in labels)
    unread: list[str] = []
    binned = CalibrationReader(comparison) if curves else None
    metric, most_seeds = verdict
    keeper = InfluenceKeeper(tuple(dict.fromkeys([metric, *comparison.auc_metrics])))
    found = against(
        comparison,
        [*wanted],
        store,
        how,
        on_read=on_read,
        on_problem=unread.append,
        on_influence=keeper.add,
        **({} if binned is None else {"on_spaces": binned.add}),
    )
    problems = [f"left out of {comparison.name}'s differences: {one}" for one in sorted(unread)]
    if len(problems) > MOST_PROBLEMS:
        more = len(problems) - MOST_PROBLEMS
        problems = [*problems[:MOST_PROBLEMS], f"and {more} more of {comparison.name}"]
    tested = any(any(one.verdicts.values()) for one in found.values())
    return DatasetReport(
        comparison=comparison,
        verdict=recommend(comparison, keeper, metric, how.margin, most_seeds),
        differences=None if baseline is None else found.get(baseline),
        transfer=transfer(comparison, found.get(REFERENCE)),
        tuned=tuned(comparison, sweeps),
        sweeps=tuple(sweeps),
        binned=binned,
        untested=None if tested or not problems else "no predictions could be read",
        problems=tuple(problems),
    )


def with_curves(report: DatasetReport, store: ResultStore) -> DatasetReport:
    """Read what only figures show; what cannot be read is named in `problems`."""
    comparison, problems = report.comparison, list(report.problems)
    binned = report.binned or CalibrationReader(comparison)

    def read(what: str, reader: Callable[[Comparison, ResultStore], list[Found]]) -> list[Found]:
        try:
            return reader(comparison, store)
        except StoreError as problem:
            problems.append(f"no {what} for {comparison.name}: {problem}")
            return []

    return replace(
        report,
        agreements=tuple(read("gradients", agreements)),
        learnings=tuple(read("learning curves", learnings)),
        calibrations=tuple(read("calibration", lambda *_: binned.finish(store))),
        problems=tuple(problems),
    )


def report_json(report: DatasetReport) -> dict[str, Any]:
    """Return the plain form of all tables."""
    return {
        **comparison_json(report.comparison, report.differences),
        "verdict": report.verdict.to_json(),
        "transfer": None if report.transfer is None else transfer_json(report.transfer),
        "tuned": {label: one and one._asdict() for label, one in report.tuned.items()},
    }


def comparison_json(comparison: Comparison, found: Differences | None = None) -> dict[str, Any]:
    """Return one dataset's comparison as plain values, with the differences if there are some."""
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
    estimates = {name: variant.estimate(name) for name in variant.runs[0].metrics["test"]}
    verdicts = found.verdicts if found is not None else {}
    return {
        "strategy": variant.label,
        "settings": variant.settings,
        "differences": {
            metric: _verdict_json(by_label[variant.label])
            for metric, by_label in verdicts.items()
            if variant.label in by_label
        },
        "seeds": [run.seed for run in variant.runs],
        "missing": [one._asdict() for one in variant.missing],
        "metrics": {name: one and one._asdict() for name, one in estimates.items()},
        "parameters": variant.runs[0].parameters,
        "multiply_adds": variant.runs[0].multiply_adds,
        "seconds": variant.seconds,
        "seeds_at_once": variant.seeds_at_once,
        "examples": variant.examples,
        "examples_per_second": variant.rate,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return the plain form."""
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
        "row_freedom": d.freedom_of_rows if math.isfinite(d.freedom_of_rows) else None,
    }


def transfer_json(found: Transfer) -> dict[str, Any]:
    """Return the gains as plain values: `{"gain": {metric: {strategy: ...}}, ...}`."""
    return {
        "reference": REFERENCE,
        "gain": {
            metric: {label: _verdict_json(verdict) for label, verdict in verdicts.items()}
            for metric, verdicts in found.gains.verdicts.items()
        },
        "mean_relative_gain": {
            label: estimate._asdict() for label, estimate in found.relative.items()
        },
    }


def to_csv(compared: Sequence[tuple[Comparison, Differences | None]]) -> str:
    """Return every metric of every row of every dataset, a line each; no name is a formula."""
    lines = []
    for comparison, found in compared:
        for variant in comparison.variants:
            for metric in variant.runs[0].metrics["test"]:
                estimate = variant.estimate(metric)
                verdict = found.of(metric, variant.label) if found is not None else None
                difference = verdict.difference if verdict is not None else None
                lines.append(
                    {
                        "dataset": comparison.dataset,
                        "fingerprint": comparison.fingerprint,
                        "label_share": comparison.label_share,
                        "strategy": variant.label,
                        "metric": metric,
                        "mean": estimate.mean if estimate is not None else None,
                        "half_width": estimate.half_width if estimate is not None else None,
                        "seeds": estimate.n if estimate is not None else 0,
                        "baseline": found.baseline if found is not None else None,
                        "difference": difference.mean if difference is not None else None,
                        "difference_half_width": difference.half_width if difference else None,
                        "adjusted_p": verdict.adjusted_p if verdict is not None else None,
                        "equivalence_p": verdict.equivalence_p if verdict is not None else None,
                    }
                )
    frame = pl.DataFrame(lines, infer_schema_length=None)
    names = [name for name, kind in frame.schema.items() if kind == pl.String]

    def escaped(text: str) -> str:
        return escape_formula(escape_control(text))

    return frame.with_columns(
        pl.col(names).map_elements(escaped, return_dtype=pl.String)
    ).write_csv()
