"""All figures of one run's masks, written side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cvrbench.report.figures.connections import connections_figure, fields_figure
from cvrbench.report.figures.masks import layers_figure, rounds_figure
from cvrbench.report.figures.style import save
from cvrbench.report.masks import FieldRows, Keep, Masks


def draw_masks(
    masks: Masks, keep: Keep, fields: Sequence[FieldRows] | None, *, title: str, start: Path
) -> Iterator[Path]:
    """Write every figure as PNG and as SVG; give the files as they are written.

    Args:
        masks: Of the run.
        keep: The masks themselves, the first layer first.
        fields: Which of the first layer's rows read which field, if that is known.
        title: Of every figure.
        start: The files are called `<start>-layers.png` and so on.

    Raises:
        StoreError: The folder is not writable.
    """
    figures = {"layers": layers_figure(masks, title)}
    if any(one.layers for one in masks.rounds):
        figures["rounds"] = rounds_figure(masks, title)
    if keep:
        figures["connections"] = connections_figure(keep, masks.tasks, fields, title)
    if fields is not None:
        figures["fields"] = fields_figure(next(iter(keep.values())), masks.tasks, fields, title)
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            yield save(figure, start.with_name(f"{start.name}-{name}.{ending}"))
