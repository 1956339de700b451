"""How many bytes of tensors are alive while code runs that only pretends to compute.

Under torch's fake tensors every operation gives shapes, types and lifetimes, and no numbers: code
runs in milliseconds whatever the sizes are, and what it would hold at each moment can be counted.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_)
LARGE = 1 << 30
"""Bytes of a block that the C library maps apart, and gives back (`cvrbench.memory`)."""


ELSEWHERE = "elsewhere"
"""Part of what has a shape and lies on disk."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage from when an operation makes it until nobody holds it.

    What depends on numbers is answered by what is expected of them: a scalar that is read is 1,
    and operations whose result has as many rows as the numbers say ask `rows`.
    """

    def __init__(self, rows: Mapping[str, Callable[[int], int]], *, host: bool) -> None:
        """Begin to count.

        Args:
            host: Whether the tensors are in the host's memory, where other things are, too.
            rows: `unique` and `repeated`: length of the argument -> length of the result.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.host = host
        self.rows = rows
        self.part = "other"
        self.now: Counter[str] = Counter()
        self.total = 0
        self.peak_total = 0
        self.peak: dict[str, int] = {}
        """Part -> bytes, at the moment when their sum was largest."""
        self.largest: Counter[str] = Counter()
        """Part -> most bytes that it held at any moment, blocks of `LARGE` left out."""
        self._small: Counter[str] = Counter()
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Pretend one operation, and count what is new."""
        result = self._expected(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._note(leaf)
        return result

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what is made meanwhile under a name."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def beside(self, part: str, n_bytes: int) -> Iterator[None]:
        """Count memory of the host that is no tensor's."""
        if not self.host:
            yield
            return
        self._add(part, n_bytes)
        try:
            yield
        finally:
            self._drop(part, n_bytes, None)

    def _expected(self, func: Any, args: tuple[Any, ...]) -> Any:
        if func is ATEN._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if func is ATEN._unique2.default:
            found, n = args[0], self.rows["unique"](len(args[0]))
            return found.new_empty(n), torch.empty_like(found), found.new_empty(0)
        if func is ATEN.nonzero.default:
            found = args[0]
            n = self.rows["unique"](len(found))
            return torch.empty(n, found.dim(), dtype=torch.int64, device=found.device)
        if func is ATEN.repeat_interleave.Tensor:
            return args[0].new_empty(self.rows["repeated"](len(args[0])))
        return None

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not storage.nbytes() or self.part == ELSEWHERE:
            return
        self._known.add(key)
        n_bytes, part = storage.nbytes(), self.part
        self._add(part, n_bytes)
        weakref.finalize(storage, self._drop, part, n_bytes, key)

    def _add(self, part: str, n_bytes: int) -> None:
        self.now[part] += n_bytes
        self.total += n_bytes
        if n_bytes < LARGE:
            self._small[part] += n_bytes
            self.largest[part] = max(self.largest[part], self._small[part])
        if self.total > self.peak_total:
            self.peak_total = self.total
            self.peak = {name: n for name, n in self.now.items() if n}

    def _drop(self, part: str, n_bytes: int, key: int | None) -> None:
        self.now[part] -= n_bytes
        self.total -= n_bytes
        if n_bytes < LARGE:
            self._small[part] -= n_bytes
        if key is not None:
            self._known.discard(key)


class _Copies(TorchFunctionMode):
    """Has `copy.deepcopy` copy pretended tensors by an operation, since they have no bytes."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            copied = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                copied = nn.Parameter(copied, tensor.requires_grad)
            return memo.setdefault(id(tensor), copied)
        return func(*args, **(kwargs or {}))


class Undrawn(TorchFunctionMode):
    """Leaves initial values out: torch would import its compiler to pretend to draw them."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call all but draws."""
        if func in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def pretending(
    rows: Mapping[str, Callable[[int], int]], *, host: bool = True
) -> Iterator[LiveBytes]:
    """Within the block tensors have shapes, and no memory; see `LiveBytes`."""
    live = LiveBytes(rows, host=host)
    with torch.random.fork_rng(devices=()), FakeTensorMode(), live, _Copies():
        yield live
