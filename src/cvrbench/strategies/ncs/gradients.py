"""The tasks' gradients with respect to the connections of a common trunk, over some batches."""

import torch
from torch import Tensor

from cvrbench.masks.saliency import GradientSums
from cvrbench.strategies.base import PretrainContext
from cvrbench.strategies.ncs import NCS


def gradient_sums(ncs: NCS, context: PretrainContext, n_batches: int) -> GradientSums:
    """Sum g_t, abs(theta * g_t) and g_t * g_u over batches, in evaluation mode.

    A task's path has masked weights of its own, `theta * M_t`, so that one backward pass gives
    every task's gradient.
    """
    was_training = ncs.training
    ncs.eval()
    leaves = {n: w.detach().clone().requires_grad_() for n, w in ncs.effective().items()}
    total = {n: torch.zeros_like(w, requires_grad=False) for n, w in leaves.items()}
    need = {n: torch.zeros_like(w, requires_grad=False) for n, w in leaves.items()}
    products = {n: w.new_zeros(len(w), *w.shape) for n, w in leaves.items()}
    for batch in context.batches(n_batches):
        loss = context.losses(ncs.through(batch.features, leaves), batch).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for (name, weight), gradient in zip(leaves.items(), gradients, strict=True):
            g: Tensor = gradient.detach()
            total[name] += g
            need[name] += (weight.detach() * g).abs()
            products[name] += g[:, None] * g[None, :]
    ncs.train(was_training)
    return GradientSums(products=products, need=need, total=total)
