"""Which connections are kept: the best scored ones, down to a density, in rounds or at once.

With the absolute weight as score this is magnitude pruning (Han et al. 2015); iterated with
rewinding it is the search for lottery tickets of Frankle and Carbin (ICLR 2019), and per task the
mask search of Sun et al. (AAAI 2020) and of NCS (arXiv 2008.09872).

`random_scores`, `overlapping`, `shuffled` and `redrawn` are controls, which a search must beat
before its choice can be credited: random scores keep the density alone; overlapping masks have a
density and an overlap that are asked for; a shuffled set has those of a found one in every layer,
but other connections; a redrawn one has its densities, and the overlap that chance gives.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from cvrbench.errors import ConfigError
from cvrbench.masks.mask_set import MaskSet

Scope = Literal["global", "layer", "erk"]


def keep_rates(density: float, rounds: int) -> list[float]:
    """Density after each of `rounds` equal-rate rounds that end at `density`.

    >>> [round(rate, 4) for rate in keep_rates(0.2, 4)]
    [0.6687, 0.4472, 0.2991, 0.2]
    """
    return [density ** (r / rounds) for r in range(1, rounds + 1)]


def keep_best(
    scores: Mapping[str, Tensor], among: MaskSet, density: float, scope: Scope
) -> MaskSet:
    """Keep, per task, the connections with the highest scores among those still kept.

    Args:
        scores: Layer -> `[tasks, ...]`, or `[1, ...]` where all tasks score alike.
        among: The masks so far; False is never revived.
        density: Share of *all* connections kept afterwards (at most what `among` holds); the
            number kept is rounded to the nearest whole one.
        scope: One threshold over all layers together, or one per layer, which keeps the density or
            (`erk`) more of it the smaller the layer is (`erk_densities`).

    Returns:
        The new masks. Ties are broken by position, so that the count is exact.
    """
    whole = {n: scores[n].detach().expand_as(keep).flatten(1) for n, keep in among.keep.items()}
    if scope != "global":
        of_layer = dict.fromkeys(whole, density)
        if scope == "erk":
            of_layer = erk_densities({n: k.shape[1:] for n, k in among.keep.items()}, density)
        kept = {n: _top(whole[n], k.flatten(1), of_layer[n]) for n, k in among.keep.items()}
        return MaskSet(among.tasks, {n: kept[n].view_as(k) for n, k in among.keep.items()})
    flat = _top(torch.cat(list(whole.values()), dim=1), among.flat(), density)
    return MaskSet.from_flat(among.tasks, flat, among)


def _top(scores: Tensor, keep: Tensor, density: float) -> Tensor:
    """`[tasks, connections]` -> the same, True for the best."""
    wanted = round(density * keep.shape[1])
    # Excluded ones come last whatever their score: the sort is by (kept, score, position).
    order = scores.masked_fill(~keep, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    places = torch.arange(keep.shape[1], device=keep.device).expand_as(order)
    rank.scatter_(1, order, places.contiguous())
    return keep & (rank < wanted)


def erk_densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Return the densities of layers, in proportion to (in + out) / (in out) and at most 1.

    (Erdos-Renyi kernel: Mocanu et al. 2018; Evci et al., ICML 2020.) All together keep `density`.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    full: set[str] = set()
    while True:
        left = density * sum(sizes.values()) - sum(sizes[name] for name in full)
        share = {n: sum(shapes[n]) / sizes[n] for n in shapes if n not in full}
        scale = left / sum(share[n] * sizes[n] for n in share) if share else 0.0
        over = {name for name in share if scale * share[name] > 1}
        if not over:
            return {n: 1.0 if n in full else scale * share[n] for n in shapes}
        full |= over


def random_scores(like: MaskSet, seed: int, *, identical: bool) -> dict[str, Tensor]:
    """Scores without meaning, of which the highest are a random choice.

    One draw serves every density, so that sparser masks lie within denser ones, as in pruning.

    Args:
        like: A set with the wanted layers.
        seed: Of the draw.
        identical: One score for all tasks rather than one each.

    Returns:
        Layer -> `[tasks, ...]`, or `[1, ...]` where identical.
    """
    generator = torch.Generator().manual_seed(seed)
    n = 1 if identical else len(like.tasks)
    return {
        name: torch.rand(n, *keep.shape[1:], generator=generator).to(keep.device)
        for name, keep in like.keep.items()
    }


def overlapping(like: MaskSet, density: float, overlap: float, seed: int) -> MaskSet:
    """Draw masks of a density of which every two overlap by a Jaccard index, layer by layer.

    All tasks keep a common part, and each a part that no other task keeps.

    Args:
        like: A set with the wanted layers.
        density: Share of each layer's connections that a task keeps, to the nearest whole one.
        overlap: Jaccard index J; of n kept, 2 n J / (1 + J) are common.
        seed: Of the draw.

    Raises:
        ConfigError: A layer has too few connections for masks that overlap so little.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, keep in like.keep.items():
        n_tasks, n = len(like.tasks), keep[0].numel()
        kept = round(density * n)
        common = round(2 * kept * overlap / (1 + overlap))
        own = kept - common
        if common + n_tasks * own > n:
            # The least common part c of masks that fill the layer: c + tasks (kept - c) = n.
            least = math.ceil((n_tasks * kept - n) / max(n_tasks - 1, 1))
            raise ConfigError(
                f"model.search.overlap={overlap:g}: {n_tasks} masks of density {density:g} meet in "
                f"more than that in {name}; set model.search.overlap to at least "
                f"{math.ceil(1000 * least / (2 * kept - least)) / 1000:g}, or a lower density"
            )
        order = torch.randperm(n, generator=generator)
        flat = torch.zeros(n_tasks, n, dtype=torch.bool)
        flat[:, order[:common]] = True
        for task, places in enumerate(order[common:].split(own)[:n_tasks] if own else ()):
            flat[task, places] = True
        drawn[name] = flat.view_as(keep).to(keep.device)
    return MaskSet(like.tasks, drawn)


