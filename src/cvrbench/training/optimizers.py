"""Optimisers: one for the dense weights, one for the embedding table.

A table of millions of rows of which a batch reads thousands must not cost time for the rest, so
the table has an optimiser that touches only the rows in the batch. Its state is as large as the
table at most, its step is not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cvrbench.config.schema import TrainerConfig
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies.base import SharingStrategy


class RowwiseAdagrad(Optimizer):
    """Adagrad with one accumulator per row: the mean of the row's squared gradient.

    w_r -= lr * g_r / (sqrt(s_r) + eps),  s_r += mean(g_r ** 2)
    (Duchi et al., JMLR 2011, made row-wise as in FBGEMM's embedding operators).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["sum"] = table.new_zeros(len(table))
                rows, grad, old = _touched(table, group["weight_decay"])
                total = state["sum"].index_select(0, rows) + grad.square().mean(dim=1)
                state["sum"].index_copy_(0, rows, total)
                step = grad.mul_(-group["lr"]).div_(total.sqrt_().add_(group["eps"])[:, None])
                table.index_copy_(0, rows, old.add_(step))


class LazyAdam(Optimizer):
    """Adam whose moments and weights change only for the rows in the batch.

    The bias correction counts all steps, as `torch.optim.SparseAdam` does.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(table)
                    state["square"] = torch.zeros_like(table)
                state["step"] += 1
                rows, grad, old = _touched(table, group["weight_decay"])
                mean = state["mean"].index_select(0, rows).lerp_(grad, 1 - beta1)
                square = state["square"].index_select(0, rows)
                square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                state["mean"].index_copy_(0, rows, mean)
                state["square"].index_copy_(0, rows, square)
                corrected = (1 - beta2 ** state["step"]) ** 0.5
                size = group["lr"] * corrected / (1 - beta1 ** state["step"])
                step = mean.div_(square.sqrt_().add_(group["eps"])).mul_(-size)
                table.index_copy_(0, rows, old.add_(step))


@dataclass(frozen=True)
class Optimizers:
    """The optimisers that together own every parameter of a network."""

    parts: tuple[Optimizer, ...]
    masked: tuple[tuple[nn.Parameter, Tensor, float], ...]
    """Parameters with excluded entries, where they may move, and their decay per step."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.parts:
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> None:
        """Decay and update; entries that no mask keeps stay exactly where they are."""
        for parameter, moving, decay in self.masked:
            if decay:
                parameter.mul_(1 - decay * moving)
        for optimizer in self.parts:
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Give the state of every part."""
        return [optimizer.state_dict() for optimizer in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` gave."""
        for optimizer, state in zip(self.parts, states, strict=True):
            optimizer.load_state_dict(state)


def build_optimizers(network: SharingStrategy, config: TrainerConfig) -> Optimizers:
    """Give a dense optimiser (AdamW) and one for the embedding tables.

    Tables are the parameters of the network's `FeatureEncoder`s; whether their gradient is
    sparse is set here, because the optimiser decides it.
    """
    encoders = [module for module in network.modules() if isinstance(module, FeatureEncoder)]
    for encoder in encoders:
        encoder.sparse = config.embedding_optimizer != "adam"
    tables = [encoder.table for encoder in encoders]
    moving = network.moving()
    apart = {id(p) for p in (*tables, *moving)}
    free = [p for p in network.parameters() if id(p) not in apart]
    lr, decay = config.learning_rate, config.weight_decay
    groups = [{"params": free, "weight_decay": decay}]
    if moving:
        # AdamW would shrink excluded weights too, so theirs is applied apart, by mask.
        groups.append({"params": list(moving), "weight_decay": 0.0})
    dense = torch.optim.AdamW(groups, lr=lr, fused=True)
    masked = tuple((p, where, lr * decay) for p, where in moving.items())
    return Optimizers((dense, _table_optimizer(tables, config)), masked)


def _table_optimizer(tables: list[nn.Parameter], config: TrainerConfig) -> Optimizer:
    lr, decay = config.embedding_learning_rate, config.embedding_weight_decay
    match config.embedding_optimizer:
        case "rowwise_adagrad":
            return RowwiseAdagrad(tables, lr=lr, weight_decay=decay)
        case "lazy_adam":
            return LazyAdam(tables, lr=lr, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(tables, lr=lr, weight_decay=decay, fused=True)
        case _:
            assert_never(config.embedding_optimizer)


def _touched(table: Tensor, weight_decay: float) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows of a table's sparse gradient, their summed gradients and weights."""
    assert table.grad is not None
    # Read without coalesce(): sorting ids alone is several times cheaper than sorting vectors.
    indices, values = table.grad._indices()[0], table.grad._values()
    rows, inverse = torch.unique(indices, return_inverse=True)
    grad = values.new_zeros(len(rows), values.shape[1]).index_add_(0, inverse, values)
    old = table.index_select(0, rows)
    if weight_decay:
        grad.add_(old, alpha=weight_decay)
    return rows, grad, old
