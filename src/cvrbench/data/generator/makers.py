"""Who makes the shards: this process, or several that each build the same world."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol

from cvrbench.data.generator.options import GeneratorConfig
from cvrbench.data.generator.shard import Shard, ShardPlan, generate_shard
from cvrbench.data.generator.truth import Plan, calibrate
from cvrbench.data.generator.world import World, build
from cvrbench.errors import DataError

WAITING = 2
"""Shards begun per worker before the first of them is taken: bounds the memory of those waiting."""


class Maker(Protocol):
    """Draws a world's plan and shards."""

    def calibrate(self) -> Plan:
        """Find the intercepts."""
        ...

    def shards(self, plan: Plan, at: Sequence[ShardPlan]) -> Iterator[Shard]:
        """Yield shards in the order of their plans."""
        ...


class _Here:
    """This process does it."""

    def __init__(self, config: GeneratorConfig) -> None:
        self._config = config
        self._world = build(config.seed, config.card)

    def calibrate(self) -> Plan:
        return calibrate(self._world, self._config)

    def shards(self, plan: Plan, at: Sequence[ShardPlan]) -> Iterator[Shard]:
        for one in at:
            yield generate_shard(self._world, self._config, plan, one)


class _Pool:
    """Other processes do it."""

    def __init__(self, executor: ProcessPoolExecutor, workers: int) -> None:
        self._executor = executor
        self._waiting = WAITING * workers

    def calibrate(self) -> Plan:
        return self._executor.submit(_calibrate).result()

    def shards(self, plan: Plan, at: Sequence[ShardPlan]) -> Iterator[Shard]:
        waiting: deque[Future[Shard]] = deque()
        for one in at:
            waiting.append(self._executor.submit(_shard, plan, one))
            if len(waiting) >= self._waiting:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def makers(config: GeneratorConfig, workers: int) -> Iterator[Maker]:
    """Give a maker of shards; what it makes does not depend on `workers`.

    Raises:
        DataError: A worker died.
    """
    if workers == 1:
        yield _Here(config)
        return
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(config,),
    )
    try:
        yield _Pool(executor, workers)
    except BrokenProcessPool:
        raise DataError(
            f"one of {workers} generating processes died, most likely for want of memory: use "
            "fewer workers, or a smaller card"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


_here: dict[str, tuple[World, GeneratorConfig]] = {}
"""In a worker: the world that it draws from, built once."""


def _begin(config: GeneratorConfig) -> None:
    _here["world"] = build(config.seed, config.card), config


def _calibrate() -> Plan:
    return calibrate(*_here["world"])


def _shard(plan: Plan, at: ShardPlan) -> Shard:
    return generate_shard(*_here["world"], plan, at)
