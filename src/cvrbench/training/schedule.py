"""How many steps a training takes, when it looks at validation, and its learning rates."""

import math
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt


def count_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Steps that a training of `epochs` over `rows` takes; one at least."""
    return max(1, round(-(-rows // batch_size) * epochs))


def evaluation_steps(n_steps: int, per_epoch: int) -> frozenset[int]:
    """Steps of an epoch after which to evaluate: evenly spread, the last always among them."""
    marks: npt.NDArray[np.float64] = np.arange(1, per_epoch + 1) * n_steps / per_epoch
    return frozenset(max(1, round(float(mark))) for mark in marks)


WARMUP = 0.05
"""Share of the steps over which the rates rise."""


def rate_factor(schedule: Literal["constant", "warmup_cosine"], step: int, steps: int) -> float:
    """Return what the learning rates are multiplied by at a step.

    `warmup_cosine`: rises linearly over the first `WARMUP` of the steps, then falls towards 0 as
    (1 + cos(pi p)) / 2 (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts).

    Args:
        schedule: Name of the schedule.
        step: From 1.
        steps: Of the whole training, should validation not end it sooner.
    """
    match schedule:
        case "constant":
            return 1.0
        case "warmup_cosine":
            rising = math.ceil(WARMUP * steps)
            if step <= rising:
                return step / rising
            progress = (step - rising) / (steps - rising + 1)  # at 0 a last step would do nothing
            return (1 + math.cos(math.pi * progress)) / 2
        case _:
            assert_never(schedule)
