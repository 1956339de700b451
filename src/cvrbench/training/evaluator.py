"""How validation is predicted and scored: on the device if that is a GPU, on the host otherwise."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.data.batches import Rows
from cvrbench.data.dataset import Split
from cvrbench.data.schema import Schema
from cvrbench.metrics import on_tensors
from cvrbench.metrics.evaluation import Scores, score
from cvrbench.metrics.spaces import SpaceOf
from cvrbench.objectives import Objective, Predictions
from cvrbench.strategies.base import SharingStrategy

CPU = torch.device("cpu")


class PredictionArrays(NamedTuple):
    """Predictions in both kinds of space, `[rows, tasks]` float64 each."""

    conditional: npt.NDArray[np.float64]
    joint: npt.NDArray[np.float64]


Predicted = PredictionArrays | Predictions
"""On the host, or where the network is."""


def predict(
    network: SharingStrategy, split: Rows, objective: Objective, *, batch_size: int
) -> PredictionArrays:
    """Predict all rows of a split, in order, in evaluation mode, and bring them to the host.

    The network is left in the mode in which it came.
    """
    found = predict_there(network, split, objective, batch_size=batch_size, place=CPU)
    return PredictionArrays(found.conditional.numpy(), found.joint.numpy())


@torch.inference_mode()
def predict_there(
    network: SharingStrategy,
    split: Rows,
    objective: Objective,
    *,
    batch_size: int,
    place: torch.device | None = None,
) -> Predictions:
    """As `predict`, and leave them on a device: `[rows, tasks]` float64 each.

    On the network's, unless another `place` is given, the host waits for nothing meanwhile.
    """
    was_training = network.training
    network.eval()
    # In one piece from the start, for two copies are many bytes; metrics read column by column.
    shape = (2, len(objective.chains), len(split))
    conditional, joint = torch.empty(shape, dtype=torch.float64, device=place or split.device).mT
    start = 0
    for batch in split.in_order(batch_size):
        found = objective.predictions(network(batch.features))
        rows = slice(start, start + len(batch.labels))
        conditional[rows] = found.conditional
        joint[rows] = found.joint
        start = rows.stop
    network.train(was_training)
    return Predictions(conditional, joint)


ON_TENSORS = ("auc", "logloss")
"""Kinds of metric that are computed on a device's tensors."""


@dataclass(frozen=True)
class Evaluator:
    """Scores the evaluations of all trainings of a run."""

    schema: Schema
    answers: Split
    """The validation split."""
    device: torch.device

    def predict_for(self, kinds: Collection[str]) -> Callable[..., Predicted]:
        """Return how to predict validation if `kinds` of metric are wanted (`predict`)."""
        return predict_there if stay(self.device, kinds) else predict

    def score(self, predicted: Predicted, kinds: Collection[str]) -> Scores:
        """Compute `kinds` of metric where the predictions are.

        Raises:
            RunError: A prediction is not a number.
        """
        if isinstance(predicted, Predictions):
            return score(
                self.schema, self._labels, *predicted, kinds=kinds, metrics_of=metrics_of_tensors
            )
        answers = self.answers
        return score(self.schema, answers.labels, *predicted, answers.groups, kinds=kinds)

    @cached_property
    def _labels(self) -> Tensor:
        return torch.tensor(self.answers.labels, device=self.device)


def stay(device: torch.device, kinds: Collection[str]) -> bool:
    """Whether predictions stay where they are: on a GPU, of which the host need not wait.

    On a CPU nothing has to move, and NumPy's metrics need less memory.
    """
    return device.type != "cpu" and set(kinds) <= set(ON_TENSORS)


def metrics_of_tensors(space: SpaceOf[Tensor]) -> Iterator[tuple[str, Callable[[], float]]]:
    """Offer what `ON_TENSORS` names (`evaluation.MetricsOf`)."""
    label, predicted = space.take(space.label), space.take(space.predicted)
    yield "auc", partial(on_tensors.auc, label, predicted)
    yield "logloss", partial(on_tensors.log_loss, label, predicted)
