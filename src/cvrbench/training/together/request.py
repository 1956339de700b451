"""A training as a value: what `training.fit` is called with."""

from typing import NamedTuple

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Rows
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.fit import fit
from cvrbench.training.under_way import FitResult, Outside, Task


class FitRequest(NamedTuple):
    """The arguments of `fit`."""

    network: SharingStrategy
    train: Rows
    valid: Rows
    task: Task
    config: TrainerConfig
    epochs: float
    seed: int
    outside: Outside

    def alone(self) -> FitResult:
        """Train it without others."""
        network, train, valid, task, config, epochs, seed, outside = self
        return fit(network, train, valid, task, config, epochs=epochs, seed=seed, outside=outside)
