"""What a row cost: to train, searches and tuning included, and to serve."""

from collections.abc import Mapping

from cvrbench.report.frames import Comparison, Variant
from cvrbench.report.grids import Cell, Grid, cells
from cvrbench.report.studies import Tuned, tuned_words


def cost_grid(comparison: Comparison, tuned: Mapping[str, Tuned | None]) -> Grid:
    """All variants: size, speed, and everything that was computed to get them.

    Args:
        comparison: The variants.
        tuned: Row -> the sweep that chose it; None of a preset.
    """
    return Grid(
        title=f"{comparison.name}: what each row cost",
        headers=(
            "strategy",
            "dense\nparams",
            "multiply\nadds",
            "train\n(s)",
            "search\n(s)",
            "rows\nper s",
            "rows\n(M)",
            "tuned with\nrows (M)",
        ),
        rows=tuple(_row(variant, tuned.get(variant.label)) for variant in comparison.variants),
        caption=(
            "Means over seeds. Dense params: all but the embedding tables. Multiply-adds: of one "
            "example's forward pass, masked weights included. Train and search: seconds of "
            "optimiser steps; rows: those that gradients were computed on, searches included. "
            f"{tuned_words(dict(tuned))}"
        ),
    )


def _row(variant: Variant, tuned: Tuned | None) -> tuple[Cell, ...]:
    run = variant.runs[0]
    return cells(
        variant.label,
        f"{run.parameters - run.embedding_parameters:,}",
        f"{run.multiply_adds:,}",
        f"{variant.seconds_of('train'):.1f}",
        f"{variant.seconds_of('search'):.1f}",
        f"{variant.rate:,.0f}",
        f"{variant.examples / 1e6:.2f}",
        "preset" if tuned is None else f"{tuned.trials}: {tuned.examples / 1e6:.2f}",
    )
