"""Which metric is computed on which rows: every task in the space where it is defined.

A metric's name says its space. `ctr_auc` and `ctcvr_auc` are taken over all exposures, `cvr_auc`
over the rows whose parent labels are all 1 (clicked exposures). `cvr_auc_exposed` scores the
conditional probability over all exposures against the label: it rewards a CVR that merely knows
the CTR, and is kept, marked biased, because others publish it. Planted data know what nobody else
does: `cvr_auc_unclicked`, `cvr_pcoc_unclicked` and `cvr_regret_unclicked` judge the conditional
probability by the true one where a parent's label is not 1.

A task whose label is a ratio has RMSE and MAE in the place of log loss, XAUC and GXAUC in that of
AUC and GAUC (`metrics.ratios`); its joint prediction is judged by the product of the labels.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial, reduce
from math import exp
from operator import mul
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench import metrics
from cvrbench.data.schema import Schema, Task, chain
from cvrbench.errors import ConfigError, RunError
from cvrbench.metrics import ratios
from cvrbench.metrics.spaces import Array, Indexed, Space, SpaceOf, spaces

Direction = Literal["higher", "lower", "one"]


class Kind(NamedTuple):
    """What a metric's last word means."""

    label: str
    direction: Direction
    """`one`: the nearer to 1 the better."""
    low: float
    high: float


METRICS_INFO: dict[str, Kind] = {
    "auc": Kind("AUC", "higher", 0, 1),
    "logloss": Kind("log loss", "lower", 0, float("inf")),
    "gauc": Kind("GAUC", "higher", 0, 1),
    "pcoc": Kind("PCOC", "one", 0, float("inf")),
    "ece": Kind("ECE", "lower", 0, 1),
    "auc_exposed": Kind("AUC", "higher", 0, 1),
    "best_auc": Kind("best reachable AUC", "higher", 0, 1),
    "regret": Kind("regret", "lower", float("-inf"), float("inf")),
    "auc_unclicked": Kind("AUC", "higher", 0, 1),
    "pcoc_unclicked": Kind("PCOC", "one", 0, float("inf")),
    "regret_unclicked": Kind("regret", "lower", 0, float("inf")),
    "xauc": Kind("XAUC", "higher", 0, 1),
    "gxauc": Kind("GXAUC", "higher", 0, 1),
    "rmse": Kind("RMSE", "lower", 0, 1),
    "mae": Kind("MAE", "lower", 0, 1),
    "best_xauc": Kind("best reachable XAUC", "higher", 0, 1),
    "best_rmse": Kind("best reachable RMSE", "lower", 0, 1),
}
"""Kinds of metric; a metric is called `<task or joint>_<kind>`."""

EVALUATION_KINDS = tuple(METRICS_INFO)
SELECTABLE_KINDS = ("auc", "logloss", "gauc", "pcoc", "ece")
SELECTABLE_OF_RATIOS = ("xauc", "gxauc", "rmse", "mae", "pcoc", "ece")
BOTH = ("pcoc", "ece", "regret")
"""Kinds of a probability and of a ratio."""


class MetricInfo(NamedTuple):
    """How a report names a metric and reads its values."""

    name: str
    header: str
    """`CVR AUC (clicked)`."""
    space: str
    direction: Direction
    low: float
    high: float


class Scores(NamedTuple):
    """Metrics by name; None where undefined, and then why."""

    metrics: dict[str, float | None]
    undefined: dict[str, str]


MetricsOf = Callable[[SpaceOf[Any]], Iterable[tuple[str, Callable[[], float]]]]
"""A space -> what can be computed there, by its kind."""


