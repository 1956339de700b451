"""Somebody who looks at a study while workers are at it, and keeps its summary up to date."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cvrbench.errors import CvrbenchError, StoreError
from cvrbench.studies import StudySummary
from cvrbench.sweep.plan import Plan
from cvrbench.sweep.study import open_study
from cvrbench.sweep.summary import summarize

EVERY = 1.0
"""Seconds between two looks."""

OnSummary = Callable[[StudySummary], None]


@contextmanager
def watching(plan: Plan, on_summary: OnSummary) -> Iterator[None]:
    """Look at a study every second while the block runs, and once more when it ends.

    Every change is written to the study's folder and told.
    """
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(plan, on_summary, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(plan: Plan, on_summary: OnSummary, done: threading.Event) -> None:
    last: StudySummary | None = None
    try:
        opened = open_study(plan)
    except CvrbenchError:
        return
    while True:
        ended = done.wait(EVERY)
        try:
            now = summarize(plan, opened, chosen_before(plan))
            if now != last:
                plan.folder.write(now)
                on_summary(now)
                last = now
        except Exception:
            logging.getLogger(__name__).debug("a look at %s failed", plan.name, exc_info=True)
            # The workers meet the same trouble and say so; the next look may be better.
        if ended:
            return


def chosen_before(plan: Plan) -> dict[str, object] | None:
    """Give what an earlier command trained in the end, if it did."""
    try:
        return plan.folder.read().chosen
    except StoreError:
        return None
