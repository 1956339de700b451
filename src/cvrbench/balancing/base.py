"""What every balancing method is: how the tasks' losses, or their gradients, become one step."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class Balancing(nn.Module):
    """Weighs the tasks' losses; parameters and buffers are optimised and checkpointed.

    A loss-level method overrides `weigh`. A gradient-level one sets `compares_gradients` and
    overrides `combine`; `training.step` takes the gradients.

    Attributes:
        compares_gradients: Whether a step needs `combine`, and so each task's own gradient.
        stackable: Whether the seeds of a plan can be trained as one program under it.
        active: `[tasks]`, 1 where a task is trained and 0 where it is left out.
        trained: Indices of the active tasks.
    """

    compares_gradients: ClassVar[bool] = False
    stackable: ClassVar[bool] = True
    active: Tensor

    def __init__(self, active: Tensor) -> None:
        super().__init__()
        self.register_buffer("active", active, persistent=False)
        self.trained = [t for t, value in enumerate(active.tolist()) if value > 0]

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the terms whose sum is descended, `[..., tasks]` like `losses`."""
        return losses * self.active

    def combine(self, gramian: Tensor) -> Tensor:
        """Return the weight of each active task's gradient, `[tasks]`.

        Args:
            gramian: Inner products of the active tasks' gradients with respect to the shared
                representation, `[tasks, tasks]`.
        """
        raise NotImplementedError


def gramian(losses: Tensor, shared: Tensor) -> Tensor:
    """Return the inner products of the losses' gradients in a shared tensor, `[tasks, tasks]`.

    The gradient with respect to the representation bounds that with respect to everything below it
    (MGDA-UB: Sener and Koltun, NeurIPS 2018, eq. 4): one row of `batch * width` numbers per task,
    without a dense gradient of the embedding table per task. Rows of the batch are kept apart;
    summing over them first would be another matrix.

    Args:
        losses: `[tasks]`, those compared.
        shared: Any shape.
    """
    rows = [
        torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)[0].flatten()
        for loss in losses
    ]
    jacobian = torch.stack(rows).float()
    return jacobian @ jacobian.T
