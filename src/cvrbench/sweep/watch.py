"""Somebody who looks at a study while workers are at it, and keeps its summary up to date."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cvrbench.errors import CvrbenchError, StoreError
from cvrbench.studies import StudySummary
from cvrbench.sweep.opening import open_study
from cvrbench.sweep.plan import Plan
from cvrbench.sweep.summary import summarize
from cvrbench.sweep.worker import budget_of

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
        study, _ = open_study(plan)
    except CvrbenchError:
        return
    budget = budget_of(plan)
    while True:
        ended = done.wait(EVERY)
        try:
            now = summarize(plan, study, budget, chosen_before(plan))
            if now != last:
                plan.folder.write(now)
                on_summary(now)
                last = now
        except CvrbenchError:
            pass  # the workers meet the same trouble and say so
        if ended:
            return


def chosen_before(plan: Plan) -> dict[str, object] | None:
    """Give what an earlier command trained in the end, if it did."""
    try:
        return plan.folder.read().chosen
    except StoreError:
        return None
