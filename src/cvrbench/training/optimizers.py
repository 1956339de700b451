"""Optimisers: one for the dense weights, one for the embedding table.

A table of millions of rows of which a batch reads thousands must not cost time for the rest, so
the table has an optimiser that touches only the rows in the batch. Its state is as large as the
table at most, its step is not.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cvrbench.balancing import Balancing
from cvrbench.config.schema import TrainerConfig
from cvrbench.nn import FeatureEncoder
from cvrbench.nn.lookup import gather_rows, summed_rows
from cvrbench.strategies.base import SharingStrategy, UpdateMask


class _Undecorated(Optimizer):
    """Torch's optimiser without its guards against `torch.compile`, which no step is compiled by.

    Their first call imports all of `torch._dynamo`: one and a half seconds of every process.
    """

    add_param_group = Optimizer.add_param_group.__wrapped__  # type: ignore[attr-defined]
    load_state_dict = Optimizer.load_state_dict.__wrapped__  # type: ignore[attr-defined]
    state_dict = Optimizer.state_dict.__wrapped__  # type: ignore[attr-defined]
    zero_grad = Optimizer.zero_grad.__wrapped__  # type: ignore[attr-defined]


class AdamW(_Undecorated, torch.optim.AdamW):
    """Torch's own, over the dense weights."""

    step = torch.no_grad()(torch.optim.AdamW.step.__wrapped__)  # type: ignore[attr-defined]


class Adam(_Undecorated, torch.optim.Adam):
    """Torch's own, over whole tables."""

    step = torch.no_grad()(torch.optim.Adam.step.__wrapped__)  # type: ignore[attr-defined]


class _Masked(_Undecorated):
    """An Adam of which each step may be confined to a part of every parameter."""

    update_mask: UpdateMask
    """Where the next step may move parameters; entries it excludes keep their weight and state."""

    anywhere: UpdateMask
    """Where any step may move parameters. Outside of it `MaskedAdamW` forgets moments and clock, so
    that an entry starts afresh where masks that change let it in again."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Sequence[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__(params, defaults)
        self.update_mask = self.anywhere = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update what has a gradient, where `update_mask` allows."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, self.state[parameter], group)

    def update(self, p: nn.Parameter, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update one parameter and its state."""
        raise NotImplementedError


