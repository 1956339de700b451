"""Magnitude pruning: drop the kept connections of smallest absolute weight.

Han et al. 2015; iterated with rewinding it is the search for lottery tickets of Frankle and
Carbin (ICLR 2019), and per task the mask search of Sun et al. (AAAI 2020) and of NCS
(arXiv 2008.09872).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def keep_rates(density: float, rounds: int) -> list[float]:
    """Density after each of `rounds` equal-rate rounds that end at `density`.

    >>> [round(rate, 4) for rate in keep_rates(0.2, 4)]
    [0.6687, 0.4472, 0.2991, 0.2]
    """
    return [density ** (r / rounds) for r in range(1, rounds + 1)]


def prune(
    weights: Sequence[Tensor],
    keep: Sequence[Tensor],
    density: float,
    scope: Literal["global", "layer"],
) -> list[Tensor]:
    """Keep the largest weights among those still kept.

    Args:
        weights: Per layer, any shape.
        keep: Per layer a bool tensor of the same shape; False is never revived.
        density: Share of *all* connections kept afterwards (at most what `keep` holds); the
            number kept is rounded to the nearest whole one.
        scope: One threshold over all layers together, or one per layer.

    Returns:
        The new masks. Ties are broken by position, so the count is exact.
    """
    if scope == "layer":
        return [
            _largest(weight.flatten(), kept.flatten(), density).view_as(kept)
            for weight, kept in zip(weights, keep, strict=True)
        ]
    flat = _largest(
        torch.cat([weight.flatten() for weight in weights]),
        torch.cat([kept.flatten() for kept in keep]),
        density,
    )
    parts = flat.split([kept.numel() for kept in keep])
    return [part.view_as(kept) for part, kept in zip(parts, keep, strict=True)]


def _largest(weight: Tensor, keep: Tensor, density: float) -> Tensor:
    count = min(round(density * keep.numel()), int(keep.sum()))
    score = weight.detach().abs().masked_fill(~keep, -1.0)
    order = score.argsort(descending=True, stable=True)
    result = torch.zeros_like(keep)
    result[order[:count]] = True
    return result
