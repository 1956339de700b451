"""What was seen of a variant's runs: validation, gradients, gates, and calibration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from cvrbench.errors import StoreError
from cvrbench.metrics.evaluation import ranking_metric
from cvrbench.metrics.spaces import Space
from cvrbench.report.comparison import Comparison, Variant
from cvrbench.report.differences import predicted_spaces
from cvrbench.report.tables import Cell, Grid, cells, share
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from cvrbench.stats.influence import Floats, Labels

Validation = Mapping[str, Any]
"""One evaluation on the validation rows, as the history keeps it."""
Gates = Sequence[Mapping[str, Any]]
"""Gates as records keep them: `level`, `gate`, `experts`, `load` and `entropy` of each."""
Cosines = Mapping[str, Mapping[str, float]]
"""Layer -> `ctr-cvr` -> cosine."""
LAST_STAGE = "train"
"""The training after all searches, as a history names it."""
CAPTION = (
    "Mean weight that a gate gives an expert; a dash: it does not read it. Entropy is the mean "
    "over rows of each row's own mixture: 1 is an even mixture, 0 one expert only."
)


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


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Validation of one variant over its last training."""

    label: str
    seeds: int
    curves: Mapping[str, Curve]
    """Metric -> its curve; task's name after `WEIGHT` -> the curve of its weight."""
    best: Mapping[str, tuple[tuple[float, float], ...]]
    """Metric -> per seed the epoch that validation chose, and the value there."""


WEIGHT = "weight of "
CONFLICTS = "conflicts"
"""Names of the curves of what a balancing method did; conflicts: the share of steps."""


def learnings(comparison: Comparison, store: ResultStore) -> list[Learning]:
    """Read every task's AUC in its own space and its weight in the balancing at every evaluation.

    Searches are left out: their networks are other ones, trained for their masks.

    Raises:
        StoreError: A history cannot be read.
    """
    tasks = [task.name for task in comparison.tasks]
    ranking = (ranking_metric(name, comparison.tasks) for name in tasks)
    metrics = [*ranking, *(f"{WEIGHT}{t}" for t in tasks), CONFLICTS]
    found = (_learning(variant, metrics, store) for variant in comparison.variants)
    return [one for one in found if one.curves]


def _learning(variant: Variant, metrics: list[str], store: ResultStore) -> Learning:
    runs = [list(_evaluations(run, store)) for run in variant.runs]
    curves, best = {}, {}
    for metric in metrics:
        seeds = [
            {epoch: values[metric] for epoch, _, values in seen if metric in values}
            for seen in runs
        ]
        curve = over_seeds([seed for seed in seeds if seed])
        if curve is None:
            continue
        curves[metric] = curve
        best[metric] = tuple(
            (epoch, values[metric])
            for seen in runs
            for epoch, is_best, values in seen
            if is_best and metric in values
        )
    return Learning(label=variant.label, seeds=len(variant.runs), curves=curves, best=best)


def _evaluations(
    run: RunRecord, store: ResultStore
) -> Iterator[tuple[float, bool, dict[str, float]]]:
    """Yield epoch, whether validation chose this step, and the metrics that are defined."""
    history = store.history(run.run_id)
    try:
        for one in history:
            if one["stage"] == LAST_STAGE:
                values = {name: v for name, v in one["metrics"].items() if v is not None}
                balanced = one.get("sharing", {}).get("balancing", {})
                values |= {f"{WEIGHT}{t}": w for t, w in balanced.get("weights", {}).items()}
                values |= {CONFLICTS: balanced[CONFLICTS]} if CONFLICTS in balanced else {}
                yield one["epoch"], one["step"] == run.best_step, values
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{run.run_id}: its history has another form ({error!r}); run the cell again with "
            "--force"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether two tasks' gradients agree in one variant."""

    label: str
    pair: str
    """`ctr-cvr`."""
    seeds: int
    layers: Mapping[str, Curve]
    """Layer of weights -> cosine. Biases are left out: they follow their layer's weights."""
    noise: Curve | None
    """Mean over these layers of the less certain task's cosine with itself on other rows."""


