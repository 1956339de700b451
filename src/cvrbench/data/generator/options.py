"""What a generation is asked for, and what it will take on the disk."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from cvrbench.errors import DataError

MIN_ROWS = 10
MAX_ROWS = 10**12
MAX_SCALE = 10.0
"""Of `card`: the blocks of ids hold no more values than the real files have; more is cut there."""

SKELETON_ROW_BYTES = 245
TRUTH_ROW_BYTES = 40
COMMON_BYTES = 265
"""Per skeleton row, at `hist=1`: 14.6 KB for each block of about 58 rows, and its key."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A generation; the same values give the same bytes, whatever the number of workers.

    Attributes:
        rows, test_rows: Skeleton rows of the two halves, at least 10 each.
        seed: Of everything that is drawn.
        card: Scale of the number of values of a field, 1 = the real training rows'.
        hist: Scale of the length of the users' histories, 1 = the real files'.
        ctr: Share of rows that are clicked, in (0, 1).
        cvr: Share of clicked rows that convert, in (0, 1).
        conflict: Strength of the effect that acts on the two tasks with opposite signs.
        anomaly: Share of rows with click = 0 and conversion = 1, in [0, 1).
        replay: Rows of a base block that is repeated with fresh ids, keys and labels until `rows`
            are reached (10^6 is a good block); `None` draws every row anew. The base block is held
            in memory: about 0.5 GB per 10^6 rows at `hist=1`.
    """

    rows: int
    test_rows: int
    seed: int
    card: float = 1.0
    hist: float = 1.0
    ctr: float = 0.03887
    cvr: float = 0.00535
    conflict: float = 0.8
    anomaly: float = 5.4e-6
    replay: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the options by name."""
        return asdict(self)

    def check(self) -> None:
        """Refuse what cannot be generated.

        Raises:
            DataError: An option is out of its range.
        """
        counts = {"rows": self.rows, "test_rows": self.test_rows}
        if self.replay is not None:
            counts["replay"] = self.replay
        for name, value in counts.items():
            _require(MIN_ROWS <= value <= MAX_ROWS, name, value, f"{MIN_ROWS} to {MAX_ROWS:,}")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require(0 < self.card <= MAX_SCALE, "card", self.card, f"above 0, at most {MAX_SCALE:g}")
        _require(0 < self.hist <= MAX_SCALE, "hist", self.hist, f"above 0, at most {MAX_SCALE:g}")
        _require(0 < self.ctr < 1, "ctr", self.ctr, "between 0 and 1")
        _require(0 < self.cvr < 1, "cvr", self.cvr, "between 0 and 1")
        _require(0 <= self.anomaly < 1, "anomaly", self.anomaly, "0 or more and below 1")
        _require(
            self.conflict >= 0 and math.isfinite(self.conflict),
            "conflict",
            self.conflict,
            "0 or more",
        )

    def bytes_needed(self) -> int:
        """Estimate the size of the files."""
        row = SKELETON_ROW_BYTES + TRUTH_ROW_BYTES + COMMON_BYTES * self.hist
        return int((self.rows + self.test_rows) * row)


def _require(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise DataError(f"{name}={value} cannot be generated: give {allowed}")
