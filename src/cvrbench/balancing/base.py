"""What every balancing method is: how the tasks' losses, or their gradients, become one step."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

DIGITS = 4
"""Digits of every recorded number."""


class Balancing(nn.Module):
    """Weighs the tasks' losses; parameters and buffers are optimised and checkpointed.

    A loss-level method overrides `weigh`. A gradient-level one sets `compares_gradients` and
    overrides `combine`; `training.step` takes the gradients.

    Attributes:
        compares_gradients: Whether a step needs `combine`, and so each task's own gradient.
        looks_again: Whether a step computes the losses of its batch once more at its end, for
            `learn`.
        stackable: Whether the seeds of a plan can be trained as one program under it.
        active: `[tasks]`, 1 where a task is trained and 0 where it is left out.
        trained: Indices of the active tasks.
    """

    compares_gradients: ClassVar[bool] = False
    looks_again: ClassVar[bool] = False
    stackable: ClassVar[bool] = True
    active: Tensor

    def __init__(self, active: Tensor) -> None:
        super().__init__()
        self.register_buffer("active", active, persistent=False)
        self.trained = [t for t, value in enumerate(active.tolist()) if value > 0]

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the terms whose sum is descended, `[..., tasks]` like `losses`."""
        return losses * self.active

    def combine(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the weight of each active task's gradient, `[tasks]`.

        Args:
            gramian: Inner products of the active tasks' gradients with respect to the shared
                representation, `[tasks, tasks]`.
            losses: Of the active tasks, `[tasks]`, detached.
        """
        raise NotImplementedError

    def learn(self, losses: Tensor) -> None:
        """Take note of the losses `[..., tasks]` of a step's batch after the step."""

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Return what happened since the last call, for the history; nothing by default."""
        return {}


class Adaptive(Balancing):
    """A method whose weights change: it records their mean and how often gradients conflict.

    Buffers change in place alone: those of a stack's replicas are views of the stack's.
    """

    weight_sum: Tensor
    step_count: Tensor
    conflict_count: Tensor

    def __init__(self, active: Tensor) -> None:
        super().__init__(active)
        self.register_buffer("weight_sum", torch.zeros_like(active))
        self.register_buffer("step_count", active.new_zeros(1))
        self.register_buffer("conflict_count", active.new_zeros(1))

    def note(self, weights: Tensor, conflict: bool = False) -> None:
        """Count a step and the weights `[..., tasks]` that it gave the tasks."""
        self.weight_sum.add_(weights.detach() * self.active)
        self.step_count.add_(1)
        self.conflict_count.add_(float(conflict))

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return the mean weights, and of gradients the share of steps in which two conflicted."""
        n_steps = max(self.step_count.item(), 1)
        means = (self.weight_sum / n_steps).tolist()
        found: dict[str, Any] = {
            "weights": {tasks[t]: round(means[t], DIGITS) for t in self.trained}
        }
        if self.compares_gradients:
            found["conflicts"] = round(self.conflict_count.item() / n_steps, DIGITS)
        for buffer in (self.weight_sum, self.step_count, self.conflict_count):
            buffer.zero_()
        return found


def scaled(weights: Tensor, counted: Tensor) -> Tensor:
    """Scale weights to a mean of 1 over the tasks that count, so that steps compare with `equal`'s.

    Args:
        weights: `[..., tasks]`, finite.
        counted: The same shape, True where a task has a loss; the others get 1.
    """
    here = counted.to(weights.dtype)
    total = (weights * here).sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.where(counted, weights * here.sum(-1, keepdim=True) / total, 1.0)


def gramian(losses: Tensor, shared: Sequence[Tensor]) -> Tensor:
    """Return the inner products of the losses' gradients in shared tensors, `[tasks, tasks]`.

    The gradient with respect to the representation bounds that with respect to everything below it
    (MGDA-UB: Sener and Koltun, NeurIPS 2018, eq. 4): one row of `batch * width` numbers per task,
    without a dense gradient of the embedding table per task. Rows of the batch are kept apart;
    summing over them first would be another matrix.

    Args:
        losses: `[tasks]`, those compared.
        shared: Of any shapes; a task's gradient is the concatenation of those in all of them.
    """
    rows = [
        torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        for loss in losses
    ]
    products = losses.new_empty(len(rows), len(rows), dtype=torch.float32)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[: i + 1]):
            # A dot product per tensor: one matrix of all gradients would be a copy of them.
            parts = [
                torch.dot(a.float().flatten(), b.float().flatten())
                for a, b in zip(one, other, strict=True)
            ]
            products[i, j] = products[j, i] = torch.stack(parts).sum()
    return products