def agreements(comparison: Comparison, store: ResultStore) -> list[Agreement]:
    """Read how far tasks agreed, variant by variant; older histories do not contain it.

    Raises:
        StoreError: A history cannot be read.
    """
    tasks = [task.name for task in comparison.tasks]
    return [one for variant in comparison.variants for one in _agreements(variant, tasks, store)]


def read_observed(run_id: str, store: ResultStore) -> list[Validation]:
    """Read the evaluations at which sharing was observed.

    Raises:
        StoreError: The history cannot be read.
    """
    return [one for one in store.history(run_id) if "sharing" in one]


def _agreements(variant: Variant, tasks: Sequence[str], store: ResultStore) -> Iterator[Agreement]:
    seeds = [seen for run in variant.runs if (seen := read_observed(run.run_id, store))]
    cosines = [one["sharing"]["gradient_cosine"] for seen in seeds for one in seen]
    layers = dict.fromkeys(layer for at in cosines for layer in at if not layer.endswith("_bias"))
    for tasks_of_pair in combinations(tasks, 2):
        pair = "-".join(tasks_of_pair)
        by_layer = {
            layer: over_seeds([_cosines(seen, layer, pair) for seen in seeds]) for layer in layers
        }
        curves = {layer: curve for layer, curve in by_layer.items() if curve is not None}
        if curves:
            yield Agreement(
                label=variant.label,
                pair=pair,
                seeds=len(seeds),
                layers=curves,
                noise=over_seeds([_noise(seen, [*curves], tasks_of_pair) for seen in seeds]),
            )


def _cosines(seen: Sequence[Validation], layer: str, pair: str) -> dict[float, float]:
    """Epoch -> cosine, where the layer has one."""
    found = {one["epoch"]: one["sharing"]["gradient_cosine"].get(layer, {}) for one in seen}
    return {epoch: cosines[pair] for epoch, cosines in found.items() if pair in cosines}


def _noise(
    seen: Sequence[Validation], layers: Sequence[str], pair: tuple[str, str]
) -> dict[float, float]:
    """Epoch -> mean over the layers of the smaller of two tasks' cosines with themselves."""
    found = {}
    for one in seen:
        own = [one["sharing"]["self_cosine"].get(layer, {}) for layer in layers]
        smaller = [min(of[task] for task in pair) for of in own if of.keys() >= set(pair)]
        if smaller:
            found[one["epoch"]] = sum(smaller) / len(smaller)
    return found


@dataclass(frozen=True, kw_only=True)
class Gating:
    """What the gates of one variant's final weights do."""

    label: str
    gates: tuple[Mapping[str, Any], ...]
    """Gates of the first seed: experts of two seeds have nothing in common but their names, so
    that loads have no mean."""
    entropies: tuple[tuple[float, ...], ...]
    """Per gate the entropy of each seed."""


def gatings(comparison: Comparison) -> list[Gating]:
    """Return what gates do in every variant that has some."""
    found = []
    for variant in comparison.variants:
        by_seed = [gates for run in variant.runs if (gates := run.diagnostics.get("gates"))]
        if by_seed:
            entropies = ([gate["entropy"] for gate in gates] for gates in by_seed)
            found.append(
                Gating(
                    label=variant.label,
                    gates=tuple(by_seed[0]),
                    entropies=tuple(zip(*entropies, strict=True)),
                )
            )
    return found


def gate_grids(gates: Gates) -> list[Grid]:
    """Return a table per level: an expert a row, a gate a column, the gates' entropies last."""
    by_level: dict[int, list[Mapping[str, Any]]] = {}
    for gate in gates:
        by_level.setdefault(gate.get("level", 0), []).append(gate)
    return [
        _level_grid(
            by_level[level],
            title=f"gates of level {level}" if len(by_level) > 1 else "gates",
            caption=CAPTION if level == max(by_level) else "",
        )
        for level in sorted(by_level)
    ]


