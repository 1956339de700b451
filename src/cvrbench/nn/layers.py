"""The parts that strategies are composed of: parallel networks, towers, gates, their output.

Several networks of one shape (experts, towers, tasks) are one batched matrix product, never a
Python loop. Shape legend: `batch` rows, `n` parallel networks, `width` the encoder's output.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cvrbench.nn import kernels


class Output(NamedTuple):
    """What a strategy's forward pass returns; of a stack with the replicas leading."""

    logits: Tensor
    """`[batch, tasks]`; the objective says of which probability."""
    extra: Mapping[str, Tensor] = {}
    """Heads that the objective asked for (`Objective.heads`): name -> `[batch, tasks]`."""
    penalty: Tensor | None = None
    """`[]`: what this pass adds to the loss, such as an L0 norm or a load balance."""
    shared: tuple[Tensor, ...] = ()
    """What the tasks' own modules read, through which every gradient of a shared weight passes, and
    at which gradient balancing compares the tasks; empty where they share nothing."""

    def float(self) -> "Output":
        """Return the output in fp32, in which losses are computed under autocast."""
        extra = {name: value.float() for name, value in self.extra.items()}
        penalty = None if self.penalty is None else self.penalty.float()
        return Output(self.logits.float(), extra, penalty, self.shared)


def parallel_mlp(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, dropout: float = 0.0
) -> Tensor:
    """Run n networks of one shape, ReLU after every layer.

    Args:
        x: `[batch, in]` read by all networks, or `[n, batch, in]`, one input each.
        weights: Per layer `[n, in, out]`.
        biases: Per layer `[n, 1, out]` or anything that broadcasts to it.
        dropout: Share of units zeroed after each layer; 0 in evaluation.

    Returns:
        `[n, batch, out]`; `x` itself where there is no layer.
    """
    if not weights:
        return x
    return kernels.of_replicas(partial(kernels.mlp, dropout=dropout), x, *weights, *biases)


def parallel_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """n linear maps: `[batch, in]` or `[n, batch, in]` with `[n, in, out]` -> `[n, batch, out]`."""
    return kernels.of_replicas(partial(kernels.linear, relu=False), x, weight, bias)


class ParallelMLP(nn.Module):
    """n networks of one shape with weights of their own; see `parallel_mlp`."""

    def __init__(self, n: int, n_in: int, widths: Sequence[int], *, dropout: float) -> None:
        super().__init__()
        self.n, self.dropout = n, dropout
        self.n_out = widths[-1] if widths else n_in
        sizes = [n_in, *widths]
        self.weights = nn.ParameterList([glorot(n, i, o) for i, o in pairwise(sizes)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n, 1, o)) for o in widths])

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in]` or `[n, batch, in]` -> `[n, batch, out]`."""
        dropout = self.dropout if self.training else 0.0
        return parallel_mlp(x, list(self.weights), list(self.biases), dropout=dropout)


class Towers(nn.Module):
    """One tower and one logit per task, and what other heads the objective asks for.

    Shape: `[batch, in]` or `[1, batch, in]` read by all towers, or `[tasks, batch, in]` ->
    `Output` with `[batch, tasks]` logits. The extra heads are linear maps of a tower's last layer.
    """

    def __init__(
        self,
        n_tasks: int,
        n_in: int,
        widths: Sequence[int],
        *,
        dropout: float,
        heads: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = ParallelMLP(n_tasks, n_in, widths, dropout=dropout)
        self.head = glorot(n_tasks, self.network.n_out, 1)
        self.bias = nn.Parameter(torch.zeros(n_tasks))
        self.extra = nn.ModuleDict({name: _Head(n_tasks, self.network.n_out) for name in heads})

    def forward(self, x: Tensor) -> Output:
        """Return the tasks' logits and extra heads."""
        if x.dim() == 3 and len(x) == 1:
            x = x[0]
        x = self.network(x)
        extra = {name: head(x) for name, head in self.extra.items()}
        return Output(_project(x, self.head, self.bias, training=self.training), extra)


class _Head(nn.Module):
    """A linear map per task, `[(tasks,) batch, in]` -> `[batch, tasks]`."""

    def __init__(self, n_tasks: int, n_in: int) -> None:
        super().__init__()
        self.weight = glorot(n_tasks, n_in, 1)
        self.bias = nn.Parameter(torch.zeros(n_tasks))

    def forward(self, x: Tensor) -> Tensor:
        return _project(x, self.weight, self.bias, training=self.training)


def _project(x: Tensor, weight: Tensor, bias: Tensor, *, training: bool) -> Tensor:
    """`[(tasks,) batch, in]` with `[tasks, in, 1]` -> `[batch, tasks]`."""
    if training:  # with its gradients a third of the time of a product with one column
        return (x * weight.transpose(1, 2)).sum(dim=2).T + bias
    if x.dim() == 2:
        return x @ weight[:, :, 0].T + bias
    return torch.bmm(x, weight).squeeze(2).T + bias


class Gates(nn.Module):
    """Softmax gates without bias or normalisation: `g(x) = softmax(W x)` (Ma et al. 2018, eq. 7).

    Shape: `[batch, in]` read by all gates, or `[n, batch, in]` -> `[n, batch, experts]`.
    """

    def __init__(self, n: int, n_in: int, n_experts: int) -> None:
        super().__init__()
        self.weight = glorot(n, n_in, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Return each gate's mixture, which sums to 1 over the experts."""
        bias = self.weight.new_zeros(1, 1, 1)
        return parallel_linear(x, self.weight, bias).softmax(dim=2)


def mix(gates: Tensor, experts: Tensor) -> Tensor:
    """Mix experts by gates.

    Args:
        gates: `[n, batch, experts]`.
        experts: `[experts, batch, out]` read by all gates, or `[n, experts, batch, out]`.

    Returns:
        `[n, batch, out]`: the sum over the experts of gate times output.
    """
    experts_axes = "ebo" if experts.dim() == 3 else "nebo"
    return torch.einsum(f"nbe,{experts_axes}->nbo", gates, experts)


def select_networks(module: nn.Module, chosen: Sequence[int]) -> None:
    """Keep some of the parallel networks that a module consists of, in the order given.

    They are the first dimension of every parameter of `ParallelMLP`, `Towers`, `Gates` and of the
    interactions.
    """
    for part in module.modules():
        for name, parameter in [*part.named_parameters(recurse=False)]:
            setattr(part, name, nn.Parameter(parameter.detach()[list(chosen)]))
        if isinstance(part, ParallelMLP):
            part.n = len(chosen)


def glorot(n: int, n_in: int, n_out: int) -> nn.Parameter:
    """Return n Glorot-uniform matrices `[n, in, out]`."""
    bound = math.sqrt(6 / (n_in + n_out))
    return nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))
