"""What sharing is worth to every task."""

from matplotlib.figure import Figure

from cvrbench.report.comparison import Comparison
from cvrbench.report.differences import REFERENCE, Transfer
from cvrbench.report.figures.forest import gains_figure


def transfer_figure(comparison: Comparison, found: Transfer) -> Figure | None:
    """Gain over the tasks alone: a dot and its interval per strategy, a panel per space."""
    words = f"{comparison.name}, test split: gain over {REFERENCE}, 95 % intervals"
    return gains_figure(comparison, found.gains, words)
