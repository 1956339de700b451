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

from cvrbench.data.batches import Features
from cvrbench.data.schema import Schema


class FeatureEncoder(nn.Module):
    """Embeds every field and lines the vectors up with the numeric features.

    One table serves all fields. A multi-valued field is the weighted mean or sum of its values.
    `copies` tables of their own (one per task in `single_task`) lie behind each other in the
    same parameter, so that they still cost one gather and one optimiser step.

    Shape: features -> `[batch, width]`, or `[copies, batch, width]` with more than one copy.
    """

    sums: Tensor

    def __init__(self, schema: Schema, embedding_dim: int, *, copies: int = 1) -> None:
        super().__init__()
        self.copies = copies
        self.vocabulary_size = schema.vocabulary_size
        self.embedding_dim = embedding_dim
        self.n_multivalued = len(schema.multivalued)
        sums = torch.tensor([field.pool == "sum" for field in schema.multivalued], dtype=torch.bool)
        self.register_buffer("sums", sums.reshape(-1, 1), persistent=False)
        n_fields = len(schema.categorical) + self.n_multivalued
        self.width = n_fields * embedding_dim + len(schema.numeric)
        self.table = nn.Parameter(torch.empty(copies * self.vocabulary_size, embedding_dim))
        nn.init.normal_(self.table, std=0.01)
        self.sparse = True
        """Whether the table's gradient holds the batch's rows only; the optimiser decides."""

    def forward(self, features: Features, keep: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            features: Of the batch.
            keep: `[tasks, vocabulary, dim]`, which entries of a common table each task reads; the
                result is then `[tasks, batch, width]`.
        """
        batch, n_categorical = features.rows.shape
        rows = features.rows.reshape(-1)
        if self.n_multivalued:
            rows = torch.cat([rows, features.bag_rows])
        n = len(rows)
        if self.copies > 1:
            shift = torch.arange(self.copies, device=rows.device) * self.vocabulary_size
            rows = (rows + shift[:, None]).reshape(-1)
        vectors = F.embedding(rows, self.table, sparse=self.sparse)
        vectors = vectors.view(self.copies, n, self.embedding_dim)
        if keep is not None:
            vectors = vectors * keep[:, rows]
        copies, n_single = len(vectors), batch * n_categorical
        parts = [vectors[:, :n_single].reshape(copies, batch, -1)]
        if self.n_multivalued:
            parts.append(self._pool(vectors[:, n_single:], features, batch))
        if features.numeric.shape[1]:
            parts.append(features.numeric.expand(copies, batch, -1))
        encoded = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return encoded if copies > 1 else encoded.squeeze(0)

    def _pool(self, values: Tensor, features: Features, batch: int) -> Tensor:
        """Weighted means or sums: `[copies, values, dim]` -> `[copies, batch, fields*dim]`."""
        n_bags = self.n_multivalued * batch
        weights, segments = features.bag_weights, features.bag_segments
        total = weights.new_zeros(n_bags).index_add(0, segments, weights).clamp_min(1e-12)
        total = total.view(-1, batch).masked_fill(self.sums, 1.0).view(-1)
        scaled = values * (weights / total[segments])[:, None]
        copies = len(values)
        pooled = values.new_zeros(copies, n_bags, self.embedding_dim)
        pooled = pooled.index_add(1, segments, scaled)
        pooled = pooled.view(copies, self.n_multivalued, batch, self.embedding_dim)
        return pooled.transpose(1, 2).reshape(copies, batch, -1)


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
        x = F.relu_(parallel_linear(x, weight, bias))
        if dropout:
            x = F.dropout(x, dropout)
    return x


def parallel_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """n linear maps: `[batch, in]` or `[n, batch, in]` with `[n, in, out]` -> `[n, batch, out]`."""
    n_in, n_out = weight.shape[1:]
    n = max(len(weight), bias.numel() // n_out, len(x) if x.dim() == 3 else 1)
    if n == 1:
        return torch.addmm(bias.view(-1), x.view(-1, n_in), weight[0]).view(1, -1, n_out)
    weight = weight.expand(n, n_in, n_out)  # one matrix may serve networks that differ elsewhere
    if x.dim() == 3 and len(x) > 1:
        return torch.baddbmm(bias.expand(n, 1, n_out), x, weight)
    common = x[0] if x.dim() == 3 else x
    result: Tensor = _CommonInputLinear.apply(common, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _CommonInputLinear(torch.autograd.Function):
    """n linear maps of one input, without the copies of `[n, batch, in]` autograd would make."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_shape = bias.shape
        return torch.baddbmm(bias.expand(len(weight), 1, -1), x.expand(len(weight), -1, -1), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = (saved.to(grad.dtype) for saved in ctx.saved_tensors)  # bf16 under autocast
        grad_x = grad[0] @ weight[0].T
        for g, w in zip(grad[1:], weight[1:], strict=True):
            grad_x = grad_x.addmm_(g, w.T)
        grad_weight = torch.bmm(x.T.expand(len(weight), -1, -1), grad)
        return grad_x, grad_weight, grad.sum(dim=1, keepdim=True).sum_to_size(ctx.bias_shape)


class ParallelMLP(nn.Module):
    """n networks of one shape with weights of their own; see `parallel_mlp`."""

    def __init__(self, n: int, n_in: int, widths: Sequence[int], *, dropout: float) -> None:
        super().__init__()
        self.n, self.dropout = n, dropout
        self.n_out = widths[-1] if widths else n_in
        sizes = [n_in, *widths]
        self.weights = nn.ParameterList([_weight(n, i, o) for i, o in pairwise(sizes)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n, 1, o)) for o in widths])

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in]` or `[n, batch, in]` -> `[n, batch, out]`."""
        dropout = self.dropout if self.training else 0.0
        return parallel_mlp(x, list(self.weights), list(self.biases), dropout=dropout)


class Towers(nn.Module):
    """One tower and one logit per task.

    Shape: `[batch, in]` or `[1, batch, in]` read by all towers, or `[tasks, batch, in]` -> logits
    `[batch, tasks]`.
    """

    def __init__(self, n_tasks: int, n_in: int, widths: Sequence[int], *, dropout: float) -> None:
        super().__init__()
        self.network = ParallelMLP(n_tasks, n_in, widths, dropout=dropout)
        self.head = _weight(n_tasks, self.network.n_out, 1)
        self.bias = nn.Parameter(torch.zeros(n_tasks))

    def forward(self, x: Tensor) -> Tensor:
        """Give the tasks' logits."""
        if x.dim() == 3 and len(x) == 1:
            x = x[0]
        x = self.network(x)
        if x.dim() == 2:
            return x @ self.head[:, :, 0].T + self.bias
        return torch.bmm(x, self.head).squeeze(2).T + self.bias


class Gates(nn.Module):
    """Softmax gates without bias or normalisation: `g(x) = softmax(W x)` (Ma et al. 2018, eq. 7).

    Shape: `[batch, in]` read by all gates, or `[n, batch, in]` -> `[n, batch, experts]`.
    """

    def __init__(self, n: int, n_in: int, n_experts: int) -> None:
        super().__init__()
        self.weight = _weight(n, n_in, n_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Give each gate's mixture, which sums to 1 over the experts."""
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


def _weight(n: int, n_in: int, n_out: int) -> nn.Parameter:
    """n Glorot-uniform matrices `[n, in, out]`."""
    bound = math.sqrt(6 / (n_in + n_out))
    return nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))
