"""Scores from the tasks' gradients: how much a connection matters to each task.

theta are the weights `[1 or tasks, in, out]`, g_t = dL_t / dtheta task t's gradient, `[tasks, in,
out]` for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cvrbench.masks.mask_set import MaskSet, is_owned


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
    for name, everything in like.keep.items():
        if is_owned(name):  # the tasks' gradients there are of different weights
            keep[name] = torch.ones_like(everything)
            continue
        neediest = sums.need[name].argmax(dim=0)  # [in, out]
        index = neediest.expand(1, len(like.tasks), *neediest.shape)
        with_neediest = sums.products[name].gather(0, index)[0]  # [tasks, in, out]
        tasks = torch.arange(len(like.tasks), device=neediest.device)
        is_neediest = tasks.view(-1, *[1] * neediest.dim()) == neediest
        keep[name] = is_neediest | (with_neediest > 0)
    return MaskSet(like.tasks, keep)


def grasp(weights: Mapping[str, Tensor], curvature: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta * H g, per task: high where the gradient flow needs it (Wang et al., ICLR 2020, eq. 8).

    Without a weight, g^T g changes to first order by -2 theta * H g, and a large flow at the start
    promises a fast descent. The sign is of consequence: a weight whose removal raises the flow has
    a negative score and goes first, as in the authors' code.

    Args:
        weights: Layer -> `[1 or tasks, in, out]`.
        curvature: Layer -> H_t g_t `[tasks, in, out]`, of task t's loss.
    """
    return {name: weights[name] * product for name, product in curvature.items()}


def synflow(path: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """abs(theta * dR/dtheta) of R = 1^T prod_l abs(W_l) 1 (Tanaka et al., NeurIPS 2020, eq. 3).

    R sums, over all ways from an input to task t's logit, the product of the absolute weights on
    the way; a score is what of R goes through a connection. Both factors are in closed form: what
    reaches the connection from below, and what leads on from it. A bias is the connection of a
    unit that is always 1.

    Args:
        path: All that lies on the way from the input to the logit, in order: layer -> `[1 or
            tasks, in, out]`, and the biases, named after their layer, right behind it.

    Returns:
        Layer -> scores, float64, of the same shape but for all tasks. Per task, those of a layer
        sum to R where there are no biases.
    """
    absolute = {name: weight.detach().double().abs() for name, weight in path.items()}
    below: dict[str, Tensor] = {}  # [1 or tasks, 1, in]
    first = next(iter(absolute.values()))
    flow = first.new_ones(1, 1, first.shape[1])
    for name, weight in absolute.items():
        if name.endswith("_bias"):
            flow = flow + weight
        else:
            below[name] = flow
            flow = flow @ weight
    above = torch.ones_like(flow)  # [tasks, 1, 1]: what leads on to the logit
    scores = {}
    for name, weight in reversed(absolute.items()):
        if name.endswith("_bias"):
            scores[name] = weight * above
        else:
            scores[name] = below[name].mT * weight * above
            above = above @ weight.mT
    return scores
