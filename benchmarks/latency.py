"""The time of a call, several networks side by side in one process."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import nn

from cvrbench.data.batches import Features, SplitTensors
from cvrbench.data.dataset import Bag, Split
from cvrbench.data.schema import Schema
from cvrbench.serving.compaction import Savings, task_network


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

    network: nn.Module
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


def select(features: Features, schema: Schema, kept: Schema) -> Features:
    """Take of a batch what a network reads that was left with fewer fields.

    Args:
        features: By the fields of `schema`.
        schema: Of the trained network.
        kept: Of the compacted one; its fields are some of `schema`'s, in the same order.
    """
    old, new = schema.starts, kept.starts
    device = features.rows.device
    batch = features.rows.shape[0]
    columns = [i for i, field in enumerate(schema.categorical) if field.name in new]
    names = [field.name for field in kept.categorical]
    shift = torch.tensor([old[n] - new[n] for n in names], dtype=torch.int64, device=device)
    bags = {field.name: position for position, field in enumerate(kept.multivalued)}
    position = [bags.get(field.name, -1) for field in schema.multivalued]
    bag_shift = [old[field.name] - new.get(field.name, 0) for field in schema.multivalued]
    field_of = features.bag_segments // max(batch, 1)
    to = torch.tensor(position, dtype=torch.int64, device=device)[field_of]  # [values]
    down = torch.tensor(bag_shift, dtype=torch.int64, device=device)[field_of]
    stay = to >= 0
    segments = to * batch + features.bag_segments % max(batch, 1)
    known = {field.name for field in kept.numeric}
    numbers = [i for i, field in enumerate(schema.numeric) if field.name in known]
    return Features(
        rows=features.rows[:, columns] - shift,
        bag_rows=(features.bag_rows - down)[stay],
        bag_weights=features.bag_weights[stay],
        bag_segments=segments[stay],
        numeric=features.numeric[:, numbers],
    )


def first_rows(split: Split, schema: Schema, n: int) -> Features:
    """Read the first rows of a split, `n` or as many as there are, and little else of it."""
    n = min(n, len(split))
    contexts = None if split.contexts is None else split.contexts[:n]

    def head(bag: Bag, *, shared: bool) -> Bag:
        last = n if contexts is None or not shared else int(contexts.max()) + 1
        end = int(bag.offsets[last])
        return Bag(bag.offsets[: last + 1], bag.ids[:end], bag.weights[:end])

    fields = zip(split.bags, schema.multivalued, strict=True)
    short = replace(
        split,
        ids=split.ids[:n],
        numeric=split.numeric[:n],
        labels=split.labels[:n],
        bags=tuple(head(bag, shared=field.shared) for bag, field in fields),
        contexts=contexts,
    )
    rows = SplitTensors.load(short, schema, torch.device("cpu"))
    return rows.gather(torch.arange(n)).features


def measure_savings(
    network: nn.Module, schema: Schema, savings: Savings, split: Split, n: int, *, rounds: int
) -> tuple[Latency, ...]:
    """Time one task's networks on the first `n` rows: as trained, masked and compacted."""
    features = first_rows(split, schema, n)
    (task, compaction), *_ = savings.compactions.items()
    masked = task_network(network, schema, [t.name for t in schema.tasks].index(task))
    small = compaction.network
    contenders = [
        Contender(network, features),
        Contender(masked, features),
        Contender(small, select(features, schema, small.schema)),
    ]
    return tuple(measure_latency(contenders, rounds=rounds))
