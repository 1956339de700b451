"""A training as a value: what `training.loop.fit` is called with."""

from typing import NamedTuple

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Rows
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.loop import fit
from cvrbench.training.state import Callbacks, FitResult, Task


class TrainingJob(NamedTuple):
    """The arguments of `fit`."""

    network: SharingStrategy
    train: Rows
    valid: Rows
    task: Task
    config: TrainerConfig
    epochs: float
    seed: int
    callbacks: Callbacks

    def alone(self) -> FitResult:
        """Train it without others."""
        network, train, valid, task, config, epochs, seed, callbacks = self
        return fit(
            network, train, valid, task, config, epochs=epochs, seed=seed, callbacks=callbacks
        )