def _level_grid(gates: Gates, *, title: str, caption: str) -> Grid:
    experts = dict.fromkeys(name for gate in gates for name in gate["experts"])
    loads = [dict(zip(gate["experts"], gate["load"], strict=True)) for gate in gates]
    return Grid(
        title=title,
        headers=("expert", *(str(gate["gate"]) for gate in gates)),
        rows=tuple(
            cells(name, *(share(load[name]) if name in load else "-" for load in loads))
            for name in experts
        ),
        last=cells("entropy", *(f"{gate['entropy']:.3f}" for gate in gates)),
        caption=caption,
    )


def cosine_grid(cosines: Cosines, own: Cosines) -> Grid:
    """Return a row per layer that tasks share, a column per pair of tasks and one per task.

    Args:
        cosines: Cosines between the tasks.
        own: Layer -> task -> cosine of its gradient with that on other rows.
    """
    pairs = dict.fromkeys(pair for layer in cosines.values() for pair in layer)
    tasks = dict.fromkeys(task for layer in own.values() for task in layer)

    def cosine(found: Mapping[str, float], key: str) -> Cell:
        return Cell(f"{found[key]:+.3f}" if key in found else "-")

    return Grid(
        title="cosine of the tasks' gradients",
        headers=("layer", *pairs, *(f"{task} itself" for task in tasks)),
        rows=tuple(
            (
                Cell(layer),
                *(cosine(found, pair) for pair in pairs),
                *(cosine(own.get(layer, {}), task) for task in tasks),
            )
            for layer, found in cosines.items()
        ),
        caption=(
            "Below 0 the tasks pull the layer's weights apart, above 0 the same way. Itself: a "
            "task's gradient and that on other rows; near 0 it is noise, and so is what it says "
            "of another task."
        ),
    )


def gates_summary(gates: Gates) -> str:
    """Return in one line how evenly the gates mix."""
    several = len({gate.get("level", 0) for gate in gates}) > 1
    texts = []
    for gate in gates:
        level = f" level {gate.get('level', 0)}" if several else ""
        texts.append(f"{gate['gate']}{level} {gate['entropy']:.2f}")
    return f"entropy {', '.join(texts)} (1: an even mixture, 0: one expert)"


def cosine_summary(cosines: Cosines) -> str:
    """Return in one line how far the tasks' gradients agree."""
    values = [value for layer in cosines.values() for value in layer.values()]
    return f"{min(values):+.2f} to {max(values):+.2f} over {len(cosines)} layers"


BINS = 10
FEWEST = 10
"""Positives that a bin should have in the mean: with fewer, its rate is chance."""
RARE = 0.1
"""Rates below this are read on logarithmic axes."""
CELLS = 40
"""Cells of a histogram."""
LOWEST = 1e-6
"""Where a logarithmic histogram begins; what is predicted below it counts in its first cell."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """One variant's predictions in one space."""

    predicted: Floats
    """`[bins]`: mean prediction of each bin, over the seeds."""
    observed: Floats
    """`[bins]`: share of positives, over the seeds."""
    low: Floats
    high: Floats
    """`[bins]`: least and greatest share among the seeds."""
    mass: Floats
    """`[CELLS]`: share of the predictions in every cell of `Calibration.edges`."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All variants in one space."""

    metric: str
    """`cvr_auc`: its header names the space."""
    rate: float
    """Share of positives."""
    edges: Floats
    """`[CELLS + 1]`: edges of the histograms."""
    variants: Mapping[str, Reliability]

    @property
    def is_rare(self) -> bool:
        """Whether it is read on logarithmic axes."""
        return self.rate < RARE


