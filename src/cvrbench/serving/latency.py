"""The time of a call, several networks side by side in one process."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from cvrbench.data.batches import Features
from cvrbench.strategies.base import SharingStrategy


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sum up at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Latency:
    """Seconds of every call of one network."""

    seconds: tuple[float, ...]

    def spread(self) -> Spread:
        """Median and quartiles of a call's seconds."""
        return Spread.of(self.seconds)

    def ratio_to(self, other: "Latency") -> Spread:
        """Median and quartiles of this network's seconds over the other's, round by round.

        The two calls of a round are neighbours in time, so that a slow moment of the machine
        meets both.
        """
        return Spread.of([a / b for a, b in zip(self.seconds, other.seconds, strict=True)])


class Contender(NamedTuple):
    """A network, and the batch that it is given."""

    network: SharingStrategy
    features: Features


def measure_latency(
    contenders: Sequence[Contender], *, rounds: int = 100, warm_up: int = 10, threads: int = 1
) -> list[Latency]:
    """Time networks against each other in one process: each is timed once a round.

    Args:
        contenders: Networks and batches. They take turns in going first.
        rounds: Calls of each that count.
        warm_up: Rounds before, which do not.
        threads: Of torch, for the time of the measurement.
    """
    n = len(contenders)
    seconds: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        contender.network.eval()
    with torch.inference_mode(), _threads(threads):
        for number in range(-warm_up, rounds):
            for place in range(n):
                which = (number + place) % n
                network, features = contenders[which]
                network(features)  # so that what lies in the cache is its own, not its neighbour's
                begun = time.perf_counter()
                network(features)
                taken = time.perf_counter() - begun
                if number >= 0:
                    seconds[which].append(taken)
    return [Latency(tuple(times)) for times in seconds]


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
