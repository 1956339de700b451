"""The list of figures of one dataset: for the page and for files alike."""

from collections.abc import Callable, Mapping
from functools import partial

from matplotlib.figure import Figure

from cvrbench.report.dataset_report import DatasetReport
from cvrbench.report.figures.calibration import calibration_figure
from cvrbench.report.figures.comparison import comparison_figure
from cvrbench.report.figures.forest import forest_figure
from cvrbench.report.figures.learning import learning_figure
from cvrbench.report.figures.masks_compared import masks_figure
from cvrbench.report.figures.seesaw import seesaw_figure
from cvrbench.report.figures.sharing import agreement_figure, gates_figure
from cvrbench.report.figures.tradeoff import cost_figure, density_figure
from cvrbench.report.figures.transfer import transfer_figure
from cvrbench.report.sharing import gatings

Drawer = Callable[[], Figure | None]
"""Draws a figure when it is called; None where there is nothing to be drawn."""


OF_A_SHARE = ("comparison", "forest", "transfer", "seesaw")
"""What is drawn of a comparison that learnt from a share of the labels."""


def compared_figures(part: DatasetReport) -> Mapping[str, Drawer]:
    """Give what may be drawn of one dataset, by kind, in the order of reading."""
    comparison, found, gain = part.comparison, part.differences, part.transfer
    is_same = gain is not None and gain.gains is found  # the baseline is the tasks alone
    drawers: dict[str, Drawer] = {
        "comparison": partial(comparison_figure, comparison),
        "forest": lambda: None if found is None else forest_figure(comparison, found),
        "transfer": lambda: None if gain is None or is_same else transfer_figure(comparison, gain),
        "seesaw": partial(seesaw_figure, comparison),
        "cost": partial(cost_figure, comparison),
        "density": partial(density_figure, comparison),
        "learning": partial(learning_figure, comparison, part.learnings),
        "calibration": partial(calibration_figure, comparison, part.calibrations),
        "masks": partial(masks_figure, comparison),
        "gradients": partial(agreement_figure, comparison.name, part.agreements),
        "gates": lambda: gates_figure(comparison.name, gatings(comparison)),
    }
    if comparison.scarce_task is not None:  # of many shares of the labels the curve tells more
        return {kind: drawers[kind] for kind in OF_A_SHARE}
    return drawers
