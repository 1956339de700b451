"""What a report tells of one dataset, gathered once for every medium."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cvrbench.evaluation import describe_metric
from cvrbench.record import RunRecord
from cvrbench.report.differences import Differences
from cvrbench.report.frames import Comparison, Variant
from cvrbench.report.grids import Cell, Grid, comparison_grid, difference_grid
from cvrbench.report.sharing import Agreement
from cvrbench.report.studies import Tuned, tuned_words
from cvrbench.report.transfer import Transfer, transfer_grid
from cvrbench.studies import StudySummary


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison and all that is known of it."""

    comparison: Comparison
    differences: Differences | None
    transfer: Transfer | None
    tuned: Mapping[str, Tuned | None]
    """Row -> the sweep that chose it."""
    sweeps: tuple[StudySummary, ...] = ()
    """All of the results folder."""
    agreements: tuple[Agreement, ...] = ()
    problems: tuple[str, ...] = ()
    """Why something that was asked for is not there."""

    @property
    def values(self) -> Grid:
        """Every row's values; the caption says which rows a sweep chose, where there are sweeps."""
        grid = comparison_grid(self.comparison)
        if not self.sweeps:
            return grid
        return replace(grid, caption=f"{grid.caption} {tuned_words(dict(self.tuned))}")

    @property
    def differences_grid(self) -> Grid | None:
        """Every row against the baseline; None where nothing could be tested."""
        if self.differences is None or not any(self.differences.verdicts.values()):
            return None
        return difference_grid(self.comparison, self.differences)

    @property
    def transfer_grid(self) -> Grid | None:
        """Gains over the tasks alone, if these are not the differences already."""
        if self.transfer is None or self.transfer.gains is self.differences:
            return None
        return transfer_grid(self.comparison, self.transfer)

    @property
    def grids(self) -> list[Grid]:
        """Values, differences and gains, those that there are."""
        found = (self.values, self.differences_grid, self.transfer_grid)
        return [grid for grid in found if grid is not None]

    def runs(self) -> Iterator[tuple[Variant, RunRecord]]:
        """Give every run with its row."""
        for variant in self.comparison.variants:
            for run in variant.runs:
                yield variant, run

    def sweep_of(self, label: str) -> StudySummary | None:
        """Give the sweep that chose a row."""
        one = self.tuned.get(label)
        return next((s for s in self.sweeps if one is not None and s.name == one.sweep), None)


def rows_grid(comparison: Comparison) -> Grid:
    """Give the test rows and positives of every space, the population in its header."""
    names = list(comparison.counts)
    spaces = [describe_metric(f"{name}_auc", comparison.tasks).space for name in names]
    counts = [comparison.counts[name] for name in names]
    errors = [comparison.row_error(f"{name}_auc") for name in names]
    shares = [100 * c["positives"] / c["rows"] if c["rows"] else None for c in counts]

    def row(name: str, texts: Sequence[str]) -> tuple[Cell, ...]:
        return (Cell(name), *map(Cell, texts))

    return Grid(
        title=f"{comparison.dataset}: what was tested",
        headers=(
            "in the test split",
            *(f"{name.upper()} ({space})" for name, space in zip(names, spaces, strict=True)),
        ),
        rows=(
            row("test rows", [f"{count['rows']:,}" for count in counts]),
            row("positives", [f"{count['positives']:,}" for count in counts]),
            row("positives (%)", ["-" if s is None else f"{s:.2f}" for s in shares]),
            row("blur of an AUC", ["-" if e is None else f"±{e:.4f}" for e in errors]),
        ),
        caption="The header names the population of each space. Blur: 1.96 standard errors (Hanley "
        "and McNeil, 1982), what these rows alone leave open of one AUC.",
    )
