"""Finished runs as one object for Python and notebooks: what `cvrbench report` prints."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from cvrbench.errors import ConfigError, did_you_mean
from cvrbench.report.dataset_report import DatasetReport, build, report_json, with_curves
from cvrbench.report.page import templates
from cvrbench.report.tables import to_markdown
from cvrbench.report.verdict import Recommendation
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


class Results:
    """Runs of one results folder, compared when they are first asked about.

    A notebook shows the tables of `cvrbench report`; `print` shows them as Markdown.
    """

    def __init__(self, runs: Sequence[RunRecord], store: ResultStore) -> None:
        self.runs = tuple(runs)
        """The records, which hold every metric, cost and setting."""
        self._store = store

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.runs)

    def __iter__(self) -> Iterator[RunRecord]:
        """Return the records one by one."""
        return iter(self.runs)

    @cached_property
    def reports(self) -> Mapping[str, DatasetReport]:
        """What is compared, by the dataset's name and state."""
        return {one.comparison.name: one for one in build(self.runs, self._store)}

    def to_polars(self) -> pl.DataFrame:
        """Return a row per run: its name, its row in the report, seed, costs, and test metrics."""
        rows = [
            {
                "dataset": report.comparison.name,
                "row": variant.label,
                "seed": run.seed,
                "run_id": run.run_id,
                "parameters": run.parameters,
                "multiply_adds": run.multiply_adds,
                "seconds": run.seconds["total"],
                **run.metrics["test"],
            }
            for report in self.reports.values()
            for variant, run in report.runs()
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    def differences(self, dataset: str | None = None) -> dict[str, Any]:
        """Return what `cvrbench report --json` has of one dataset.

        Raises:
            ConfigError: There is no such dataset, or more than one to choose from.
        """
        return report_json(self._of(dataset))

    def verdict(self, dataset: str | None = None) -> Recommendation:
        """Return which row to take of one dataset, and why: text if printed, `.take`, `.to_json()`.

        Raises:
            ConfigError: There is no such dataset, or more than one to choose from.
        """
        return self._of(dataset).verdict

    def figure(self, kind: str, dataset: str | None = None) -> "Figure | None":
        """Draw a figure of the report: `seesaw`, `forest`, `cost`, `learning`, `masks`...

        Returns:
            The figure, None where these runs have nothing to show in it.

        Raises:
            ConfigError: There is no such figure or dataset, or more than one dataset.
        """
        from cvrbench.report.figures.comparison import compared_figures

        drawers = compared_figures(with_curves(self._of(dataset), self._store))
        return _chosen(drawers, kind, "figure")()

    def _of(self, dataset: str | None) -> DatasetReport:
        if dataset is None and len(self.reports) == 1:
            return next(iter(self.reports.values()))
        return _chosen(self.reports, dataset, "dataset")

    def __str__(self) -> str:
        """Return the verdicts, and the tables of a report as Markdown."""
        reports = self.reports.values()
        parts = [str(one.verdict) + "\n" for one in reports]
        parts += [to_markdown(grid) for one in reports for grid in one.grids(full=False)]
        return "\n".join(parts) or "no finished run with a scored test"

    def _repr_html_(self) -> str:
        """Return the tables of a report for a notebook's cell."""
        page = templates().get_template("notebook.html.j2")
        return page.render(reports=list(self.reports.values()))


def _chosen(choices: Mapping[str, T], name: str | None, what: str) -> T:
    """Return the choice of that name.

    Raises:
        ConfigError: There is none.
    """
    if name is not None and name in choices:
        return choices[name]
    near = did_you_mean(name, list(choices)) if name is not None else ""
    wrong = f"no {what} {name!r}.{near}" if name is not None else f"which {what}?"
    raise ConfigError(f"{wrong} Choices: {', '.join(choices) or 'none'}")
