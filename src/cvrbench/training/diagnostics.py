"""What is observed of sharing while a network trains: whether its tasks agree, what its gates do.

On one fixed probe of training rows, in evaluation mode, per parameter theta that more than one
task's loss reaches:

    cosine(t, u) = <g_t, g_u> / (|g_t| |g_u|),    g_t = dL_t / dtheta

Below 0 the tasks conflict (Yu et al., NeurIPS 2020, definition 1): a step for one undoes the
other's. L_t are the losses that training descends, unweighted.

The cosine is taken over those units of theta, along its first axis, that both tasks reach:
parallel networks of one shape lie in one parameter, and an expert or tower of one task alone is
not shared; nor is a row of the embedding table that no clicked exposure reads. Within a unit the
gradient of what only one task reaches, as a connection that one mask of an NCS trunk keeps, counts
as it is, the other's as 0.

A rare label's gradient on a few rows is mostly noise, and noise draws every cosine to 0. How much
there is says the same task's cosine with itself on other rows: the probe is two halves, g_t is the
mean of the gradients on them, and `self_cosine` is that of one half with the other.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from cvrbench.data.batches import Batch, Rows
from cvrbench.nn import FeatureEncoder
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system.rng import derive
from cvrbench.training.step import task_losses

OBSERVED_SHARE, FEWEST_ROWS, MOST_ROWS = 0.015, 512, 16384
"""Rows of a probe to those trained on between two evaluations, which bounds the cost."""
DIGITS = 4
"""Digits of every recorded number, of which there are many."""

Cosines = dict[str, dict[str, float]]
"""Layer -> tasks -> cosine."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The rows on which sharing is observed, and what the tasks learn from them."""

    halves: tuple[Batch, Batch]
    objective: Objective
    tasks: tuple[str, ...]

    @classmethod
    def draw(
        cls,
        train: Rows,
        objective: Objective,
        tasks: Sequence[str],
        *,
        seed: int,
        n_rows: int,
    ) -> "Probe":
        """Draw training rows from a stream of its own: the same for every strategy under one seed.

        All of them, where there are no more than `n_rows`; else with repetition, since a
        permutation would cost as much as the whole split.
        """
        device = train.device
        generator = torch.Generator().manual_seed(derive(seed, "probe"))
        if len(train) > n_rows:
            index = torch.randint(len(train), (n_rows,), generator=generator)
        else:
            index = torch.randperm(len(train), generator=generator)
        one, other = (train.gather(half.to(device)) for half in index.tensor_split(2))
        return cls(halves=(one, other), objective=objective, tasks=tuple(tasks))

    def __call__(self, network: SharingStrategy) -> dict[str, Any]:
        """Observe a network, which is left as it came; plain values for the history.

        Its gates are observed on the first half alone: they cost a pass of their own.
        """
        with _at_rest(network):
            between, within = gradient_cosines(network, self.halves, self.objective, self.tasks)
            with torch.no_grad():
                gates = [asdict(facts) for facts in network.gate_facts(self.halves[0].features)]
        for facts in gates:
            facts["load"] = [round(share, DIGITS) for share in facts["load"]]
            facts["experts"] = list(facts["experts"])
            facts["entropy"] = round(facts["entropy"], DIGITS)
        return {"gradient_cosine": between, "self_cosine": within, "gates": gates}


def probe_rows(rows_between: float) -> int:
    """Return how many rows to observe, with so many trained on between two evaluations."""
    return int(min(max(OBSERVED_SHARE * rows_between, FEWEST_ROWS), MOST_ROWS))


