"""Masks that are drawn, not found: what a search must beat before its choice can be credited.

`random` has the search's density alone; `identical` also makes the tasks share everything they
keep; `shuffled` has every layer's density and every overlap of a found set, but other connections.
"""

import torch
from torch import Tensor

from cvrbench.masks.mask_set import MaskSet


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