class CalibrationReader:
    """Compares predicted rates with observed ones, of runs that are read for other tables, too.

    The rows of a space are ordered by their prediction and cut into bins of equal size; in each,
    the mean prediction is held against the share of positives (DeGroot and Fienberg, The
    Statistician 1983; bins of equal mass as in Naeini, Cooper and Hauskrecht, AAAI 2015).
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        ratios = [task.name for task in comparison.tasks if task.is_ratio]  # above 0 in all rows
        self.rates = {
            name: count["positives"] / count["rows"]
            for name, count in comparison.counts.items()
            if 0 < count["positives"] < count["rows"] + (name in ratios)
        }
        self.edges = {name: _edges(rate) for name, rate in self.rates.items()}
        self.runs: dict[str, dict[str, _Binned]] = {}

    def add(self, run_id: str, spaces: Sequence[Space]) -> None:
        """Keep the bins of a run, which are all that is needed of its predictions."""
        self.runs[run_id] = {
            space.name: self._binned(space) for space in spaces if space.name in self.rates
        }

    def _binned(self, space: Space) -> "_Binned":
        labels, predicted = space.take(space.label), space.take(space.predicted)
        order = np.argsort(predicted, kind="stable")
        predicted = predicted[order].astype(np.float64)
        bins = bins_of(self.comparison.counts[space.name]["positives"])
        means = reliability(labels[order], predicted, bins)
        return _Binned(*means, _mass(predicted, self.edges[space.name]))

    def finish(self, store: ResultStore) -> list[Calibration]:
        """Read the runs that nobody read, and return a `Calibration` per space with positives.

        Raises:
            StoreError: Predictions are missing or damaged.
        """
        for run in (run for variant in self.comparison.variants for run in variant.runs):
            if run.run_id not in self.runs:
                frame = store.predictions(run.run_id)
                self.add(run.run_id, predicted_spaces(run.run_id, self.comparison.tasks, frame))
        return [
            Calibration(
                metric=ranking_metric(name, self.comparison.tasks),
                rate=rate,
                edges=self.edges[name],
                variants={
                    v.label: _over_seeds([self.runs[run.run_id][name] for run in v.runs])
                    for v in self.comparison.variants
                },
            )
            for name, rate in self.rates.items()
        ]


def bins_of(positives: int) -> int:
    """Return the number of bins: `BINS`, or fewer where positives are few.

    >>> bins_of(10_000), bins_of(45), bins_of(3)
    (10, 4, 1)
    """
    return max(1, min(BINS, positives // FEWEST))


def reliability(labels: Labels, predicted: Floats, bins: int) -> tuple[Floats, Floats]:
    """Return mean prediction and mean label of bins of equal size, the lowest first.

    Args:
        labels: `[rows]`, from 0 to 1, in the order of the predictions.
        predicted: `[rows]`, ascending.
        bins: At most as many as rows.

    Returns:
        Two arrays `[bins]`.
    """
    ends = np.arange(1, bins + 1) * len(labels) // bins
    starts = np.append(0, ends[:-1])
    sizes = ends - starts
    return (
        np.add.reduceat(predicted, starts) / sizes,
        np.add.reduceat(labels, starts, dtype=np.float64) / sizes,
    )


class _Binned(NamedTuple):
    """One run's predictions in one space, as in `Reliability`."""

    predicted: Floats
    observed: Floats
    mass: Floats


def _over_seeds(seeds: Sequence[_Binned]) -> Reliability:
    predicted, observed, mass = (np.array(values) for values in zip(*seeds, strict=True))
    return Reliability(
        predicted=predicted.mean(axis=0),
        observed=observed.mean(axis=0),
        low=observed.min(axis=0),
        high=observed.max(axis=0),
        mass=mass.mean(axis=0),
    )


def _mass(predicted: Floats, edges: Floats) -> Floats:
    """Return the share of ascending predictions in every cell; those beyond count at the ends."""
    inner = np.searchsorted(predicted, edges[1:-1])
    return np.diff(np.concatenate([[0], inner, [len(predicted)]])) / len(predicted)


def _edges(rate: float) -> Floats:
    if rate < RARE:
        return np.geomspace(LOWEST, 1, CELLS + 1)
    return np.linspace(0, 1, CELLS + 1)
