"""Look-ups in an embedding table whose gradient holds each row of the batch once.

    vectors_i = table[rows_i],    pooled_b = sum over the values v of bag b of  w_v * table[rows_v]

On a CPU both are `F.embedding_bag`, whose kernel fetches ahead from memory, and so is the gradient:
the row r of the table gets

    sum over i with rows_i = r of  dL/dvectors_i
    sum over v with rows_v = r of  w_v * dL/dpooled_b,    b the bag of v

after one stable sort of the ids, so that no vector per value of a bag is ever made, and every sum
has one order, whatever the number of threads.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name every torch user expects

MOST_SHORT_IDS = 2**31 - 1
"""Rows of a table that 32 bits can number; such ids are sorted twice as fast."""


class Bags(NamedTuple):
    """Values that are pooled, bag after bag."""

    rows: Tensor
    """`[values]`, of the table."""
    weights: Tensor
    """`[values]`."""
    segments: Tensor
    """`[values]`, the bag of each, ascending."""
    n: int
    """How many bags there are; some may be empty, and pool to 0."""


class Runs(NamedTuple):
    """Ids in order."""

    rows: Tensor
    """`[distinct]` int64: the distinct ids, ascending."""
    order: Tensor
    """`[ids]`: the places sorted by their id, and by themselves within one."""
    starts: Tensor
    """`[distinct]`: where each id's places begin in `order`."""


def has_kernel(table: Tensor) -> bool:
    """Whether look-ups in this table can be done here: on a CPU, outside of a compiler's trace."""
    on_cpu = table.device.type == "cpu" and table.is_contiguous()  # else the kernel copies it all
    return on_cpu and not torch.compiler.is_compiling()


def look_up(table: Tensor, rows: Tensor, bags: Bags | None) -> tuple[Tensor, Tensor | None]:
    """Take rows of a table, and weighted sums of others: `[n, dim]` and `[bags, dim]`."""
    found: tuple[Tensor, Tensor | None] = _LookUp.apply(table, rows, bags)  # type: ignore[no-untyped-call]
    return found


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Copy rows of a table, without a gradient: `[n, dim]`."""
    if not has_kernel(table):
        return table.detach().index_select(0, rows)
    each = torch.arange(len(rows), dtype=rows.dtype)
    return F.embedding_bag(rows, table.detach(), each, mode="sum")


def sort_runs(ids: Tensor, n_rows: int) -> Runs:
    """Sort the ids of a batch, `[n]` in `[0, n_rows)`."""
    ordered, order, is_first = _sorted(ids.int() if n_rows <= MOST_SHORT_IDS else ids)
    starts = is_first.nonzero().view(-1)
    return Runs(ordered.index_select(0, starts).long(), order, starts)


def summed_rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a table's sparse gradient and the sums of their values: `[n]`, `[n, dim]`.

    Faster than `coalesce()`, which sorts and sums vectors. On a CPU every row is there once. On a
    GPU, which would have to tell the host how many there are, a row may be there several times,
    each time with its sum.
    """
    rows, values = grad._indices()[0], grad._values()
    if grad.is_coalesced():
        return rows, values
    if grad.device.type == "cpu":
        runs = sort_runs(rows, len(grad))
        return runs.rows, F.embedding_bag(runs.order, values, runs.starts, mode="sum")
    return _summed_in_place(rows, values)


def _summed_in_place(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Every place's sum over all places of its row, in one fixed order, by shapes known before."""
    n = len(rows)
    ordered, order, is_first = _sorted(rows)
    run = is_first.cumsum(0) - 1  # [n], which distinct row a place has
    places = torch.arange(n, device=rows.device)
    # Runs that are not there are empty and lie behind the others; the last entry is for no one.
    starts = rows.new_full((n + 1,), n).scatter_(0, torch.where(is_first, run, n), places)[:n]
    sums = F.embedding_bag(order, values, starts, mode="sum")
    return ordered, sums.index_select(0, run)


def _sorted(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids in order, the place of each, and whether it is the first of its kind: `[n]` each."""
    ordered, order = torch.sort(ids, stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered, order, is_first


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, rows: Tensor, bags: Bags | None
    ) -> tuple[Tensor, Tensor | None]:
        ctx.bags, ctx.shape = bags, table.shape
        ctx.save_for_backward(rows)
        pooled = None
        if bags is not None:
            begins = torch.searchsorted(bags.segments, torch.arange(bags.n))
            pooled = F.embedding_bag(
                bags.rows, table.detach(), begins, mode="sum", per_sample_weights=bags.weights
            )
        return gather_rows(table, rows), pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor, of_pooled: Tensor | None) -> tuple[Tensor, None, None]:
        (ids,), bags, weights = ctx.saved_tensors, ctx.bags, None
        runs = sort_runs(ids if bags is None else torch.cat([ids, bags.rows]), ctx.shape[0])
        source = runs.order
        if bags is not None:
            # Each place reads the gradient of its vector, or that of its bag.
            source = torch.cat([torch.arange(len(ids)), bags.segments + len(ids)])[runs.order]
            weights = torch.cat([grad.new_ones(len(ids)), bags.weights])[runs.order]
            assert of_pooled is not None
            grad = torch.cat([grad, of_pooled])
        summed = F.embedding_bag(
            source, grad.contiguous(), runs.starts, mode="sum", per_sample_weights=weights
        )
        sparse = torch.sparse_coo_tensor(
            runs.rows[None], summed, ctx.shape, check_invariants=False, is_coalesced=True
        )
        return sparse, None, None
