"""Figures of one sweep, drawn from its summary alone."""

from matplotlib.figure import Figure

from cvrbench.report.plots.study.density import density_figure
from cvrbench.report.plots.study.front import front_figure
from cvrbench.report.plots.study.history import curves_figure, history_figure
from cvrbench.report.plots.study.parameters import importances_figure, slices_figure
from cvrbench.report.plots.study.together import contour_figure, parallel_figure
from cvrbench.studies import StudySummary


def study_figures(summary: StudySummary) -> dict[str, Figure]:
    """Draw everything that makes sense for a study, by name, in the order of reading."""
    figures = {
        "history": history_figure(summary),
        "curves": curves_figure(summary),
        "importances": importances_figure(summary),
        "slices": slices_figure(summary),
        "contour": contour_figure(summary),
        "parallel": parallel_figure(summary),
        "front": front_figure(summary),
        "density": density_figure(summary),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
