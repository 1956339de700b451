"""What a prepared dataset looks like."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvrbench.data.registry import Description
from cvrbench.report.figures.style import POINT, headline, styled

LINEAR_RANGE = 20
"""Label rates further apart than this are drawn on a logarithmic axis."""


def description_figure(description: Description) -> Figure:
    """Label rates per space and split, and how often the ids of each field occur."""
    with styled():
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        rates, ids = figure.subplots(1, 2)
        _label_rates(rates, description)
        _id_counts(ids, description)
        headline(figure, f"{description.name}: labels and ids")
    return figure


def _label_rates(axis: Axes, description: Description) -> None:
    spaces = list(description.rates["train"])
    width = 0.26
    for position, (split, tint) in enumerate(zip(description.rates, (1.0, 0.6, 0.3), strict=True)):
        values = [description.rates[split][space] for space in spaces]
        places = [index + (position - 1) * width for index in range(len(spaces))]
        bars = axis.bar(places, values, width * 0.92, color=POINT, alpha=tint, label=split)
        if position == 1:
            axis.bar_label(bars, [f"{value:.2%}" for value in values], fontsize=7, padding=2)
    axis.set_xticks(range(len(spaces)), spaces)
    shares = [rate for split in description.rates.values() for rate in split.values()]
    if max(shares) > LINEAR_RANGE * min(shares):
        axis.set_yscale("log")  # else the rare label's bars would not be seen
    axis.set_ylabel("share of positives")
    axis.set_title("label rate by space")
    axis.margins(y=0.15)
    axis.legend(frameon=False)


def _id_counts(axis: Axes, description: Description) -> None:
    largest = sorted(description.id_counts.items(), key=lambda item: -len(item[1]))[:6]
    for name, values in largest:
        axis.plot(
            range(1, len(values) + 1), values, linewidth=1.4, label=f"{name} ({len(values):,})"
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("rank of the id")
    axis.set_ylabel("training rows")
    axis.set_title("ids by frequency, the largest fields")
    axis.grid()
    axis.legend(frameon=False, fontsize=7)
