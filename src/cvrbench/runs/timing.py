"""How long a plan will take, from a few steps of each of its strategies."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cvrbench.config.compose import Composed
from cvrbench.config.ncs import NCSConfig
from cvrbench.config.schema import NoLoggerConfig
from cvrbench.data.registry import ensure
from cvrbench.runs import experiment
from cvrbench.training.callbacks import Progress

WARM_STEPS, LEAST_STEPS, SECONDS = 3, 20, 2.0
"""Steps before the clock starts, and how many steps and seconds are timed."""
FORWARD = 3.0
"""How much longer a training step takes than a prediction of the same rows."""
START_SECONDS = 3.0
"""What a run takes beside its passes: opening, scoring, writing."""
MOST_SEEDS, USUAL_SEEDS, FEWEST_SEEDS, FEW_EPOCHS = 5, 3, 2, 4
"""Seeds where there is time, before epochs become fewer, and before they are too few."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The measured speed of a strategy, and the rows that a run of it passes."""

    model: str
    rate: float
    """Rows per second that gradients are computed on."""
    train: int
    valid: int
    test: int
    searched: float
    """Passes of a mask search over the training rows."""
    evaluations: int

    def seconds(self, epochs: int) -> float:
        """Return the most that a run of so many epochs takes."""
        learnt = self.train * (epochs + self.searched)
        scored = self.valid * self.evaluations * (epochs + self.searched) + self.test
        return START_SECONDS + (learnt + scored / FORWARD) / self.rate


class _Enough(Exception):  # noqa: N818
    """The end of a timed training."""


def measure(cell: Composed) -> Pace:
    """Train a cell for a few steps, of which nothing is kept.

    Raises:
        CvrbenchError: As `experiment.run`.
    """
    config, seen = cell.config, list[tuple[float, int]]()

    def watch(now: Progress) -> None:
        seen.append((time.perf_counter(), now.examples))
        if len(seen) > WARM_STEPS + LEAST_STEPS and seen[-1][0] - seen[WARM_STEPS][0] > SECONDS:
            raise _Enough

    with tempfile.TemporaryDirectory(prefix="cvrbench-timing-") as folder:
        logger = NoLoggerConfig(kind="none")
        timed = replace(cell, config=replace(config, results_dir=folder, logger=logger))
        with suppress(_Enough):
            experiment.run(timed, on_progress=watch)
    (begun, before), (ended, after) = seen[min(WARM_STEPS, len(seen) - 2)], seen[-1]
    rows = ensure(config.dataset, cell.choices["dataset"], Path(config.data_dir)).schema.rows
    searched = 0.0
    if isinstance(config.model, NCSConfig):
        searched = (getattr(config.model.search, "epochs", 0) or 0) + config.model.warmup_epochs
    return Pace(
        model=cell.choices["model"],
        rate=max(after - before, 1) / max(ended - begun, 1e-6),
        searched=searched,
        evaluations=config.trainer.evaluations_per_epoch,
        **rows,
    )


def afford(paces: Sequence[Pace], epochs: int, seconds: float) -> tuple[int, int, float]:
    """Return seeds, epochs and the most seconds of the largest comparison that fits into a time.

    Seeds are given up first, down to `USUAL_SEEDS`, then epochs, down to `FEW_EPOCHS`. Where not
    even one epoch of `FEWEST_SEEDS` fits, that is what is returned, with its time.
    """
    few = min(FEW_EPOCHS, epochs)
    choices = [(seeds, epochs) for seeds in range(MOST_SEEDS, USUAL_SEEDS, -1)]
    choices += [(USUAL_SEEDS, fewer) for fewer in range(epochs, few - 1, -1)]
    choices += [(FEWEST_SEEDS, fewer) for fewer in range(few, 0, -1)]
    timed = [(n, e, n * sum(pace.seconds(e) for pace in paces)) for n, e in choices]
    return next((one for one in timed if one[2] <= seconds), timed[-1])
