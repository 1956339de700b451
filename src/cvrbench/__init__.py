"""Compare ways of sharing a network between click and conversion prediction.

>>> import cvrbench
>>> record = cvrbench.run(cvrbench.compose(["model=ncs", "seed=1"]))   # doctest: +SKIP
>>> cvrbench.results("results")                                        # doctest: +SKIP
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvrbench.config.compose import Composed
    from cvrbench.runs.record import RunRecord
    from cvrbench.training.callbacks import Progress

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "results", "run"]

# Each function imports its worker when called: `import cvrbench` must not cost a second of torch.


def compose(overrides: "Sequence[str]" = ()) -> "Composed":
    """Compose and validate a configuration, as `cvrbench run OVERRIDES` does."""
    from cvrbench.config.compose import compose as worker

    return worker(overrides)


def run(
    composed: "Composed",
    *,
    force: bool = False,
    on_progress: "Callable[[Progress], None] | None" = None,
) -> "RunRecord":
    """Run one experiment, or read it if it is finished."""
    from cvrbench.runs.experiment import run as worker
    from cvrbench.training.callbacks import ignore

    return worker(composed, force=force, on_progress=on_progress or ignore)


def results(results_dir: str | Path = "results") -> "list[RunRecord]":
    """Read the records of all finished runs; warn of those that cannot be read."""
    import warnings

    from cvrbench.runs.store import ResultStore

    survey = ResultStore(Path(results_dir)).survey()
    for one in survey.unreadable:
        warnings.warn(f"left out: {one.why}", stacklevel=2)
    return survey.records