def whole_units(masks: MaskSet) -> MaskSet:
    """Keep, per task, the units with most of a set's connections, and every connection of theirs.

    All hidden layers of the trunk keep the same share of their units: the largest with which no
    more connections are kept than before, and at least one unit. Other layers stay as they are.
    """
    layers = masks.trunk()
    sizes = [next(iter(layers.values())).shape[1], *(keep.shape[2] for keep in layers.values())]
    kept = torch.stack([keep.flatten(1).sum(dim=1) for keep in layers.values()]).sum(dim=0)
    counts = [_units_of(sizes, n) for n in kept.tolist()]  # per task, of each hidden layer
    reading = [keep.double().mean(dim=2) for keep in layers.values()]  # [tasks, in]
    below = torch.ones_like(reading[0], dtype=torch.bool)
    found = {}
    for number, (name, keep) in enumerate(layers.items()):
        score = keep.double().mean(dim=1)  # [tasks, out]
        if number + 1 < len(layers):
            score = score + reading[number + 1]
        best = [_first(one, n[number]) for one, n in zip(score, counts, strict=True)]
        above = torch.stack(best)
        found[name] = below[:, :, None] & above[:, None, :]
        below = above
    return MaskSet(masks.tasks, {**masks.keep, **found})


def _units_of(sizes: Sequence[int], connections: int) -> list[int]:
    """Return how many units each hidden layer keeps; `sizes` begin with the input's."""
    for most in range(max(sizes[1:]), 0, -1):
        units = [max(1, round(size * most / max(sizes[1:]))) for size in sizes[1:]]
        if sum(i * o for i, o in pairwise([sizes[0], *units])) <= connections:
            return units
    return [1 for _ in sizes[1:]]


def _first(scores: Tensor, n: int) -> Tensor:
    """`[units]` -> the same, True for the n best; ties are broken by position."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[:n]] = True
    return chosen


def redrawn(masks: MaskSet, seed: int) -> MaskSet:
    """Permute each layer's connections, by a permutation of its own for every task.

    Densities of every layer stay exactly what they were, and nothing else does.
    """
    alone = [
        shuffled(MaskSet((task,), {n: k[t : t + 1] for n, k in masks.keep.items()}), seed + t)
        for t, task in enumerate(masks.tasks)
    ]
    keep = {n: torch.cat([one.keep[n] for one in alone]) for n in masks.keep}
    return MaskSet(masks.tasks, keep)


def shuffled(masks: MaskSet, seed: int) -> MaskSet:
    """Permute each layer's connections, by one permutation for all tasks.

    Densities, overlaps and private parts of every layer stay exactly what they were.
    """
    generator = torch.Generator().manual_seed(seed)
    permuted = {}
    for name, keep in masks.keep.items():
        flat = keep.flatten(1)
        order = torch.randperm(flat.shape[1], generator=generator).to(keep.device)
        permuted[name] = flat[:, order].view_as(keep)
    return MaskSet(masks.tasks, permuted)
