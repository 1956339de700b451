"""Searches that rank connections by the tasks' gradients, before any training or after one.

`snip`, `grasp` and `synflow` prune at initialisation; `gradient_conflict` trains the dense trunk
first, and shares where the tasks' gradients agree, parts where they fight.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cvrbench.config.ncs import GradientConflictSearch, GraspSearch, SnipSearch, SynflowSearch
from cvrbench.masks import saliency
from cvrbench.masks.ranking import keep_best, keep_rates
from cvrbench.masks.saliency import GradientSums, agreeing
from cvrbench.strategies.base import PretrainContext, Training
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.candidates import Candidate, ranked, schedule, settings_of


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


def gradient_conflict(
    ncs: NCS, context: PretrainContext, search: GradientConflictSearch
) -> list[Candidate]:
    """Train the dense trunk on all tasks, then let their gradients say who keeps what.

    Every connection goes to the task that needs it most and to those whose gradients agree with
    that task's; then each task keeps, down to the density, what it needs most of its own.
    """
    context.train(
        Training(
            ncs,
            label="search all tasks",
            epochs=search.epochs,
            per_task=True,
            depends=settings_of(ncs),
        )
    )
    sums = gradient_sums(ncs, context, search.probe_batches)
    return ranked(sums.need, agreeing(sums, ncs.masks), search)


SYNFLOW_ROUNDS = 100
"""Rounds of pruning by synaptic flow down to the last density (Tanaka et al. 2020, algorithm 1)."""


def snip(ncs: NCS, context: PretrainContext, search: SnipSearch) -> list[Candidate]:
    """Keep the connections whose removal would change the task's loss most (Lee et al. 2019)."""
    sums = gradient_sums(ncs, context, search.probe_batches)
    scores = saliency.snip(ncs.effective(), sums.total)
    return ranked(scores, ncs.masks, search)


def grasp(ncs: NCS, context: PretrainContext, search: GraspSearch) -> list[Candidate]:
    """Keep the connections that the task's gradient flow needs most (Wang et al. 2020).

    Theirs divides the logits by a temperature of 200, so that the softmax is not saturated; ours
    are next to 0 at the start.
    """
    gradient = gradient_sums(ncs, context, search.probe_batches).total
    curvature = curvature_along(gradient, ncs, context, search.probe_batches)
    return ranked(saliency.grasp(ncs.effective(), curvature), ncs.masks, search)


def synflow(ncs: NCS, search: SynflowSearch) -> list[Candidate]:
    """Keep the connections that carry most from the input to the task's logit (Tanaka et al. 2020).

    No data are read: the tasks' masks differ as far as their towers do. Cut in many rounds, no
    layer is emptied before all are down to one connection per task.
    """
    path = _path(ncs)
    among, before = ncs.masks, 1.0
    densities = schedule(search)
    rounds = -(-SYNFLOW_ROUNDS // len(densities))
    candidates = []
    for density in densities:
        rates = keep_rates(density / before, rounds)[:-1]
        for step in [*(before * rate for rate in rates), density]:
            kept = path | {name: path[name] * keep for name, keep in among.keep.items()}
            scores = saliency.synflow(kept)
            masked = {name: scores[name] for name in among.keep}
            among = keep_best(masked, among, step, search.scope)
        candidates.append(Candidate(density=density, masks=among))
        before = density
    return candidates


def curvature_along(
    direction: Mapping[str, Tensor], ncs: NCS, context: PretrainContext, n_batches: int
) -> dict[str, Tensor]:
    """H_t v_t of every task's loss, summed over batches: `[tasks, in, out]` in and out.

    Differentiates the product of gradient and direction (Pearlmutter 1994). Every task has
    effective weights of its own, so that the Hessian of the summed losses has no block that would
    mix two tasks.
    """
    was_training = ncs.training
    ncs.eval()
    leaves = {n: w.detach().clone().requires_grad_() for n, w in ncs.effective().items()}
    weights = list(leaves.values())
    total = {name: torch.zeros_like(v) for name, v in direction.items()}
    for batch in context.batches(n_batches):
        loss = context.losses(ncs.through(batch.features, leaves), batch).sum()
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        named = zip(leaves, gradients, strict=True)
        along = torch.stack([(g * direction[name]).sum() for name, g in named]).sum()
        for name, product in zip(leaves, torch.autograd.grad(along, weights), strict=True):
            total[name] += product
    ncs.train(was_training)
    return total


def _path(ncs: NCS) -> dict[str, Tensor]:
    """All weights from the trunk's input to the logits, in order, masked or not."""
    path: dict[str, Tensor] = {}
    for part, network in (("trunk", ncs.trunk), ("tower", ncs.towers.network)):
        for number, weight in enumerate(network.weights):
            path[f"{part}_{number}"] = weight.detach()
            path[f"{part}_{number}_bias"] = network.biases[number].detach()
    return path | {"tower_head": ncs.towers.head.detach()}