def score(
    schema: Schema,
    labels: Array,
    conditional: Array,
    joint: Array,
    groups: npt.NDArray[np.int64] | None = None,
    truth: Array | None = None,
    *,
    selection_bias: float = 0.0,
    kinds: Collection[str] = EVALUATION_KINDS,
    workers: int = 1,
    metrics_of: MetricsOf | None = None,
) -> Scores:
    """Compute every metric of one split, on NumPy's arrays or on what `metrics_of` takes.

    Args:
        schema: Tasks and their parents.
        labels: [rows, tasks], 0 or 1; of a ratio any number between.
        conditional: [rows, tasks], E(label | parent's label is 1).
        joint: [rows, tasks], the product along the chain of parents; for roots, `conditional`.
        groups: [rows], user codes, for GAUC.
        truth: [rows, tasks], `conditional` of planted data, where it is known.
        selection_bias: Log odds of the true probability where the parent's label is 1 over that
            where it is not.
        kinds: Which of `METRICS_INFO` to compute; while training, two are enough.
        workers: Threads over which the spaces are spread; each needs memory of its own, and none
            changes a result.
        metrics_of: What computes them, of those kinds that it knows; NumPy's metrics by default.

    Raises:
        RunError: A prediction is not a number.
    """
    _check_finite(schema, conditional, joint)
    compute = partial(_of_space, metrics_of or partial(_metrics_of, groups))
    found = spaces(schema.tasks, labels, conditional, joint, truth)
    jobs = [partial(compute, space, {kind: kind for kind in kinds}) for space in found]
    for index, task in enumerate(schema.tasks):
        if task.is_ratio:
            continue
        if task.parent is not None and "auc_exposed" in kinds:
            exposed = SpaceOf(task.name, None, labels[:, index], conditional[:, index], None)
            jobs.append(partial(compute, exposed, {"auc": "auc_exposed"}))
        if task.parent is not None and truth is not None:
            *ancestors, _ = chain(schema.tasks, index)
            unclicked = reduce(mul, [labels[:, i] for i in ancestors]) == 0
            true = truth[:, index] / (truth[:, index] + (1 - truth[:, index]) * exp(selection_bias))
            space = SpaceOf(task.name, unclicked, labels[:, index], conditional[:, index], true)
            jobs.append(
                partial(_of_space, _unclicked_metrics, space, {kind: kind for kind in kinds})
            )
    if workers > 1:  # NumPy sorts without holding the interpreter's lock
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda job: job(), jobs))
    else:
        parts = [job() for job in jobs]
    return Scores(
        {name: value for part in parts for name, value in part.metrics.items()},
        {name: why for part in parts for name, why in part.undefined.items()},
    )


def counts(
    schema: Schema, labels: npt.NDArray[Any], weights: npt.NDArray[np.float32] | None = None
) -> dict[str, dict[str, int]]:
    """Count rows and positives of every space, without labels that `weights` hide by a 0.

    A ratio is positive above 0.

    Returns:
        `{"cvr": {"rows": 900, "positives": 31}, ...}`, one entry per task and per joint name.
    """
    if weights is not None:
        found: dict[str, dict[str, int]] = {}
        for index, task in enumerate(schema.tasks):
            seen = counts(schema, labels[weights[:, index] > 0])
            found |= {n: count for n, count in seen.items() if n in (task.name, task.joint)}
        return found
    return {
        space.name: {
            "rows": len(label := space.take(space.label)),
            "positives": int(np.count_nonzero(label)),
        }
        for space in spaces(schema.tasks, labels, labels, labels)  # predictions are not looked at
    }


def describe_metric(name: str, tasks: Sequence[Task] = ()) -> MetricInfo:
    """Return what a metric is called, where it is measured and which way it is better.

    Args:
        name: Such as `cvr_auc`.
        tasks: The dataset's tasks; without them `ctr`, `cvr` and `ctcvr` are assumed.

    Raises:
        ConfigError: No metric of these tasks has this name.

    >>> describe_metric("cvr_auc").header
    'CVR AUC (clicked)'
    """
    found = _owners(tasks or _USUAL)
    for owner, parent, is_joint, is_ratio in sorted(found, key=lambda one: -len(one[0])):
        word = name.removeprefix(f"{owner}_")
        kind = METRICS_INFO.get(word)
        if kind is None or not name.startswith(f"{owner}_"):
            continue
        if tasks and word not in BOTH and is_ratio != _is_of_ratios(word):
            continue
        biased = name.endswith("_auc_exposed")
        space = _space_name(tasks or _USUAL, None if is_joint or biased else parent)
        space = f"not {space}" if name.endswith("_unclicked") else space
        space += ", biased" if biased else ""
        header = f"{owner.upper()} {kind.label} ({space})"
        return MetricInfo(name, header, space, kind.direction, kind.low, kind.high)
    valid = ", ".join(selectable(tasks or _USUAL))
    raise ConfigError(f"there is no metric {name!r} for this dataset; valid names are: {valid}")


