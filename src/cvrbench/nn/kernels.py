"""Dropout, and the linear maps of networks of several runs that are computed as one program.

`training.stacked` stacks the weights of networks of one structure and runs their common code under
`torch.vmap`. What torch makes of a linear map there copies inputs and adds biases in passes of
their own, and a random draw is one of all networks; here a map costs what it costs alone, and every
network draws from its own generator what it would draw alone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack

LEVELS = 1 << 16
"""Values of the 16 random bits that decide about one unit."""


class _Drawing(threading.local):
    generators: Sequence[torch.Generator] = ()
    """Generators of the stacked networks, in their order."""


_drawing = _Drawing()


@contextmanager
def drawing_from(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Let every network of a stack draw from its own generator."""
    before, _drawing.generators = _drawing.generators, generators
    try:
        yield
    finally:
        _drawing.generators = before


def is_stacked(tensor: Tensor) -> bool:
    """Whether a tensor is that of several networks, under `torch.vmap`."""
    return _functorch.is_batchedtensor(tensor)


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """n linear maps of every network of a stack; shapes are those of one.

    Args:
        x: `[batch, in]` or `[1, batch, in]` read by all maps, or `[n, batch, in]`, one input each.
        weight: `[n, in, out]`.
        bias: `[n, 1, out]` or `[1, 1, out]`.
        relu: Whether the result is rectified.

    Returns:
        `[n, batch, out]`.
    """
    common = x.dim() == 2 or (len(x) == 1 and len(weight) > 1)
    kind = _CommonInputs if common and len(weight) > 1 else _OwnInputs
    x = x.reshape(-1, *x.shape[-2:]) if kind is _OwnInputs else x.reshape(x.shape[-2:])
    return _of_all(partial(_apply, kind, relu=relu), x, weight, bias)


def _apply(kind: Any, x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    result: Tensor = kind.apply(x, weight, bias, relu)
    return result


def dropout(x: Tensor, share: float) -> Tensor:
    """Zero a random share of units, and scale the others so that the mean stays.

    As `F.dropout`, in a fraction of its time on a CPU: 16 bits decide about a unit, so that the
    share is rounded to a multiple of 1 / 65536.
    """
    if is_stacked(x):
        return _of_all(partial(_dropout_of_all, share=share), x)
    return _thinned(x, _bits(x[None], [None])[0], share)


def _dropout_of_all(x: Tensor, *, share: float) -> Tensor:
    """`[networks, ...]`, thinned by what every network draws."""
    return _thinned(x, _bits(x, _drawing.generators), share)


def _bits(x: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """16 random bits for every entry of `[networks, ...]`, int16; four cost one draw of 64."""
    n = x[0].numel()
    words = torch.empty(len(x), -(-n // 4), dtype=torch.int64, device=x.device)
    for own, generator in zip(words, generators, strict=True):
        own.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:, :n].reshape(x.shape)


def _thinned(x: Tensor, bits: Tensor, share: float) -> Tensor:
    result: Tensor = _Thinned.apply(x, bits, share)  # type: ignore[no-untyped-call]
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


class _OwnInputs(torch.autograd.Function):
    """`[networks, n, batch, in]` with `[networks, n, in, out]` -> `[networks, n, batch, out]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        ctx.bias_shape = bias.shape
        y = x.new_empty(*x.shape[:3], weight.shape[3])
        for own_y, *own in _products(y, bias.expand(*weight.shape[:2], 1, -1), x, weight):
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
        grad_bias = grad.sum(dim=2, keepdim=True).sum_to_size(ctx.bias_shape)
        return grad_x, grad_weight, grad_bias, None


def _products(*tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """`[networks, n, ...]` each, as one batch; as one of every network where that would copy."""
    n = tensors[0].shape[1]
    if n == 1 or all(t.stride(0) == n * t.stride(1) for t in tensors):
        return iter([[tensor.flatten(0, 1) for tensor in tensors]])
    return zip(*(tensor.unbind() for tensor in tensors), strict=True)


class _CommonInputs(torch.autograd.Function):
    """`[networks, batch, in]` with `[networks, n, in, out]` -> `[networks, n, batch, out]`.

    As `nn.parallel_linear` of one network: the maps side by side are one product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        n_networks, n, n_in, n_out = weight.shape
        side_by_side = weight.transpose(1, 2).reshape(n_networks, n_in, n * n_out)
        of_all = bias.expand(n_networks, n, 1, n_out).reshape(n_networks, 1, -1)
        y = torch.baddbmm(of_all, x, side_by_side)  # [networks, batch, n * out]
        ctx.save_for_backward(x, side_by_side, y.relu_() if relu else None)
        ctx.n, ctx.bias_shape = n, bias.shape
        return y.view(n_networks, -1, n, n_out).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        n_networks, n, batch, n_out = grad.shape
        grad = grad.transpose(1, 2)
        if y is not None:
            out = grad.new_empty(grad.shape)
            y = y.view(grad.shape)
            torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=out)
            grad = out
        grad = grad.reshape(n_networks, batch, n * n_out)
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)  # bf16 under autocast
        if n * n_out < x.shape[2]:  # the smaller side first, as one network alone does
            grad_weight = torch.bmm(grad.mT, x).view(n_networks, n, n_out, -1).transpose(2, 3)
        else:
            grad_weight = torch.bmm(x.mT, grad).view(n_networks, -1, n, n_out).transpose(1, 2)
        grad_bias = grad.sum(dim=1).view(n_networks, n, 1, n_out).sum_to_size(ctx.bias_shape)
        return torch.bmm(grad, weight.mT), grad_weight, grad_bias, None


def _of_all(operation: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Leave `torch.vmap` for one operation of stacked tensors, `[networks, ...]` each.

    The public way, an `autograd.Function` with a rule for vmap, does the same in a millisecond of
    Python, which is as long as the operation takes.
    """
    level = _functorch.maybe_current_level()
    assert level is not None
    unwrapped = [_functorch._unwrap_batched(tensor, level) for tensor in tensors]
    n = next(value.shape[dim] for value, dim in unwrapped if dim is not None)
    stacked = [
        value.expand(n, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in unwrapped
    ]
    with temporarily_pop_interpreter_stack():
        result = operation(*stacked)
    return _functorch._add_batch_dim(result, 0, level)