def gradient_cosines(
    network: SharingStrategy,
    halves: tuple[Batch, Batch],
    objective: Objective,
    tasks: Sequence[str],
) -> tuple[Cosines, Cosines]:
    """Compare the tasks' gradients on a batch in two halves.

    Returns:
        Layer -> `ctr-cvr` -> cosine, and layer -> `ctr` -> cosine of the halves. A layer that no
        two tasks reach is in neither.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    pairs = list(combinations(range(len(tasks)), 2))
    if not pairs:
        return {}, {}
    of_halves = [_gradients(network, half, objective, [p for _, p in named]) for half in halves]
    first, second = torch.tensor(pairs).T
    cosines: dict[str, Tensor] = {}  # layer -> [pairs + tasks], read from the device all at once
    by_parameter = zip(*of_halves[0], *of_halves[1], strict=True)
    for (name, _), gradients in zip(named, by_parameter, strict=True):
        if any(gradient is not None for gradient in gradients):
            one, other = _by_unit(gradients).chunk(2)  # [tasks, units, entries]
            both = one + other
            between = _cosine(both[first], both[second])
            cosines[layer_name(name)] = torch.cat([between, _cosine(one, other)])
    values = torch.stack([*cosines.values()]).tolist() if cosines else []
    names = [f"{tasks[t]}-{tasks[u]}" for t, u in pairs]
    found_between, found_within = {}, {}
    for layer, row in zip(cosines, values, strict=True):
        if between_tasks := _defined(names, row[: len(pairs)]):
            found_between[layer] = between_tasks
            found_within[layer] = _defined(tasks, row[len(pairs) :])
    return found_between, found_within


def layer_name(parameter: str) -> str:
    """Name a layer after its parameter.

    >>> layer_name("encoder.table"), layer_name("levels.0.experts.biases.1")
    ('embedding', 'levels_0_experts_1_bias')
    """
    parts = parameter.replace("encoder.table", "embedding").split(".")
    kept = [part for part in parts if part not in ("weights", "weight", "biases", "network")]
    return "_".join([*kept, "bias"] if "biases" in parts else kept)


def _gradients(
    network: SharingStrategy, batch: Batch, objective: Objective, parameters: Sequence[Tensor]
) -> list[tuple[Tensor | None, ...]]:
    """Each task's gradient in every parameter, None where it does not reach it."""
    with torch.enable_grad():
        _, losses = task_losses(network, objective, batch)
        return [
            torch.autograd.grad(
                loss, parameters, retain_graph=task + 1 < len(losses), allow_unused=True
            )
            for task, loss in enumerate(losses)
        ]


def _by_unit(gradients: Sequence[Tensor | None]) -> Tensor:
    """One parameter's gradients as `[gradients, units, entries]`; of a table the batch's rows."""
    some = next(gradient for gradient in gradients if gradient is not None)
    if not some.is_sparse:
        dense = [torch.zeros_like(some) if g is None else g for g in gradients]
        return torch.stack(dense).double().reshape(len(dense), len(some), -1)
    # Not by coalesce(): sorting ids alone is cheaper, and the rows must be common to all.
    parts = [
        (some._indices()[0, :0], some._values()[:0])
        if g is None
        else (g._indices()[0], g._values())
        for g in gradients
    ]
    ids = [of_one for of_one, _ in parts]
    rows, inverse = torch.unique(torch.cat(ids), return_inverse=True)
    summed = [
        values.new_zeros(len(rows), values.shape[1]).index_add_(0, places, values)
        for (_, values), places in zip(parts, inverse.split([*map(len, ids)]), strict=True)
    ]
    return torch.stack(summed).double()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosines over the units that both reach: `[n, units, entries]` -> `[n]`, NaN without any."""
    squares, others = one.square().sum(dim=2), other.square().sum(dim=2)  # [n, units]
    both = (squares > 0) & (others > 0)
    norms = (squares * both).sum(dim=1) * (others * both).sum(dim=1)
    return (one * other).sum(dim=(1, 2)) / norms.sqrt()


def _defined(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Name the values that are numbers."""
    named = zip(names, values, strict=True)
    return {name: round(value, DIGITS) for name, value in named if math.isfinite(value)}


@contextmanager
def _at_rest(network: SharingStrategy) -> Iterator[None]:
    """Evaluation mode, and tables whose gradient holds the batch's rows only; undone at the end."""
    was_training = network.training
    encoders = [module for module in network.modules() if isinstance(module, FeatureEncoder)]
    was_sparse = [encoder.sparse for encoder in encoders]
    network.eval()
    for encoder in encoders:
        encoder.sparse = True
    try:
        yield
    finally:
        network.train(was_training)
        for encoder, sparse in zip(encoders, was_sparse, strict=True):
            encoder.sparse = sparse