def selectable(tasks: Sequence[Task]) -> list[str]:
    """Name every metric that validation may choose by, apart from `mean_auc`."""
    return [
        f"{owner}_{kind}"
        for owner, *_, is_ratio in _owners(tasks)
        for kind in (SELECTABLE_OF_RATIOS if is_ratio else SELECTABLE_KINDS)
    ]


def ranking_metric(owner: str, tasks: Sequence[Task]) -> str:
    """Name the metric of a task or joint that says how well it ranks: AUC, of a ratio XAUC."""
    ratios = [name for task in tasks if task.is_ratio for name in (task.name, task.joint)]
    return f"{owner}_{'xauc' if owner in ratios else 'auc'}"


def owner_of(metric: str) -> str:
    """Return the task or joint that a metric is of."""
    return metric.removesuffix(f"_{_kind_of(metric)}")


def kinds_to_watch(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return the kinds of metric that training looks at; of ratios only if there are some."""
    return ("auc", "logloss", *(("xauc", "rmse") if any(t.is_ratio for t in tasks) else ()))


def _is_of_ratios(kind: str) -> bool:
    return kind.removeprefix("best_") in SELECTABLE_OF_RATIOS


def selection_score(
    values: Mapping[str, float | None],
    tasks: Sequence[str],
    selection: str,
    undefined: Mapping[str, str] | None = None,
) -> float:
    """Turn validation metrics into the one number to maximise.

    Args:
        values: Metrics by name, as `score` gives them.
        tasks: Names of the trained tasks.
        selection: `mean_auc` (mean of each trained task's AUC, of a ratio its XAUC, in its own
            space) or a metric's name. What is better when lower counts negatively; PCOC by its
            distance from 1.
        undefined: Reasons, as `score` gives them.

    Raises:
        ConfigError: There is no such metric.
        RunError: The metric is undefined on these rows.
    """
    ranking = [f"{t}_xauc" if f"{t}_xauc" in values else f"{t}_auc" for t in tasks]
    names = ranking if selection == "mean_auc" else [selection]
    kinds = (*SELECTABLE_KINDS, *SELECTABLE_OF_RATIOS)
    own = {f"{task}_{kind}" for task in tasks for kind in kinds}  # of a task ctr_best
    usable = [name for name in values if name in own or _kind_of(name) in kinds]
    total = 0.0
    for name in names:
        if name not in usable:
            raise ConfigError(
                f"protocol.selection={selection!r} is no metric of this dataset; "
                f"valid names are: {', '.join(['mean_auc', *sorted(usable)])}"
            )
        value = values[name]
        if value is None:
            why = (undefined or {}).get(name, "it is undefined")
            raise RunError(
                f"validation cannot choose by {name}: {why}; choose another protocol.selection "
                "or a larger validation split"
            )
        total += _as_gain(value, METRICS_INFO[_kind_of(name)].direction)
    return total / len(names)


_USUAL = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
)


def _as_gain(value: float, direction: Direction) -> float:
    match direction:
        case "higher":
            return value
        case "lower":
            return -value
        case "one":
            return -abs(value - 1)


def _kind_of(name: str) -> str:
    # The longest ending wins: `ctr_best_auc` is a best AUC, not the AUC of `ctr_best`.
    endings = [kind for kind in METRICS_INFO if name.endswith(f"_{kind}")]
    return max(endings, key=len, default="")


def _owners(tasks: Sequence[Task]) -> Iterator[tuple[str, str | None, bool, bool]]:
    """Yield every task and joint: name, parent, whether it is a joint, whether a ratio."""
    for task in tasks:
        yield task.name, task.parent, False, task.is_ratio
        if task.joint is not None:
            yield task.joint, task.parent, True, task.is_ratio


def _space_name(tasks: Sequence[Task], parent: str | None) -> str:
    nested = any(task.parent is not None for task in tasks)
    if parent is None:
        return "exposures" if nested else "all rows"
    label = next((task.label for task in tasks if task.name == parent), parent)
    return "clicked" if parent == "ctr" else f"{label} = 1"


def _of_space(metrics_of: MetricsOf, space: SpaceOf[Any], named: Mapping[str, str]) -> Scores:
    """Compute the kinds that are to be named, by their names."""
    found: dict[str, float | None] = {}
    undefined: dict[str, str] = {}
    for kind, compute in metrics_of(space):
        if kind not in named:
            continue
        name = f"{space.name}_{named[kind]}"
        try:
            found[name] = compute()
        except metrics.Undefined as reason:
            found[name] = None
            undefined[name] = str(reason)
    return Scores(found, undefined)


def _metrics_of(
    groups: npt.NDArray[np.int64] | None, space: Space
) -> Iterator[tuple[str, Callable[[], float]]]:
    if space.is_ratio:
        yield from _ratio_metrics(groups, space)
        return
    label, predicted = space.take(space.label), space.take(space.predicted)
    # Sorted by the first metric that asks, for all that do.
    classes = cache(partial(metrics.Classes.of, label, predicted))

    def by_group() -> float:
        if groups is None:
            raise metrics.Undefined("the dataset has no group column")
        return metrics.gauc(label, predicted, space.take(groups)).value

    yield "auc", lambda: classes().auc
    yield "logloss", lambda: metrics.log_loss(label, predicted)
    yield "gauc", by_group
    yield "pcoc", lambda: metrics.pcoc(label, predicted)
    yield "ece", lambda: classes().ece()
    if space.truth is not None:
        truth = space.take(space.truth)
        yield "best_auc", lambda: metrics.auc(label, truth)
        yield (
            "regret",
            lambda: metrics.log_loss(label, predicted) - metrics.log_loss(label, truth),
        )


def _ratio_metrics(
    groups: npt.NDArray[np.int64] | None, space: Space
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Offer the metrics of a ratio."""
    label, predicted = space.take(space.label), space.take(space.predicted)

    def by_group() -> float:
        if groups is None:
            raise metrics.Undefined("the dataset has no group column")
        return ratios.gxauc(label, predicted, space.take(groups)).value

    yield "xauc", lambda: ratios.xauc(label, predicted)
    yield "rmse", lambda: ratios.rmse(label, predicted)
    yield "mae", lambda: ratios.mae(label, predicted)
    yield "gxauc", by_group
    yield "pcoc", lambda: ratios.pcoc(label, predicted)
    yield "ece", lambda: ratios.ece(label, predicted)
    if space.truth is not None:
        truth = space.take(space.truth)
        yield "best_xauc", lambda: ratios.xauc(label, truth)
        yield "best_rmse", lambda: ratios.rmse(label, truth)
        yield "regret", lambda: ratios.rmse(label, predicted) - ratios.rmse(label, truth)


def _unclicked_metrics(space: Space) -> Iterator[tuple[str, Callable[[], float]]]:
    """Offer what compares predictions with true probabilities, where labels say nothing."""
    assert space.truth is not None
    true, predicted = space.take(space.truth), space.take(space.predicted)

    def ratio() -> float:
        if not true.sum() > 0:
            raise metrics.Undefined("no row can be positive")
        return float(predicted.sum() / true.sum())

    def divergence() -> float:
        if not len(true):
            raise metrics.Undefined("there are no rows")
        ones, zeros = np.ones(len(true)), np.zeros(len(true))
        gap = [
            metrics.log_losses(y, predicted) - metrics.log_losses(y, true) for y in (ones, zeros)
        ]
        return float((true * gap[0] + (1 - true) * gap[1]).mean())

    yield "auc_unclicked", lambda: metrics.expected_auc(true, predicted)
    yield "pcoc_unclicked", ratio
    yield "regret_unclicked", divergence


def _check_finite(schema: Schema, conditional: Indexed, joint: Indexed) -> None:
    for index, task in enumerate(schema.tasks):
        for values in (conditional[:, index], joint[:, index]):
            finite = (values > -math.inf) & (values < math.inf)
            if n_others := len(values) - int(finite.sum()):
                raise RunError(
                    f"{n_others:,} of {len(values):,} predictions of task {task.name!r} are not "
                    "finite numbers; lower trainer.learning_rate or trainer.embedding_learning_rate"
                )
