"""Dropout and linear maps of n parallel networks, and of every replica of a stack of them.

`training.stacked_step` stacks weights of networks of one structure and runs their common code under
`torch.vmap`. What torch makes of a linear map there copies inputs and adds biases in passes of
their own, and a random draw is one of all networks. `of_replicas` leaves `torch.vmap` for such an
operation: a map costs what it costs alone, and every network draws from its own generator what it
would draw alone.

Shape legend: `...` the replicas of a stack or nothing, `batch` rows, `n` parallel networks.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

LEVELS = 1 << 16
"""Values of the 16 random bits that decide about one unit."""


class _Stack(threading.local):
    generators: Sequence[torch.Generator] = ()
    """Generators of the replicas whose common code runs now, in their order."""


_stack = _Stack()


@contextmanager
def drawing_from(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Run the common code of a stack under `torch.vmap`, each replica drawing from its own."""
    before, _stack.generators = _stack.generators, generators
    try:
        yield
    finally:
        _stack.generators = before


def of_replicas(operation: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call an operation; in a stack once with the tensors of all replicas, `[replicas, ...]`."""
    if not _stack.generators:
        return operation(*tensors)
    result: Tensor = _OfReplicas.apply(operation, *tensors)  # type: ignore[no-untyped-call]
    return result


class _OfReplicas(torch.autograd.Function):
    """The public way out of `torch.vmap`. About 0.4 ms of Python, so several layers go at once."""

    @staticmethod
    def forward(operation: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return operation(*tensors)  # nothing here is a replica's own

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: autograd sees the operation itself."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operation: Callable[..., Tensor], *tensors: Tensor
    ) -> tuple[Tensor, int]:
        stacked = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return operation(*stacked), 0


def mlp(x: Tensor, *layers: Tensor, dropout: float) -> Tensor:
    """Run n networks by the weights of all layers, then all biases; see `layers.parallel_mlp`."""
    n_layers = len(layers) // 2
    for weight, bias in zip(layers[:n_layers], layers[n_layers:], strict=True):
        x = linear(x, weight, bias, relu=True)
        if dropout:
            x = _thinned(x, dropout)
    return x


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """n linear maps.

    Args:
        x: `[..., batch, in]` or `[..., 1, batch, in]` read by all maps, or `[..., n, batch, in]`.
        weight: `[..., n, in, out]`, or 1 that serves maps which differ elsewhere.
        bias: `[..., n, 1, out]` or anything that broadcasts to it.
        relu: Whether the result is rectified, in place before anything views it: else autograd
            would copy the gradient through the view.

    Returns:
        `[..., n, batch, out]`.
    """
    *replicas, n_own, n_in, n_out = weight.shape
    n_inputs = x.shape[-3] if x.dim() == weight.dim() else 1
    n = max(n_own, bias.shape[-3], n_inputs)
    if n == 1 and not replicas:
        y = torch.addmm(bias.view(-1), x.view(-1, n_in), weight[0])
        return (F.relu_(y) if relu else y)[None]
    weight, bias = weight.expand(*replicas, n, n_in, n_out), bias.expand(*replicas, n, 1, n_out)
    if n_inputs < n:
        x = x.squeeze(-3) if x.dim() == weight.dim() else x
        return _apply(_CommonInputs, x, weight, bias, relu)
    if replicas:
        return _apply(_OwnInputs, x.reshape(*replicas, n, -1, n_in), weight, bias, relu)
    y = torch.baddbmm(bias, x, weight)
    return F.relu_(y) if relu else y


def dropout(x: Tensor, share: float) -> Tensor:
    """Zero a random share of units, and scale the others so that the mean stays.

    As `F.dropout`, in a fraction of its time on a CPU: 16 bits decide about a unit, so that the
    share is rounded to a multiple of 1 / 65536.
    """
    return of_replicas(lambda x: _thinned(x, share), x)


def _thinned(x: Tensor, share: float) -> Tensor:
    if generators := _stack.generators:
        return _apply(_Thinned, x, _bits(x, generators), share)
    return _apply(_Thinned, x, _bits(x[None], [None])[0], share)


def _bits(x: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """16 random bits for every entry of `[replicas, ...]`, int16; four cost one draw of 64."""
    n = x[0].numel()
    words = torch.empty(len(x), -(-n // 4), dtype=torch.int64, device=x.device)
    for own, generator in zip(words, generators, strict=True):
        own.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:, :n].reshape(x.shape)


def _apply(function: Any, *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


class _Thinned(torch.autograd.Function):
    """`x * kept / P(kept)`, a unit being kept where its bits are low."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, share: float) -> Tensor:
        n_levels = min(max(round((1 - share) * LEVELS), 1), LEVELS)
        # As numbers: torch multiplies by a truth value several times slower.
        kept = torch.le(bits, n_levels - 1 - LEVELS // 2, out=torch.empty_like(x))
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / n_levels
        return torch.addcmul(x.new_zeros(()), x, kept, value=ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return torch.addcmul(grad.new_zeros(()), grad, kept, value=ctx.scale), None, None


class _CommonInputs(torch.autograd.Function):
    """n maps of one input as one product, `[..., batch, in] @ [..., in, n * out]`.

    Autograd's batched product would copy the input n times and sum n gradients of it; and n
    products with few columns, such as gates, take longer than one with n times as many.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        *replicas, n, n_in, n_out = weight.shape
        side_by_side = weight.transpose(-3, -2).reshape(*replicas, n_in, n * n_out)
        if replicas:
            y = torch.baddbmm(bias.reshape(*replicas, 1, -1), x, side_by_side)
        else:
            y = torch.addmm(bias.reshape(-1), x, side_by_side)
        ctx.save_for_backward(x, side_by_side, y.relu_() if relu else None)
        return y.view(*replicas, -1, n, n_out).transpose(-3, -2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        *replicas, n, _, n_out = grad.shape
        grad = _side_by_side(grad, y)  # [..., batch, n * out]
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)  # bf16 under autocast
        if n * n_out < x.shape[-1]:  # the smaller side first: several times faster for few columns
            grad_weight = (grad.mT @ x).view(*replicas, n, n_out, -1).mT
        else:
            grad_weight = (x.mT @ grad).view(*replicas, -1, n, n_out).transpose(-3, -2)
        grad_bias = grad.sum(dim=-2).view(*replicas, n, 1, n_out)
        return grad @ weight.mT, grad_weight, grad_bias, None


def _side_by_side(grad: Tensor, y: Tensor | None) -> Tensor:
    """`[..., n, batch, out]` -> `[..., batch, n * out]`, 0 where the rectified `y`, if any, is."""
    *replicas, n, batch, n_out = grad.shape
    grad = grad.transpose(-3, -2)
    if y is not None:
        y = y.view(grad.shape)
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted
            grad = torch.where(y > 0, grad, 0)
        else:
            out = torch.empty_like(y)
            grad = torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=out)
    return grad.reshape(*replicas, batch, n * n_out)


class _OwnInputs(torch.autograd.Function):
    """`[replicas, n, batch, in]` with `[replicas, n, in, out]` -> `[replicas, n, batch, out]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        y = x.new_empty(*x.shape[:3], weight.shape[3])
        for own_y, *own in _products(y, bias, x, weight):
            torch.baddbmm(*own, out=own_y)
        ctx.save_for_backward(x, weight, y.relu_() if relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        grad = grad if y is None else torch.ops.aten.threshold_backward(grad, y, 0)
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)  # bf16 under autocast
        grad_x, grad_weight = grad.new_empty(x.shape), grad.new_empty(weight.shape)
        for to_x, to_weight, *own in _products(grad_x, grad_weight, grad, x, weight):
            own_grad, own_x, own_weight = own
            torch.bmm(own_grad, own_weight.mT, out=to_x)
            torch.bmm(own_x.mT, own_grad, out=to_weight)
        return grad_x, grad_weight, grad.sum(dim=2, keepdim=True), None


def _products(*tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """`[replicas, n, ...]` each, as one batch; as one of every replica where that would copy."""
    n = tensors[0].shape[1]
    if n == 1 or all(t.stride(0) == n * t.stride(1) for t in tensors):
        return iter([[tensor.flatten(0, 1) for tensor in tensors]])
    return zip(*(tensor.unbind() for tensor in tensors), strict=True)
