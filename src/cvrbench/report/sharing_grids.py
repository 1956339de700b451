"""Gates and gradients as tables: what each gate mixes, and whether the tasks' gradients agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from cvrbench.report.grids import Cell, Grid
from cvrbench.report.mask_grids import share

Gates = Sequence[Mapping[str, Any]]
"""As records keep them: `level`, `gate`, `experts`, `load` and `entropy` of each."""
Cosines = Mapping[str, Mapping[str, float]]
"""Layer -> `ctr-cvr` -> cosine."""


CAPTION = (
    "Mean weight that a gate gives an expert; a dash: it does not read it. Entropy is the mean "
    "over rows of each row's own mixture: 1 is an even mixture, 0 one expert only."
)


def gate_grids(gates: Gates) -> list[Grid]:
    """Give a table per level: an expert a row, a gate a column, the gates' entropies last."""
    levels = sorted({gate.get("level", 0) for gate in gates})
    return [
        _level_grid(
            [gate for gate in gates if gate.get("level", 0) == level],
            title=f"gates of level {level}" if len(levels) > 1 else "gates",
            caption=CAPTION if level == levels[-1] else "",
        )
        for level in levels
    ]


def _level_grid(gates: Gates, *, title: str, caption: str) -> Grid:
    experts = list(dict.fromkeys(name for gate in gates for name in gate["experts"]))
    loads = [dict(zip(gate["experts"], gate["load"], strict=True)) for gate in gates]
    rows = [
        (Cell(name), *(Cell(share(load[name]) if name in load else "-") for load in loads))
        for name in experts
    ]
    return Grid(
        title=title,
        headers=("expert", *(str(gate["gate"]) for gate in gates)),
        rows=tuple(rows),
        last=(Cell("entropy"), *(Cell(f"{gate['entropy']:.3f}") for gate in gates)),
        caption=caption,
    )


def cosine_grid(cosines: Cosines, own: Cosines) -> Grid:
    """Give a row per layer that tasks share, a column per pair of tasks and one per task.

    Args:
        cosines: Between the tasks.
        own: Layer -> task -> cosine of its gradient with that on other rows.
    """
    pairs = list(dict.fromkeys(pair for layer in cosines.values() for pair in layer))
    tasks = list(dict.fromkeys(task for layer in own.values() for task in layer))
    return Grid(
        title="cosine of the tasks' gradients",
        headers=("layer", *pairs, *(f"{task} itself" for task in tasks)),
        rows=tuple(
            (
                Cell(layer),
                *(_cosine(found, pair) for pair in pairs),
                *(_cosine(own.get(layer, {}), task) for task in tasks),
            )
            for layer, found in cosines.items()
        ),
        caption=(
            "Below 0 the tasks pull the layer's weights apart, above 0 the same way. Itself: a "
            "task's gradient and that on other rows; near 0 it is noise, and so is what it says "
            "of another task."
        ),
    )


def _cosine(found: Mapping[str, float], key: str) -> Cell:
    return Cell(f"{found[key]:+.3f}" if key in found else "-")


def gates_summary(gates: Gates) -> str:
    """Say in one line how evenly the gates mix."""
    several = len({gate.get("level", 0) for gate in gates}) > 1
    texts = []
    for gate in gates:
        level = f" level {gate.get('level', 0)}" if several else ""
        texts.append(f"{gate['gate']}{level} {gate['entropy']:.2f}")
    return f"entropy {', '.join(texts)} (1: an even mixture, 0: one expert)"


def cosine_summary(cosines: Cosines) -> str:
    """Say in one line how far the tasks' gradients agree."""
    values = [value for layer in cosines.values() for value in layer.values()]
    return f"{min(values):+.2f} to {max(values):+.2f} over {len(cosines)} layers"
