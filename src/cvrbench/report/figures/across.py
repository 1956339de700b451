"""The list of figures that need several comparisons: for the page and for files alike."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from cvrbench.report.comparison import file_name
from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.figures.compared import Drawer
from cvrbench.report.figures.ranks import ranks_figure
from cvrbench.report.figures.scarcity import scarcity_figure


class Across(NamedTuple):
    """A figure of several comparisons."""

    kind: str
    """What its reading is listed under."""
    name: str
    """Fit for a file, as far as the dataset's name is."""
    draw: Drawer


def across_figures(parts: Sequence[DatasetReport]) -> list[Across]:
    """Give what may be drawn of several comparisons together, in the order of reading."""
    comparisons = [part.comparison for part in parts]
    figures = [Across("ranks", "ranks", partial(ranks_figure, comparisons))]
    for (dataset, fingerprint, task), same in _scarce(parts).items():
        gains = [None if part.transfer is None else part.transfer.gains for part in same]
        draw = partial(scarcity_figure, [part.comparison for part in same], gains)
        name = file_name(f"scarcity-{dataset}-{fingerprint[:6]}-{task}")
        figures.append(Across("scarcity", name, draw))
    return figures


def _scarce(parts: Sequence[DatasetReport]) -> dict[tuple[str, str, str], list[DatasetReport]]:
    """Give each scarce task's parts, and with them that of all labels, on the same test rows."""
    found: dict[tuple[str, str, str], list[DatasetReport]] = {}
    for part in parts:
        one = part.comparison
        if one.scarce_task is not None:
            found.setdefault((one.dataset, one.fingerprint, one.scarce_task), []).append(part)
    for part in parts:
        one = part.comparison
        if one.scarce_task is None:
            for (dataset, fingerprint, _), same in found.items():
                if (dataset, fingerprint) == (one.dataset, one.fingerprint):
                    same.append(part)
    return found
