"""What do checkpoints cost a training, and how soon does one follow the other?

    python -m benchmarks.checkpoint_cost

Trains shared_bottom by `training.fit` on made-up rows, once with the table of a small log and once
with one of 5 M ids by 16 (row-wise Adagrad), and asks for a checkpoint every second. A save of the
large table takes so long that the training's pace spaces them out: what counts is the share of the
training's seconds that went into saves, of all saves together. `whole end` is the last file of a
stage, which is written once whatever the pace.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.figures import Figure, print_table
from benchmarks.training.ours import TRAINER, goal_of, network_of
from benchmarks.training.shapes import REFERENCE, SMALL, Shape, draw

from cvrbench.data.batches import SplitTensors
from cvrbench.errors import RunInterrupted
from cvrbench.training import checkpoint
from cvrbench.training.checkpoint import SHARE, StageFiles
from cvrbench.training.loop import Callbacks, Task, TrainingJob, fit

LARGE = REFERENCE.grown_to(5_000_000)
BATCHES = 64
EPOCH = 100_000
"""Steps that are never reached; the clock ends the training."""


class Watched(NamedTuple):
    """What one training spent on checkpoints."""

    saves: list[float]
    """Seconds of each save of the stage under way."""
    end: float
    """Seconds of the save of the finished stage."""
    trained: float
    """Seconds in optimiser steps."""
    megabytes: float


def watch(shape: Shape, *, seconds: float, every: float) -> Watched:
    """Train for some seconds, asking for a checkpoint at an interval."""
    torch.manual_seed(0)
    data = draw(shape, BATCHES)
    network = network_of("shared_bottom", shape)
    starts = np.cumsum([0, *shape.sizes])[:-1]
    rows = torch.from_numpy((data.ids + starts).astype(np.int32))
    train = SplitTensors(rows, torch.zeros(len(rows), 0), torch.from_numpy(data.labels), (), None)
    valid = SplitTensors(*(part[:4096] for part in train[:3]), (), None)
    config = replace(
        TRAINER,
        batch_size=shape.batch,
        evaluations_per_epoch=1,
        patience=10**9,
        checkpoint_seconds=every,
    )
    saves: list[float] = []
    sizes: list[int] = []
    save = StageFiles.save_under_way

    def timed(files: StageFiles, state: object) -> None:
        begun = time.monotonic()
        save(files, state)
        saves.append(time.monotonic() - begun)
        sizes.append(files.partial_file.stat().st_size)

    end = time.monotonic() + seconds
    task = Task(*goal_of(shape), lambda _: (0.5, {}))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, patched(timed):
        files = StageFiles(Path(folder), 0)
        callbacks = Callbacks("train", files, lambda _: None, lambda: time.monotonic() > end)
        try:
            fit(TrainingJob(network, train, valid, task, config, EPOCH, 0, callbacks))
        except RunInterrupted:
            state = files.under_way()
        begun = time.monotonic()
        files.save_finished({"best": state["best"], "state": state["state"]})
        finished = time.monotonic() - begun
    # The last one is that of the interruption, which no pace delays.
    return Watched(saves[:-1], finished, state["state"]["seconds"], max(sizes) / 1e6)


class patched:  # noqa: N801 -- a verb, as in `with patched(...)`
    """Save by another function for a while."""

    def __init__(self, save: Callable[..., None]) -> None:
        self.save, self.before = save, checkpoint.StageFiles.save_under_way

    def __enter__(self) -> None:
        checkpoint.StageFiles.save_under_way = self.save

    def __exit__(self, *_: object) -> None:
        checkpoint.StageFiles.save_under_way = self.before


def measure(*, quick: bool) -> Iterator[Figure]:
    """Give the share of a training that went into checkpoints, for a small and a large table."""
    sizes = (("small", SMALL, 5 if quick else 60), ("5M_ids", LARGE, 270))
    for name, shape, seconds in sizes[: 1 if quick else 2]:
        found = watch(shape, seconds=seconds, every=1.0)
        each = sum(found.saves) / max(len(found.saves), 1)
        yield Figure(
            name=f"checkpoints/{name}/share",
            value=sum(found.saves) / found.trained,
            unit="of the training",
            at_most=SHARE,
            detail=f"{len(found.saves)} saves of {found.megabytes:,.0f} MB, {each:.3f} s each, "
            f"in {found.trained:.0f} s; whole end {found.end:.3f} s",
        )


if __name__ == "__main__":
    torch.set_num_threads(2)
    print_table(list(measure(quick=False)))
