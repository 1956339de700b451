"""What was seen of sharing while the runs of a variant trained, brought together over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

from cvrbench.report.curves import Curve, over_seeds
from cvrbench.report.frames import Comparison, Variant
from cvrbench.store import ResultStore

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
