"""Scores from the tasks' gradients: how much a connection matters to each task.

theta are the weights `[1 or tasks, in, out]`, g_t = dL_t / dtheta task t's gradient, `[tasks, in,
out]` for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cvrbench.masks.mask_set import MaskSet


@dataclass(frozen=True, eq=False)
class GradientSums:
    """Sums over the batches of a window, per layer `[tasks, in, out]`.

    Attributes:
        products: Of g_t * g_u with every task u, layer -> `[tasks, tasks, in, out]`.
        need: Of abs(theta * g_t), how much task t wants the connection.
        total: Of g_t.
    """

    products: Mapping[str, Tensor]
    need: Mapping[str, Tensor]
    total: Mapping[str, Tensor]


def snip(weights: Mapping[str, Tensor], total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """abs(theta * dL/dtheta) at initialisation, per task (Lee et al., ICLR 2019, eq. 4).

    The gradient is the sum over the batches: the saliency of their common loss.
    """
    return {name: (weights[name] * gradient).abs() for name, gradient in total.items()}


def agreeing(sums: GradientSums, like: MaskSet) -> MaskSet:
    """Share a connection where the tasks' gradients agree, else give it to the neediest task.

    Task n needs the connection most. Task t keeps it as well if the sum of g_t * g_n over the
    window is positive: a step of either then helps both. Ours, after the conflict of PCGrad (Yu et
    al., NeurIPS 2020).
    """
    keep = {}
    for name in like.keep:
        neediest = sums.need[name].argmax(dim=0)  # [in, out]
        index = neediest.expand(1, len(like.tasks), *neediest.shape)
        with_neediest = sums.products[name].gather(0, index)[0]  # [tasks, in, out]
        tasks = torch.arange(len(like.tasks), device=neediest.device)
        is_neediest = tasks.view(-1, *[1] * neediest.dim()) == neediest
        keep[name] = is_neediest | (with_neediest > 0)
    return MaskSet(like.tasks, keep)
