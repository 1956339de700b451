"""How many steps a training takes, and when it looks at validation; its rows: `data.sampler`."""

import numpy as np
import numpy.typing as npt


def count_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Steps that a training of `epochs` over `rows` takes; one at least."""
    return max(1, round(-(-rows // batch_size) * epochs))


def evaluation_steps(n_steps: int, per_epoch: int) -> frozenset[int]:
    """Steps of an epoch after which to evaluate: evenly spread, the last always among them."""
    marks: npt.NDArray[np.float64] = np.arange(1, per_epoch + 1) * n_steps / per_epoch
    return frozenset(max(1, round(float(mark))) for mark in marks)
