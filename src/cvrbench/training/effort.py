"""What a run cost, its mask searches included."""

from collections.abc import Sequence
from typing import Any

from cvrbench.training.state import FitResult


def cost_of(
    trainings: Sequence[FitResult], probed: int, reused: int, *, total_seconds: float
) -> dict[str, Any]:
    """Give seconds, examples and examples per second for a run's record.

    Args:
        trainings: All of the run; the last is the one that its weights are of.
        probed: Examples whose gradients were taken outside a training.
        reused: Examples of trainings that another run had done.
        total_seconds: Of the run's wall clock.
    """
    *searches, final = (training.state for training in trainings)
    search = sum(state.seconds for state in searches)
    of_searches = sum(state.examples for state in searches)
    examples = of_searches + final.examples
    return {
        "seconds": {
            "search": round(search, 3),
            "train": round(final.seconds, 3),
            "total": round(total_seconds, 3),
        },
        "examples": {
            "search": of_searches + probed,
            "train": final.examples,
            "reused": reused,
        },
        "examples_per_second": round(examples / max(search + final.seconds, 1e-9), 1),
    }
