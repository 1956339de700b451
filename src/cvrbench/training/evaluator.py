"""How looks at validation are scored: on the device if that is a GPU, on the host otherwise."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from cvrbench.data.dataset import Split
from cvrbench.data.schema import Schema
from cvrbench.evaluation import Scores, score
from cvrbench.metrics import on_tensors
from cvrbench.objectives import Predictions as Probabilities
from cvrbench.spaces import SpaceOf
from cvrbench.training.predict import Predicted, predict, predict_there

ON_TENSORS = ("auc", "logloss")
"""Kinds of metric that are computed on a device's tensors."""


@dataclass(frozen=True)
class Evaluator:
    """Scores the looks of all trainings of a run."""

    schema: Schema
    answers: Split
    """The validation split."""
    device: torch.device

    def predict_for(self, kinds: Collection[str]) -> Callable[..., Predicted]:
        """Say how to predict validation if `kinds` of metric are wanted (`training.predict`)."""
        return predict_there if stay(self.device, kinds) else predict

    def score(self, predicted: Predicted, kinds: Collection[str]) -> Scores:
        """Compute `kinds` of metric where the predictions are.

        Raises:
            RunError: A prediction is not a number.
        """
        if isinstance(predicted, Probabilities):
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
