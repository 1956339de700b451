"""What the tasks of a masked network share, read from run records and mask files.

A run of a model with masks keeps, per layer and over all layers, how many connections each task
keeps and how many of them are common (`MaskSet.facts`); and the same of every candidate that its
search visited. Shares are of the layer's connections.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cvrbench.config.ncs import short_forms
from cvrbench.config.validate import config_from_saved
from cvrbench.data.dataset import read_manifest
from cvrbench.data.registry import prepared_folder
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError, DataError, StoreError
from cvrbench.report.comparison import Comparison, Variant
from cvrbench.report.tables import Cell, Grid, cells, number, share
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import checked
from cvrbench.stats.difference import Estimate, t_interval
from cvrbench.system.files import check_regular

ALL = "all"
"""The entry that stands for every shareable layer together."""
SAME = 1e-9
"""Densities nearer than this are those of the same mask."""
Keep = Mapping[str, npt.NDArray[np.bool_]]
"""Layer -> `[tasks, in, out]`, which connections each task keeps."""
PREFIX = "keep."


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Which share of one layer's connections is kept, and by whom."""

    name: str
    connections: int
    density: dict[str, float]
    """Task -> share that it keeps."""
    private: dict[str, float]
    """Task -> share that it alone keeps."""
    shared: float
    """Share that two tasks or more keep."""
    union: float
    unused: float
    overlap: dict[tuple[str, str], float]
    """Pair of tasks -> Jaccard similarity: the common part over what either keeps."""
    chance: dict[tuple[str, str], float]
    """The Jaccard similarity to expect of masks of these densities drawn independently."""
    dead: dict[str, int]
    """Task -> units that carry nothing of it; empty where the layer's units were not counted."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One candidate of the search."""

    density: float
    scores: dict[str, float]
    """Task -> validation AUC that speaks for its mask, where one was measured."""
    layers: tuple[Layer, ...]
    chosen: tuple[str, ...]
    """Tasks that have this mask in the end."""

    def layer(self, name: str) -> Layer | None:
        """Return the layer of a name, if the search recorded it."""
        return next((layer for layer in self.layers if layer.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of one finished run and the way to them."""

    tasks: tuple[str, ...]
    layers: tuple[Layer, ...]
    """The layers in their order, and all together last."""
    rounds: tuple[Round, ...]
    own_weights: bool
    """Whether each task has weights of its own, so that common places share nothing."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two tasks, in their order."""
        return list(combinations(self.tasks, 2))

    @property
    def whole(self) -> Layer:
        """All layers together."""
        return self.layers[-1]


def read_masks(record: RunRecord) -> Masks | None:
    """Read the masks of a record; None where its model has none.

    Raises:
        StoreError: The record has them in another form.
    """
    found = record.diagnostics
    if not found.get("layers"):
        return None
    tasks = tuple(task["name"] for task in record.tasks)
    try:
        layers = _layers(found["layers"], found.get("dead_units", {}), tasks)
        rounds = _rounds(record, layers, tasks)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise StoreError(
            f"{record.run_id}: its record tells of masks in another form ({error!r}); run the cell "
            "again with --force"
        ) from None
    own_weights = len(tasks) > 1 and bool(found.get("own_weights"))
    return Masks(tasks=tasks, layers=layers, rounds=rounds, own_weights=own_weights)


def round_facts(record: RunRecord) -> list[dict[str, Any]]:
    """Return the plain facts of every candidate of a known density."""
    return [facts for facts in record.diagnostics.get("rounds", []) if "density" in facts]


def summary(masks: Masks) -> str:
    """Return in one line what a run's tasks share."""
    whole = masks.whole
    kept = ", ".join(f"{task} {share(value)}" for task, value in whole.density.items())
    parts = [f"kept by {kept}"]
    parts += [
        f"overlap {name_of(pair)} {value:.2f} (chance {whole.chance[pair]:.2f})"
        for pair, value in whole.overlap.items()
    ]
    dead = ", ".join(f"{task} {n}" for task, n in whole.dead.items() if n)
    parts.append(f"dead units: {dead or 'none'}")
    return "; ".join(parts)


def name_of(pair: tuple[str, str]) -> str:
    """`ctr-cvr`."""
    return "-".join(pair)


def masked_variants(comparison: Comparison) -> list[tuple[Variant, list[Masks]]]:
    """Return the variants of a comparison that have masks, with those of every seed."""
    found = [(v, [m for run in v.runs if (m := read_masks(run))]) for v in comparison.variants]
    return [(variant, masks) for variant, masks in found if masks]


def overlap_by_round(
    seeds: Sequence[Masks], pair: tuple[str, str], layer: str = ALL
) -> list[Estimate]:
    """Return a pair's overlap after each round that all seeds have, over the seeds."""
    estimates = []
    for rounds in zip(*(masks.rounds for masks in seeds), strict=False):
        found = [r.layer(layer) for r in rounds]
        values = [one.overlap[pair] for one in found if one is not None and pair in one.overlap]
        if len(values) < len(seeds):
            break
        estimates.append(t_interval(values))
    return estimates


def _rounds(
    record: RunRecord, final: tuple[Layer, ...], tasks: tuple[str, ...]
) -> tuple[Round, ...]:
    facts = round_facts(record)
    layers = [_layers(r.get("layers", {}), r.get("dead_units", {}), tasks) for r in facts]
    keys = short_forms(record.config.get("model", {}))
    last = bool(keys) and keys.get("model.choice", "last") == "last"
    chosen = {task: _chosen(task, final, layers, last=last) for task in tasks}
    return tuple(
        Round(
            density=one["density"],
            scores={task: score for task, score in one.get("scores", {}).items() if task in tasks},
            layers=layers[number],
            chosen=tuple(task for task in tasks if chosen[task] == number),
        )
        for number, one in enumerate(facts)
    )


def _chosen(
    task: str, final: tuple[Layer, ...], rounds: Sequence[tuple[Layer, ...]], *, last: bool
) -> int | None:
    """Number of the round whose mask the task has: the one that keeps as much in every layer."""
    wanted = {layer.name: layer.density[task] for layer in final}

    def fits(layers: tuple[Layer, ...]) -> bool:
        found = {layer.name: layer.density[task] for layer in layers}
        return found.keys() == wanted.keys() and all(
            abs(found[name] - density) < SAME for name, density in wanted.items()
        )

    fitting = [number for number, layers in enumerate(rounds) if fits(layers)]
    if len(fitting) > 1 and not last:
        return None  # several candidates keep as much, and the record does not tell which it was
    return fitting[-1] if fitting else None


def _layers(
    facts: Mapping[str, Mapping[str, Any]],
    dead_units: Mapping[str, Sequence[int]],
    tasks: tuple[str, ...],
) -> tuple[Layer, ...]:
    """Turn the plain facts of all layers into `Layer`s, all together last."""
    pairs = list(combinations(range(len(tasks)), 2))
    parts = [name for name in facts if name != ALL]
    # No unit of a trunk without masks was counted.
    dead = {ALL: {task: sum(units) for task, units in dead_units.items() if units}}
    for place, name in enumerate(filter(is_matrix, facts)):
        dead[name] = {task: units[place] for task, units in dead_units.items()}
    return tuple(
        Layer(
            name=name,
            connections=of["connections"],
            density={task: of["density"][task] for task in tasks},
            private={task: of["private"][task] for task in tasks},
            shared=of["shared"],
            union=of["union"],
            unused=of["unused"],
            overlap={(tasks[a], tasks[b]): of["jaccard"][a][b] for a, b in pairs},
            chance={
                (tasks[a], tasks[b]): _chance(
                    [facts[part] for part in (parts if name == ALL else [name])], tasks[a], tasks[b]
                )
                for a, b in pairs
            },
            dead=dead.get(name, {}),
        )
        for name, of in sorted(facts.items(), key=lambda fact: fact[0] == ALL)
    )


def is_matrix(layer: str) -> bool:
    """Whether a layer is a weight matrix of the trunk, whose columns are its units."""
    return layer.startswith("trunk_") and not layer.endswith("_bias")


def _chance(parts: Sequence[Mapping[str, Any]], one: str, other: str) -> float:
    """Overlap to expect where both keep as much of each part as they do, but anything of it."""
    common = either = 0.0
    for facts in parts:
        a, b = facts["density"][one], facts["density"][other]
        common += facts["connections"] * a * b
        either += facts["connections"] * (a + b - a * b)
    return common / either if either else 1.0


class FieldRows(NamedTuple):
    """The rows of the first layer's matrix that read one input field."""

    name: str
    start: int
    stop: int


def read_keep(folder: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """Read the masks of a run's trunk, layer by layer; none where only other parts have some.

    Raises:
        StoreError: The file is missing or damaged.
    """
    file = checked(folder, "masks.safetensors")
    try:
        found = load_file(check_regular(file))
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{file} cannot be read ({str(error).splitlines()[0]}); run the cell again with --force"
        ) from None
    named = {key.removeprefix(PREFIX): keep for key, keep in found.items()}
    numbers = sorted(int(name.removeprefix("trunk_")) for name in named if is_matrix(name))
    return {f"trunk_{number}": named[f"trunk_{number}"] for number in numbers}


def field_rows(record: RunRecord, n_inputs: int) -> list[FieldRows] | None:
    """Return which rows of the first layer read which field; None where the dataset is gone.

    The network's input is every field's embedding, one beside the other, then the numbers.
    """
    schema = _schema(record)
    if schema is None:
        return None
    width: Any = record.config["model"].get("embedding_dim")
    names = [(field.name, int(width)) for field in schema.id_fields]
    names += [(field.name, int(width)) for field in schema.vectors]
    names += [(field.name, 1) for field in schema.numeric]
    found, start = [], 0
    for name, n_rows in names:
        found.append(FieldRows(name, start, start + n_rows))
        start += n_rows
    return found if start == n_inputs else None


def kept_of_fields(
    keep: npt.NDArray[np.bool_], fields: Sequence[FieldRows]
) -> npt.NDArray[np.float64]:
    """Share of each field's connections that each task keeps: `[tasks, in, out]` -> `[tasks, n]`.

    >>> keep = np.array([[[True, True], [True, False], [False, False]]])
    >>> kept_of_fields(keep, [FieldRows("user", 0, 2), FieldRows("age", 2, 3)]).tolist()
    [[0.75, 0.0]]
    """
    return np.stack([keep[:, f.start : f.stop].mean(axis=(1, 2)) for f in fields], axis=1)


def _schema(record: RunRecord) -> Schema | None:
    """The schema of the prepared data that the run was trained on, if they are still there."""
    try:
        config = config_from_saved(record.config)
        folder = prepared_folder(config.dataset, record.dataset, Path(config.data_dir))
        schema = Schema.from_json(read_manifest(folder)["schema"])
    except (ConfigError, DataError, KeyError):
        return None
    return schema if schema.fingerprint == record.fingerprint else None


def layers_grid(masks: Masks, title: str) -> Grid:
    """Return a column per layer and one for all."""
    return Grid(
        title=title,
        headers=("share of connections", *(layer.name for layer in masks.layers)),
        rows=tuple(_fact_rows(masks)),
        caption=_layers_caption(masks),
    )


def rounds_grid(masks: Masks) -> Grid:
    """Return a row per candidate of the search: density, overlap and validation score."""
    scored = any(one.scores for one in masks.rounds)
    headers = ["round", *(f"kept by\n{task}" for task in masks.tasks)]
    if masks.pairs:
        alone = len(masks.pairs) == 1
        overlaps = ("overlap" if alone else f"overlap\n{a},\n{b}" for a, b in masks.pairs)
        headers += ["shared", *overlaps]
    if scored:
        headers += [f"score\n{task}" for task in masks.tasks]
    headers.append("chosen")
    return Grid(
        title="rounds of the search, over all layers",
        headers=tuple(headers),
        rows=tuple(
            cells(*_round_row(place, one, masks, scored=scored))
            for place, one in enumerate(masks.rounds, 1)
        ),
        caption=_rounds_caption(masks, scored=scored),
    )


def _fact_rows(masks: Masks) -> Iterator[tuple[Cell, ...]]:
    tasks, layers = masks.tasks, masks.layers
    yield cells("connections", *(f"{one.connections:,}" for one in layers))
    for t in tasks:
        yield cells(f"kept by {t}", *(share(one.density[t]) for one in layers))
    if masks.pairs:
        words = "by both" if len(tasks) == 2 else "by 2 or more"
        yield cells(f"shared: {words}", *(share(one.shared) for one in layers))
        for t in tasks:
            yield cells(f"only {t}", *(share(one.private[t]) for one in layers))
        yield cells("union", *(share(one.union) for one in layers))
    yield cells("unused", *(share(one.unused) for one in layers))
    for pair in masks.pairs:
        of = "" if len(masks.pairs) == 1 else f" {', '.join(pair)}"
        yield cells(f"overlap{of}", *(f"{one.overlap[pair]:.3f}" for one in layers))
        yield cells("  by chance", *(f"{one.chance[pair]:.3f}" for one in layers))
    for t in tasks:
        units = (f"{one.dead[t]:,}" if t in one.dead else "-" for one in layers)
        yield cells(f"dead units, {t}", *units)


def _round_row(place: int, one: Round, masks: Masks, *, scored: bool) -> list[str]:
    whole = one.layers[-1] if one.layers else None
    texts = [str(place)]
    # A search without masks of its own still has the density that it aimed at.
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
        words.append(
            "Score: AUC on validation, of a ratio -RMSE; it speaks for the mask. A dash: it was "
            "not measured."
        )
    if not any(one.chosen for one in masks.rounds):
        words.append("No round's density alone tells which one was taken.")
    return " ".join(words)
