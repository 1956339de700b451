"""How many multiply-adds a computation takes, counted as it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_multiply_adds(compute: Callable[[], object]) -> int:
    """Run `compute` without gradients; return the multiply-adds of its matrix products.

    By torch's own formulas. Look-ups and elementwise operations count nothing.
    """
    with torch.no_grad(), _Counter() as counter:
        compute()
    multiply_adds: int = counter.flops // 2
    return multiply_adds


class _Counter(TorchDispatchMode):
    """As torch's `FlopCounterMode`, which would import torch's compiler: 1.5 s of every process."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is ever compiled

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
