"""One figure of a benchmark: what was measured, and what it should be."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A ratio measured side by side, or a time with the machine's own floor beside it."""

    name: str
    """A path, such as `train/reference/mmoe/floor`; it stays the same from change to change."""
    value: float
    unit: str
    """What the value counts: `of the floor`, `times one seed`, `s`."""
    at_least: float | None = None
    at_most: float | None = None
    detail: str = ""
    """What lies behind the value, for whoever reads the table: `38.1 ms a step`."""

    @property
    def is_met(self) -> bool | None:
        """Whether the value is where it should be; None where nothing is asked of it."""
        if self.at_least is None and self.at_most is None:
            return None
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.value <= high

    @property
    def aim(self) -> str:
        """What is asked of the value."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


def print_table(figures: Sequence[Figure]) -> None:
    """Print figures, one a line."""
    verdicts = {True: "met", False: "missed", None: ""}
    table = Table("figure", "value", "unit", "aim", "", "behind it")
    for f in figures:
        table.add_row(f.name, f"{f.value:,.3g}", f.unit, f.aim, verdicts[f.is_met], f.detail)
    Console(width=140).print(table)
