"""Which rows a training takes at which step, and when it looks at validation."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.rng import derive


def count_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Steps that a training of `epochs` over `rows` takes; one at least."""
    return max(1, round(-(-rows // batch_size) * epochs))


def evaluation_steps(n_steps: int, per_epoch: int) -> frozenset[int]:
    """Steps of an epoch after which to evaluate: evenly spread, the last always among them."""
    marks: npt.NDArray[np.float64] = np.arange(1, per_epoch + 1) * n_steps / per_epoch
    return frozenset(max(1, round(float(mark))) for mark in marks)


def epoch_order(rows: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The epoch's permutation of rows; the same for every strategy under one seed."""
    generator = torch.Generator().manual_seed(derive(seed, "shuffle", epoch))
    return torch.randperm(rows, generator=generator).to(device)
