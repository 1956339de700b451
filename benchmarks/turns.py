"""Contenders that take turns, each in a process of its own.

A process of its own, so that nobody's settings of the memory allocator or warm caches serve
another; in turns, so that a slow moment of the machine meets all alike.
"""

import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

Step = Callable[[int], None]
"""One step of training, or one pass of whatever is timed, by its number."""
Build = Callable[..., Step]
"""Makes a step; at the top of a module, so that another process can import it."""
WARM_UP = 3


class Contender:
    """A step in a process of its own, run on demand."""

    def __init__(self, build: Build, *arguments: Any, n_steps: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        given = (build, arguments, n_steps, threads, other)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def seconds(self) -> float:
        """Mean time of a step over one turn."""
        self.pipe.send("go")
        return float(self.pipe.recv())

    def stop(self) -> None:
        """End the process."""
        self.pipe.send("stop")
        self.process.join()


def _serve(
    build: Build, arguments: tuple[Any, ...], n_steps: int, threads: int, pipe: Connection
) -> None:
    """Build a contender, warm it up, and time a turn whenever asked."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = build(*arguments)
    for number in range(WARM_UP):
        step(number)
    pipe.send("ready")
    while pipe.recv() == "go":
        begun = time.perf_counter()
        for number in range(n_steps):
            step(number)
        pipe.send((time.perf_counter() - begun) / n_steps)


def compare(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Time of a step in every turn; the n-th turns of all lie side by side."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            found[name].append(contender.seconds())
    for contender in contenders.values():
        contender.stop()
    return found


def ratio(above: list[float], below: list[float]) -> float:
    """Median of the ratios of turns side by side."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
