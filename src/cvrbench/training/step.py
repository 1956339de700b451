"""The training step: the only one. Training, stacked seeds, diagnostics and benchmarks use it.

output = network(features) -> losses = objective(output, batch), one per task
-> terms = balancing(losses) -> sum + penalty + auxiliary loss -> backward -> optimisers
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from cvrbench.balancing import Balancing
from cvrbench.balancing.base import gramian
from cvrbench.data.batches import Batch, Features
from cvrbench.errors import RunError
from cvrbench.nn import Output
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy, UpdateStep
from cvrbench.training.optimizers import Optimizers

Forward = Callable[[Features], Output]
"""A network, or what torch compiled of it."""
ON_ALL_TASKS = (UpdateStep(None, None),)
"""One update of all tasks together, which may move every weight."""


def train_step(
    network: SharingStrategy,
    objective: Objective,
    balancing: Balancing,
    batch: Batch,
    optimizers: Optimizers,
    *,
    updates: Sequence[UpdateStep] = ON_ALL_TASKS,
    forward: Forward | None = None,
    bf16: bool = False,
) -> Tensor:
    """Take one step on a batch: one optimiser update, or one for each of `updates`.

    Args:
        network: What is trained.
        objective: Its losses.
        balancing: How they become one.
        batch: `[batch]` rows; of a stack, those of all replicas.
        optimizers: Of the network's and the balancing's parameters.
        updates: Which task's loss each update descends and what it may move.
        forward: What computes the network's output; None: the network itself.
        bf16: Whether the forward pass runs in bfloat16 under autocast; losses are in fp32.

    Returns:
        The descended loss, detached: `[]`, or `[replicas]` of a stack; summed over the updates.
    """
    total: Tensor | None = None
    for update in updates:
        output, losses = task_losses(network, objective, batch, forward=forward, bf16=bf16)
        loss = _balanced(balancing, losses, output, update.task)
        if output.penalty is not None:
            loss = loss + output.penalty
        if (auxiliary := network.auxiliary(output, batch, objective)) is not None:
            loss = loss + auxiliary
        optimizers.zero_grad()
        loss.sum().backward()
        optimizers.step(update.update_mask)
        if balancing.looks_again and update.task is None:
            with torch.no_grad():
                after = task_losses(network, objective, batch, forward=forward, bf16=bf16)
            balancing.learn(after[1])
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def updates_of(network: SharingStrategy, balancing: Balancing) -> tuple[UpdateStep, ...]:
    """Return the updates that a step takes: the network's own, less those of tasks left out."""
    own = network.update_steps()
    trained = tuple(u for u in own if u.task is None or u.task in balancing.trained)
    return trained if own else ON_ALL_TASKS


def task_losses(
    network: SharingStrategy,
    objective: Objective,
    batch: Batch,
    *,
    forward: Forward | None = None,
    bf16: bool = False,
) -> tuple[Output, Tensor]:
    """Return a network's output on a batch, in fp32, and each task's loss, `[..., tasks]`."""
    device = batch.labels.device.type
    # Not `enabled=bf16`: torch refuses devices that it has no autocast for even then.
    with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
        output: Output = (network if forward is None else forward)(batch.features)
    output = output.float()
    return output, objective.losses(output, batch)


def _balanced(balancing: Balancing, losses: Tensor, output: Output, task: int | None) -> Tensor:
    """Return the loss to descend, `[...]`: of one task, or of all as the balancing weighs them."""
    terms = balancing.weigh(losses)
    if task is not None:
        return terms[..., task]
    if balancing.compares_gradients:
        if not output.shared:
            raise RunError(
                "this balancing compares the tasks' gradients in what they share, and this "
                "strategy shares nothing; use balancing=equal"
            )
        active = terms[balancing.trained]
        weights = balancing.combine(gramian(active, output.shared), active.detach())
        return (weights.to(terms) * active).sum()
    return terms.sum(-1)
