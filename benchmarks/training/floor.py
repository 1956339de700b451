"""What no program that trains the network can go below, each part at the rate measured here.

The step's matrix products alone, forward and backward, on ready tensors and into ready results:
those with few columns (gates, heads), which a library computes slowly, at the others' rate. And
the bytes of its embedding vectors at the rate of the fastest gather known: every value's vector
once forward and its gradient once backward, every distinct id's row read and written by the
optimiser.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from benchmarks.training.shapes import Shape, draw

from cvrbench.nn.lookup import gather_rows
from cvrbench.system.machine import keep_freed_memory

Product = tuple[int, int, int]
FEW_COLUMNS = 16


def products(strategy: str, shape: Shape) -> list[Product]:
    """Rows, inner and outer size of every forward matrix product of a step."""
    batch, width, hidden, tower = shape.batch, shape.width, shape.hidden, shape.tower
    sizes = list(pairwise((width, *hidden)))
    n_networks = {"shared_bottom": 1, "mmoe": shape.n_experts, "ple": 3}.get(strategy, 2)
    experts = [(batch, n_in, n_out) for n_in, n_out in sizes for _ in range(n_networks)]
    n_mixed = {"mmoe": shape.n_experts, "ple": 2}.get(strategy, 0)
    gates = [(batch, width, n_mixed)] * 2 if n_mixed else []
    chain = (hidden[-1], *tower, 1)
    towers = [(batch, n_in, n_out) for n_in, n_out in pairwise(chain)] * 2
    # What one task takes of the other: its information, and query, key and value of two vectors.
    k = hidden[-1]
    transfers = [(batch, k, k), *[(2 * batch, k, k)] * 3] if strategy == "aitm" else []
    return experts + gates + transfers + towers


def build(strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    """Give a step that only multiplies and moves embedding vectors."""
    keep_freed_memory()
    multiply = _multiply(strategy, shape)
    move = _move(shape, n_batches, copies=2 if strategy == "single_task" else 1)

    def step(number: int) -> None:
        multiply()
        move(number)

    return step


def _multiply(strategy: str, shape: Shape) -> Callable[[], None]:
    """Multiply what is wide, with as many more rows as make up for the rest."""
    every = products(strategy, shape)
    wide = [product for product in every if product[2] >= FEW_COLUMNS]
    more = sum(map(math.prod, every)) / sum(map(math.prod, wide))
    sizes = [(round(rows * more), n_in, n_out) for rows, n_in, n_out in wide]
    ready = [(torch.randn(m, k), torch.randn(k, n), torch.randn(m, n)) for m, k, n in sizes]
    out = [(torch.empty(m, n), torch.empty(m, k), torch.empty(k, n)) for m, k, n in sizes]

    def multiply() -> None:
        for (x, weight, grad), (y, grad_x, grad_weight) in zip(ready, out, strict=True):
            torch.mm(x, weight, out=y)
            torch.mm(grad, weight.T, out=grad_x)
            torch.mm(x.T, grad, out=grad_weight)

    return multiply


def _move(shape: Shape, n_batches: int, *, copies: int) -> Callable[[int], None]:
    """Gather, of a table of the same size, as many rows as a step must read or write."""
    starts = np.cumsum([0, *shape.sizes])[:-1]
    rows = torch.from_numpy(draw(shape, n_batches).ids + starts)
    size = sum(shape.sizes)
    shifts = torch.arange(copies, device="cpu")[:, None] * size
    table = torch.randn(copies * size, shape.dim)
    read = []
    for batch in rows.split(shape.batch):
        values = (batch.reshape(-1) + shifts).reshape(-1)
        distinct = torch.unique(values)
        # Forward, backward; read and written by the optimiser.
        read.append(torch.cat([values, values, distinct, distinct]).to(table.device))

    def move(number: int) -> None:
        gather_rows(table, read[number % len(read)])

    return move
