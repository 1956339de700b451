"""Masks as tables: what each layer keeps, and what every round of the search left."""

from collections.abc import Iterable

from cvrbench.report.grids import Cell, Grid, number
from cvrbench.report.masks import Layer, Masks, Round

LAYERS_A_TABLE = 6
"""So many columns of numbers fit 80 characters beside the words."""


def layer_grids(masks: Masks, title: str) -> list[Grid]:
    """Give a column per layer and one for all together, in as many tables as their width needs."""
    starts = range(0, len(masks.layers), LAYERS_A_TABLE)
    parts = [masks.layers[start : start + LAYERS_A_TABLE] for start in starts]
    return [
        Grid(
            title=title if len(parts) == 1 else f"{title} ({part} of {len(parts)})",
            headers=("share of connections", *(layer.name for layer in layers)),
            rows=tuple(_fact_rows(layers, masks)),
            caption=_layers_caption(masks) if part == len(parts) else "",
        )
        for part, layers in enumerate(parts, 1)
    ]


def rounds_grid(masks: Masks) -> Grid:
    """Give a row per candidate of the search: density, overlap and validation score."""
    scored = any(one.scores for one in masks.rounds)
    headers = ["round", *(f"kept by\n{task}" for task in masks.tasks)]
    if masks.pairs:
        headers += ["shared", *(_over(masks, pair) for pair in masks.pairs)]
    if scored:
        headers += [f"AUC\n{task}" for task in masks.tasks]
    headers.append("chosen")
    return Grid(
        title="rounds of the search, over all layers",
        headers=tuple(headers),
        rows=tuple(
            tuple(map(Cell, _round_row(place, one, masks, scored=scored)))
            for place, one in enumerate(masks.rounds, 1)
        ),
        caption=_rounds_caption(masks, scored=scored),
    )


def _fact_rows(layers: tuple[Layer, ...], masks: Masks) -> list[tuple[Cell, ...]]:
    def row(words: str, texts: Iterable[str]) -> tuple[Cell, ...]:
        return tuple(map(Cell, (words, *texts)))

    def shares(words: str, values: Iterable[float]) -> tuple[Cell, ...]:
        return row(words, map(share, values))

    tasks = masks.tasks
    rows = [row("connections", (f"{layer.connections:,}" for layer in layers))]
    rows += [shares(f"kept by {t}", (layer.density[t] for layer in layers)) for t in tasks]
    if masks.pairs:
        words = "by both" if len(tasks) == 2 else "by 2 or more"
        rows.append(shares(f"shared: {words}", (layer.shared for layer in layers)))
        rows += [shares(f"only {t}", (layer.private[t] for layer in layers)) for t in tasks]
        rows.append(shares("union", (layer.union for layer in layers)))
    rows.append(shares("unused", (layer.unused for layer in layers)))
    for pair in masks.pairs:
        of = "" if len(masks.pairs) == 1 else f" {', '.join(pair)}"
        rows.append(row(f"overlap{of}", (f"{layer.overlap[pair]:.3f}" for layer in layers)))
        rows.append(row("  by chance", (f"{layer.chance[pair]:.3f}" for layer in layers)))
    for t in tasks:
        units = [f"{layer.dead[t]:,}" if t in layer.dead else "-" for layer in layers]
        rows.append(row(f"dead units, {t}", units))
    return rows


def share(value: float) -> str:
    """`16.5 %`."""
    return f"{100 * value:.1f} %"


def _over(masks: Masks, pair: tuple[str, str]) -> str:
    return "overlap" if len(masks.pairs) == 1 else "overlap\n{},\n{}".format(*pair)


def _round_row(place: int, one: Round, masks: Masks, *, scored: bool) -> list[str]:
    whole = one.layers[-1] if one.layers else None
    texts = [str(place)]
    # A search that tells of no masks still tells the density that it aimed at.
    texts += [share(whole.density[t] if whole else one.density) for t in masks.tasks]
    if masks.pairs:
        texts.append(share(whole.shared) if whole else "-")
        texts += [f"{whole.overlap[pair]:.3f}" if whole else "-" for pair in masks.pairs]
    if scored:
        texts += [number(one.scores.get(task)) for task in masks.tasks]
    everyone = len(one.chosen) == len(masks.tasks)
    texts.append("yes" if everyone else ", ".join(one.chosen))
    return texts


def _layers_caption(masks: Masks) -> str:
    if not masks.pairs:
        return "Dead units carry nothing of the task."
    words = (
        "Overlap is the Jaccard similarity: what both keep over what either keeps. By chance is "
        "what independent masks of the same densities would have. Dead units carry nothing of the "
        "task."
    )
    if masks.own_weights:
        words += " Each task has weights of its own here: a shared place is no shared weight."
    return words


def _rounds_caption(masks: Masks, *, scored: bool) -> str:
    words = []
    if scored:
        words.append("AUC, on validation, speaks for the task's mask; a dash: it was not measured.")
    if not any(one.chosen for one in masks.rounds):
        words.append("No round's density alone tells which one was taken.")
    return " ".join(words)
