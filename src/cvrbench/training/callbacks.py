"""Progress and evaluations of a running training, and the request to stop it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A moment of a run, for a progress bar.

    Attributes:
        stage: What is being trained: `train`, or `search ctr 1/5`.
        step, total_steps: Optimiser steps done and at most to do in this stage.
        examples_per_second: Rate of this stage so far, evaluations excluded.
        scores: The last validation metrics, none before the first evaluation.
        examples: Rows that the run has computed gradients on, searches included, without those
            that another run had computed.
    """

    stage: str
    step: int
    total_steps: int
    examples_per_second: float
    scores: dict[str, float | None] | None
    examples: int


OnProgress = Callable[[Progress], None]
StopRequested = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on validation during a training."""

    stage: str
    """As in `Progress`."""
    number: int
    """Number of the evaluation within its stage, from 1."""
    metrics: dict[str, float | None]
    examples: int
    """As in `Progress`."""


OnEvaluation = Callable[[Evaluation], None]
"""Called at every evaluation; may raise to end the run."""


def ignore(_: Any) -> None:
    """Do nothing."""


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequested]:
    """Turn the first Ctrl-C into a polite request, so that no step is torn in the middle.

    Yields:
        A function that says whether the user asked to stop. A second Ctrl-C interrupts at once.
    """
    requested = threading.Event()

    def handle(_signum: int, _frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
