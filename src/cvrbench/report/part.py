"""What a report tells of one dataset, gathered once for every medium."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cvrbench.record import RunRecord
from cvrbench.report.calibration import Calibration
from cvrbench.report.cost_grids import cost_grid
from cvrbench.report.difference_grids import difference_grid, over_seeds_grid, power_grid
from cvrbench.report.differences import Differences
from cvrbench.report.frames import Comparison, Variant
from cvrbench.report.grids import Grid
from cvrbench.report.learning import Learning
from cvrbench.report.sharing import Agreement
from cvrbench.report.studies import Tuned
from cvrbench.report.transfer import Transfer, transfer_grid
from cvrbench.report.value_grids import comparison_grid, space_grids
from cvrbench.studies import StudySummary

MOST_DRAWN = 40
"""Rows that figures on a page can show; of more a reader sees nothing, and waits for it."""


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
    learnings: tuple[Learning, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    untested: str | None = None
    """Why nothing was tested although there is a baseline."""
    problems: tuple[str, ...] = ()
    """Why something else is not there."""

    @property
    def fits_a_page(self) -> bool:
        """Whether its figures do."""
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
        """Log loss and GAUC against the baseline's, tests over seeds alone, and power."""
        if self.tested is None:
            return []
        kinds = [
            kind
            for kind in ("logloss", "gauc")
            if any(metric.endswith(f"_{kind}") for metric in self.tested.verdicts)
        ]
        return [
            *(difference_grid(self.comparison, self.tested, kind) for kind in kinds),
            over_seeds_grid(self.comparison, self.tested),
            power_grid(self.comparison, self.tested),
        ]

    @property
    def tested(self) -> Differences | None:
        """The differences, if there is a verdict among them."""
        found = self.differences
        return found if found is not None and any(found.verdicts.values()) else None

    @property
    def why_untested(self) -> str | None:
        """Say why there is no difference; None where there is one."""
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
        """Values, differences, gains and costs, those that there are; `full`: the rest too."""
        found = (self.values, self.differences_grid, self.transfer_grid, self.costs)
        main = [grid for grid in found if grid is not None]
        return [*main, *self.beyond_auc, *self.more_differences] if full else main

    def runs(self) -> Iterator[tuple[Variant, RunRecord]]:
        """Give every run with its row."""
        for variant in self.comparison.variants:
            for run in variant.runs:
                yield variant, run

    def sweep_of(self, label: str) -> StudySummary | None:
        """Give the sweep that chose a row."""
        one = self.tuned.get(label)
        return next((s for s in self.sweeps if one is not None and s.name == one.sweep), None)