class MaskedAdamW(_Masked):
    """AdamW whose excluded entries keep their weight, their moments and their clock.

    Every entry counts the steps it took part in, so that it moves as under an AdamW of its own
    (Loshchilov and Hutter, ICLR 2019, algorithm 2). With nothing excluded it is torch's AdamW.
    """

    def update(self, p: nn.Parameter, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update one dense parameter."""
        assert p.grad is not None
        beta1, beta2 = group["betas"]
        if not state:
            # Not "step": torch leaves that key where a checkpoint was read to, the CPU.
            state |= {name: torch.zeros_like(p) for name in ("clock", "mean", "square")}
        if (known := self.anywhere.get(p)) is not None:
            for memory in state.values():
                memory.mul_(known)
        allowed = self.update_mask.get(p)
        here = torch.ones_like(p) if allowed is None else allowed.to(p).expand_as(p)
        state["clock"].add_(here)
        state["mean"].lerp_(p.grad, (1 - beta1) * here)
        state["square"].lerp_(p.grad.square(), (1 - beta2) * here)
        clock = state["clock"].clamp_min(1)
        mean = state["mean"] / (1 - beta1**clock)
        deviation = (state["square"] / (1 - beta2**clock)).sqrt_().add_(group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"] * here)
        p.sub_(group["lr"] * here * mean / deviation)


class RowwiseAdagrad(_Undecorated):
    """Adagrad with one accumulator per row: the mean of the row's squared gradient.

    w_r -= lr * g_r / (sqrt(s_r) + eps),  s_r += mean(g_r ** 2)
    (Duchi et al., JMLR 2011, made row-wise as in FBGEMM's embedding operators).
    """

    update_mask: UpdateMask
    """Where the next step may move the table; other entries count as having no gradient."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "eps": eps})
        self.update_mask = {}

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
                rows, grad, old = _touched(
                    table, group["weight_decay"], self.update_mask.get(table)
                )
                squared = torch.linalg.vecdot(grad, grad).div_(grad.shape[1])
                total = squared.add_(state["sum"].index_select(0, rows))
                state["sum"].index_copy_(0, rows, total)
                rate = total.sqrt_().add_(group["eps"]).reciprocal_().mul_(-group["lr"])
                table.index_copy_(0, rows, old.addcmul_(grad, rate[:, None]))


class LazyAdam(_Masked):
    """Adam whose moments and weights change only for the rows in the batch.

    The bias correction counts all steps, as `torch.optim.SparseAdam` does.
    """

    def update(self, p: nn.Parameter, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update the rows of a table that have a gradient."""
        beta1, beta2 = group["betas"]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        allowed = self.update_mask.get(p)
        rows, grad, old = _touched(p, group["weight_decay"], allowed)
        here = 1.0 if allowed is None else allowed[rows].to(p)
        mean = state["mean"].index_select(0, rows)
        mean += (1 - beta1) * here * (grad - mean)
        square = state["square"].index_select(0, rows)
        square += (1 - beta2) * here * (grad.square() - square)
        state["mean"].index_copy_(0, rows, mean)
        state["square"].index_copy_(0, rows, square)
        corrected = (1 - beta2 ** state["step"]) ** 0.5
        size = group["lr"] * corrected / (1 - beta1 ** state["step"])
        step = mean.div_(square.sqrt_().add_(group["eps"])).mul_(-size * here)
        p.index_copy_(0, rows, old.add_(step))


@dataclass
class Optimizers:
    """The optimisers that together own every parameter of a network and its balancing."""

    dense: Optimizer
    table: Optimizer
    masked: tuple[tuple[nn.Parameter, Tensor, float], ...]
    """Parameters with excluded entries, where they may move, and their decay per step."""
    clip_norm: float | None = None
    """Largest norm of the dense weights' gradient."""
    stacked: bool = False
    """Whether the leading dimension of dense weights are replicas, each with a norm of its own."""
    factor: float = 1.0
    """What the learning rates are multiplied by now."""

    def __post_init__(self) -> None:
        """Note the rates that the schedule is a factor of."""
        self.rates = [[g["lr"] for g in o.param_groups] for o in (self.dense, self.table)]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in (self.dense, self.table):
            optimizer.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        """Multiply the learning rates, and the decay that goes with them, from now on."""
        if factor == self.factor:
            return
        self.factor = factor
        for optimizer, rates in zip((self.dense, self.table), self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def step(self, update_mask: UpdateMask | None = None) -> None:
        """Clip, decay and update; entries that no mask keeps stay exactly where they are.

        Args:
            update_mask: Confines this step (a turn's) further; None where it does not.
        """
        if self.clip_norm is not None:
            parameters = [p for group in self.dense.param_groups for p in group["params"]]
            clip(parameters, self.clip_norm, stacked=self.stacked)
        for parameter, anywhere, decay in self.masked:
            if decay:
                parameter.mul_(1 - self.factor * decay * anywhere)
        if update_mask is not None:
            for optimizer in (self.dense, self.table):
                if isinstance(optimizer, MaskedAdamW | RowwiseAdagrad | LazyAdam):
                    optimizer.update_mask = update_mask
        self.dense.step()
        self.table.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of every part."""
        return [self.dense.state_dict(), self.table.state_dict()]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` gave."""
        for optimizer, state in zip((self.dense, self.table), states, strict=True):
            optimizer.load_state_dict(state)
        self.factor = math.nan  # of whatever step the state is: the next `set_rate` sets them


def build_optimizers(
    network: SharingStrategy, config: TrainerConfig, balancing: Balancing, *, stacked: bool = False
) -> Optimizers:
    """Return a dense optimiser (AdamW) and one for the embedding tables.

    Tables are the parameters of the network's `FeatureEncoder`s; whether their gradient is
    sparse is set here, because the optimiser decides it. Parameters of the balancing are dense and
    without weight decay, which would pull the tasks' weights to a value of its own.
    """
    encoders = [module for module in network.modules() if isinstance(module, FeatureEncoder)]
    for encoder in encoders:
        encoder.sparse = config.embedding_optimizer != "adam"
    tables = [encoder.table for encoder in encoders]
    ids = {id(table) for table in tables}
    dense = [p for p in network.parameters() if id(p) not in ids]
    lr, decay = config.learning_rate, config.weight_decay
    update_mask = network.update_mask()
    table = _table_optimizer(tables, config)
    if isinstance(table, RowwiseAdagrad | LazyAdam):
        table.update_mask = update_mask
    learned = {"params": [*balancing.parameters()], "weight_decay": 0.0}
    if any(turn.update_mask is not None for turn in network.update_steps()):
        parts = [group for group in ({"params": dense}, learned) if group["params"]]
        masked_adamw = MaskedAdamW(parts, lr=lr, weight_decay=decay)
        masked_adamw.anywhere = update_mask
        return Optimizers(masked_adamw, table, (), config.clip_norm, stacked)
    # AdamW would shrink excluded weights too, so theirs is applied apart, by mask.
    masked = tuple((p, where, lr * decay) for p, where in update_mask.items() if id(p) not in ids)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in dense if p not in update_mask], "weight_decay": decay},
        {"params": [p for p, *_ in masked], "weight_decay": 0.0},
        learned,
    ]
    groups = [group for group in groups if group["params"]]
    adamw = AdamW(groups, lr=lr, fused=True)
    return Optimizers(adamw, table, masked, config.clip_norm, stacked)


def clip(parameters: Sequence[nn.Parameter], norm: float, *, stacked: bool) -> None:
    """Scale gradients down in place where their common norm is larger (Pascanu et al., ICML 2013).

    Args:
        parameters: All dense weights; of a stack with the replicas as the first dimension.
        norm: The largest that is left as it is.
        stacked: Whether each replica has a norm of its own.
    """
    if not stacked:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.reshape(len(g), -1).square().sum(dim=1) for g in gradients])
    scale = (norm / (squares.sum(dim=0).sqrt() + 1e-6)).clamp(max=1)  # the constant is torch's
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


def _table_optimizer(tables: Sequence[nn.Parameter], config: TrainerConfig) -> Optimizer:
    lr, decay = config.embedding_learning_rate, config.embedding_weight_decay
    match config.embedding_optimizer:
        case "rowwise_adagrad":
            return RowwiseAdagrad(tables, lr=lr, weight_decay=decay)
        case "lazy_adam":
            return LazyAdam(tables, lr=lr, weight_decay=decay)
        case "adam":
            return Adam(tables, lr=lr, weight_decay=decay, fused=True)
        case _:
            assert_never(config.embedding_optimizer)


def _touched(
    table: Tensor, weight_decay: float, update_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of a table's sparse gradient, their summed gradients, and their weights.

    A gradient includes the decay, and is 0 where a step may not move the table: a task reads only
    what its mask keeps, but a loss along a chain has gradients for what its ancestors keep.
    """
    assert table.grad is not None
    rows, grad = summed_rows(table.grad)
    old = gather_rows(table, rows)
    if weight_decay:
        grad.add_(old, alpha=weight_decay)
    if update_mask is not None:
        grad.mul_(update_mask[rows])
    return rows, grad, old
