"""What was seen while the runs of a variant trained: validation, gradients and gates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

from cvrbench.errors import StoreError
from cvrbench.record import RunRecord
from cvrbench.report.comparison import Comparison, Variant
from cvrbench.report.masks import share
from cvrbench.report.tables import Cell, Grid
from cvrbench.store import ResultStore


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A number over training: mean, least and greatest over the seeds at every common epoch."""

    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def over_seeds(seeds: Sequence[Mapping[float, float]]) -> Curve | None:
    """Bring seeds together at the epochs that all of them reached; None where there is none.

    Past the end of the first seed to stop, the mean would be that of the lucky others.

    Args:
        seeds: Epoch -> value, of each.
    """
    common = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not common:
        return None
    values = [[seed[epoch] for seed in seeds] for epoch in common]
    return Curve(
        epochs=tuple(common),
        mean=tuple(sum(at) / len(at) for at in values),
        low=tuple(map(min, values)),
        high=tuple(map(max, values)),
    )


LAST_STAGE = "train"
"""What a history calls the training after all searches."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Validation of one variant over its last training."""

    label: str
    """The variant's."""
    seeds: int
    curves: Mapping[str, Curve]
    """Metric -> its curve."""
    best: Mapping[str, tuple[tuple[float, float], ...]]
    """Metric -> per seed the epoch that validation chose, and the value there."""


def learnings(comparison: Comparison, store: ResultStore) -> list[Learning]:
    """Read the AUC of every task in its own space at every look at validation.

    Searches are left out: their networks are other ones, trained for their masks.

    Raises:
        StoreError: A history cannot be read.
    """
    metrics = [f"{task.name}_auc" for task in comparison.tasks]
    found = (_learning(variant, metrics, store) for variant in comparison.variants)
    return [one for one in found if one.curves]


def _learning(variant: Variant, metrics: list[str], store: ResultStore) -> Learning:
    looks = {run.run_id: list(_validations(run, store)) for run in variant.runs}
    curves, best = {}, {}
    for metric in metrics:
        of_seeds = {
            name: {epoch: values[metric] for epoch, _, values in seen if metric in values}
            for name, seen in looks.items()
        }
        curve = over_seeds([seed for seed in of_seeds.values() if seed])
        if curve is None:
            continue
        curves[metric] = curve
        best[metric] = tuple(
            (epoch, values[metric])
            for seen in looks.values()
            for epoch, is_best, values in seen
            if is_best and metric in values
        )
    return Learning(label=variant.label, seeds=len(variant.runs), curves=curves, best=best)


def _validations(
    run: RunRecord, store: ResultStore
) -> Iterator[tuple[float, bool, dict[str, float]]]:
    """Give epoch, whether validation chose this step, and the metrics that are defined."""
    history = store.history(run.run_id)
    try:
        for look in history:
            if look["stage"] == LAST_STAGE:
                values = {name: v for name, v in look["metrics"].items() if v is not None}
                yield look["epoch"], look["step"] == run.best_step, values
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{run.run_id}: its history has another form ({error!r}); run the cell again with "
            "--force"
        ) from None


Look = Mapping[str, Any]
"""One look at validation, as the history keeps it."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether two tasks' gradients agree in one variant."""

    label: str
    """The variant's."""
    pair: str
    """`ctr-cvr`."""
    seeds: int
    layers: Mapping[str, Curve]
    """Layer of weights -> cosine. Biases are left out: they follow their layer's weights."""
    noise: Curve | None
    """Mean over these layers of the less certain task's cosine with itself on other rows."""


@dataclass(frozen=True, kw_only=True)
class Gating:
    """What the gates of one variant's final weights do."""

    label: str
    gates: tuple[Mapping[str, Any], ...]
    """Of the first seed. Seeds have no expert in common but by name, so loads have no mean."""
    entropies: tuple[tuple[float, ...], ...]
    """Per gate each seed's."""


def agreements(comparison: Comparison, store: ResultStore) -> list[Agreement]:
    """Read how far tasks agreed, variant by variant; none of runs whose history does not tell."""
    tasks = [task.name for task in comparison.tasks]
    of_variants = (_agreements(variant, tasks, store) for variant in comparison.variants)
    return [*chain.from_iterable(of_variants)]


def gatings(comparison: Comparison) -> list[Gating]:
    """Give what gates do in every variant that has some."""
    found = []
    for variant in comparison.variants:
        by_seed = [gates for run in variant.runs if (gates := run.diagnostics.get("gates"))]
        if by_seed:
            entropies = zip(
                *([gate["entropy"] for gate in gates] for gates in by_seed), strict=True
            )
            found.append(
                Gating(
                    label=variant.label,
                    gates=tuple(by_seed[0]),
                    entropies=tuple(entropies),
                )
            )
    return found


def read_looks(run_id: str, store: ResultStore) -> list[Look]:
    """Read the looks at validation at which sharing was observed; none of an older run.

    Raises:
        StoreError: The history cannot be read.
    """
    return [look for look in store.history(run_id) if "sharing" in look]


def _agreements(variant: Variant, tasks: Sequence[str], store: ResultStore) -> Iterator[Agreement]:
    seeds = [looks for run in variant.runs if (looks := read_looks(run.run_id, store))]
    told = [look["sharing"]["gradient_cosine"] for looks in seeds for look in looks]
    layers = dict.fromkeys(layer for at in told for layer in at if not layer.endswith("_bias"))
    for pair in combinations(tasks, 2):
        by_layer = {
            layer: over_seeds([_cosines(looks, layer, "-".join(pair)) for looks in seeds])
            for layer in layers
        }
        curves = {layer: curve for layer, curve in by_layer.items() if curve is not None}
        if curves:
            yield Agreement(
                label=variant.label,
                pair="-".join(pair),
                seeds=len(seeds),
                layers=curves,
                noise=over_seeds([_noise(looks, [*curves], pair) for looks in seeds]),
            )


def _cosines(looks: Sequence[Look], layer: str, pair: str) -> dict[float, float]:
    """Epoch -> cosine, where the layer has one."""
    found = {look["epoch"]: look["sharing"]["gradient_cosine"].get(layer, {}) for look in looks}
    return {epoch: cosines[pair] for epoch, cosines in found.items() if pair in cosines}


def _noise(
    looks: Sequence[Look], layers: Sequence[str], pair: tuple[str, str]
) -> dict[float, float]:
    """Epoch -> mean over the layers of the smaller of two tasks' cosines with themselves."""
    found = {}
    for look in looks:
        own = [look["sharing"]["self_cosine"].get(layer, {}) for layer in layers]
        smaller = [min(of[task] for task in pair) for of in own if of.keys() >= set(pair)]
        if smaller:
            found[look["epoch"]] = sum(smaller) / len(smaller)
    return found


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
