"""What every sharing strategy is: features in, one logit per task out.

Shape legend of all strategies: `batch` rows, `width` the encoder's output, `experts`, `tasks`.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn

from cvrbench.data.batches import Features


class SharingStrategy(nn.Module, ABC):
    """A network that predicts all tasks from one batch of features."""

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """Give the logits `[batch, tasks]`; task t's is conditional on its parent's label 1."""

    def prepare(self, fit: "Fit") -> None:
        """Fix what must be fixed before the final training; nothing by default."""

    def moving(self) -> dict[nn.Parameter, Tensor]:
        """Where masked parameters may move: parameter -> mask, True where some task keeps it.

        Parameters not named may move everywhere. Training applies weight decay by it.
        """
        return {}

    def diagnostics(self) -> dict[str, object]:
        """Give plain facts about what is shared, for the run's record; none by default."""
        return {}


class Fitted(Protocol):
    """What a strategy learns of a search training: how good the best weights were."""

    @property
    def score(self) -> float:
        """Validation score of the weights now in the network; higher is better."""
        ...


class Fit(Protocol):
    """Trains a network on some tasks alone and leaves its best weights in it."""

    def __call__(self, network: SharingStrategy, *, task: str, label: str, epochs: int) -> Fitted:
        """Train `network` on `task` for at most `epochs`; `label` names the stage to the user."""
        ...
