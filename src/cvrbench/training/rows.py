"""The rows that a run trains on and chooses by, in memory or on disk."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.array_reader import load_labels
from cvrbench.data.batches import Rows
from cvrbench.data.dataset import Dataset, Split
from cvrbench.data.streaming import Placement
from cvrbench.training.stacked.seed_group import SeedGroup


class RunRows(NamedTuple):
    """Where rows are kept, and those of the two splits that a run needs all the time."""

    keeping: Placement
    train: Rows
    valid: Rows
    answers: Split
    """The validation split, what its predictions are scored by in memory."""


def open_rows(
    config: TrainerConfig,
    dataset: Dataset,
    device: torch.device,
    weights: npt.NDArray[np.float32] | None,
    seed_group: SeedGroup | None,
) -> RunRows:
    """Open the training rows, whose labels count as `weights` say, and the validation rows.

    Raises:
        DataError: A file is gone or was cut short.
    """
    train, valid, schema = dataset.train, dataset.valid, dataset.schema
    # In memory they are once for all runs that go the same way, so the first one has chosen.
    asked = "memory" if seed_group is not None and seed_group.loaded else config.data
    keeping = Placement.choose(asked, (train, valid), device)
    load = keeping.open
    if seed_group is not None and keeping.where == "memory":
        load = seed_group.load
    return RunRows(
        keeping,
        load(train, schema, device, weights),
        load(valid, schema, device),
        load_labels(valid, schema.name),
    )
