"""The guards over a whole dataset, as `prepare` runs them."""

from cvrbench.data.checks import Inspection
from cvrbench.data.raw import RawSplits


def check(raw: RawSplits, name: str, pieces: int = 1) -> None:
    """Show every split to the guards in so many pieces."""
    inspection = Inspection(raw.stream(), name)
    for split, whole in raw.splits().items():
        size = max(1, -(-len(whole) // pieces))
        for start in range(0, max(len(whole), 1), size):
            inspection.see(split, whole.slice(start, size))
    inspection.finish()
