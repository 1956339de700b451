"""The parts that strategies are composed of: feature encoder, parallel networks, towers, gates.

Several networks of one shape (experts, towers, tasks) are one batched matrix product, never a
Python loop. Shape legend: `batch` rows, `n` parallel networks, `width` the encoder's output.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

from cvrbench.nn import kernels
from cvrbench.nn.output import Output


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
    for weight, bias in zip(weights, biases, strict=True):
        x = parallel_linear(x, weight, bias, relu=True)
        if dropout:
            x = kernels.dropout(x, dropout)
    return x


def parallel_linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """n linear maps: `[batch, in]` or `[n, batch, in]` with `[n, in, out]` -> `[n, batch, out]`.

    With `relu` rectified, in place before anything views the result: else autograd would copy the
    gradient through the view.
    """
    n_in, n_out = weight.shape[1:]
    n = max(len(weight), bias.numel() // n_out, len(x) if x.dim() == 3 else 1)
    if kernels.is_stacked(weight):
        return kernels.stacked_linear(x, weight.expand(n, n_in, n_out), bias, relu=relu)
    if n == 1:
        y = torch.addmm(bias.view(-1), x.view(-1, n_in), weight[0])
        return (F.relu_(y) if relu else y)[None]
    weight = weight.expand(n, n_in, n_out)  # one matrix may serve networks that differ elsewhere
    if x.dim() == 3 and len(x) > 1:
        y = torch.baddbmm(bias.expand(n, 1, n_out), x, weight)
        return F.relu_(y) if relu else y
    common = x[0] if x.dim() == 3 else x
    result: Tensor = _CommonInputLinear.apply(common, weight, bias, relu)  # type: ignore[no-untyped-call]
    return result


class _CommonInputLinear(torch.autograd.Function):
    """n linear maps of one input as one matrix product, `[batch, in] @ [in, n * out]`.

    Autograd's batched product would copy the input n times and sum n gradients of it; and n
    products with few columns, such as gates, take longer than one with n times as many.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        n, n_in, n_out = weight.shape
        side_by_side = weight.transpose(0, 1).reshape(n_in, n * n_out)
        y = torch.addmm(bias.expand(n, 1, n_out).reshape(-1), x, side_by_side)
        if relu:
            y.relu_()
        ctx.save_for_backward(x, side_by_side, y if relu else None)
        ctx.n, ctx.bias_shape = n, bias.shape
        return y.view(-1, n, n_out).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        grad = _side_by_side(grad, y)  # [batch, n * out]
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)  # bf16 under autocast
        n, n_in, n_out = ctx.n, x.shape[1], grad.shape[1] // ctx.n
        if n * n_out < n_in:  # the smaller side first: several times faster for a few columns
            grad_weight = (grad.T @ x).view(n, n_out, n_in).transpose(1, 2)
        else:
            grad_weight = (x.T @ grad).view(n_in, n, n_out).transpose(0, 1)
        grad_bias = grad.sum(dim=0).view(n, 1, n_out).sum_to_size(ctx.bias_shape)
        return grad @ weight.T, grad_weight, grad_bias, None


def _side_by_side(grad: Tensor, y: Tensor | None) -> Tensor:
    """`[n, batch, out]` -> `[batch, n * out]`, and 0 where the rectified `y` is 0, if given."""
    n, batch, n_out = grad.shape
    if y is None:
        return grad.transpose(0, 1).reshape(batch, n * n_out)
    y = y.view(batch, n, n_out)
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        return torch.where(y > 0, grad.transpose(0, 1), 0).reshape(batch, n * n_out)
    out = torch.empty_like(y)
    torch.ops.aten.threshold_backward.grad_input(grad.transpose(0, 1), y, 0, grad_input=out)
    return out.view(batch, n * n_out)


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


def glorot(n: int, n_in: int, n_out: int) -> nn.Parameter:
    """Return n Glorot-uniform matrices `[n, in, out]`."""
    bound = math.sqrt(6 / (n_in + n_out))
    return nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))
