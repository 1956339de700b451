"""Jobs in this process, one after another."""

from collections.abc import Sequence
from typing import Any

from cvrbench.errors import RunInterrupted
from cvrbench.launch.job import STOPPED, Failed, Job, Results


def results(job: Job, arguments: Sequence[Any]) -> Results:
    """Do the jobs; give each outcome with its number.

    Raises:
        RunInterrupted: The user stopped one.
    """
    for index, argument in enumerate(arguments):
        outcome = job.attempt(argument)
        if outcome == Failed(reason=STOPPED):
            raise RunInterrupted(f"stopped with {index} of {len(arguments)} jobs done")
        yield index, outcome
