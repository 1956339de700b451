"""The next thing made by a thread while the last one is used."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cvrbench.threads import compute_alone

Item = TypeVar("Item")


def prefetch(items: Iterator[Item]) -> Generator[Item]:
    """Give what an iterator gives, the next one made by a thread while this one is used.

    What the iterator raises is raised where its item was due. Close the generator to end the
    thread, which computes with no others: were there more threads than processors, OpenMP would
    let all of them sleep between two operations, and a step of a small network would take twice
    as long.
    """
    over = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead", initializer=compute_alone) as pool:
        coming = pool.submit(next, items, over)
        while (item := coming.result()) is not over:
            coming = pool.submit(next, items, over)
            yield item  # type: ignore[misc]
