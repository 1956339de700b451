"""The prediction pass: a network's probabilities for every row of a split."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cvrbench.data.batches import Rows
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy


class Predictions(NamedTuple):
    """Probabilities in both kinds of space, `[rows, tasks]` float64 each."""

    conditional: npt.NDArray[np.float64]
    joint: npt.NDArray[np.float64]


@torch.inference_mode()
def predict(
    network: SharingStrategy, split: Rows, objective: Objective, *, batch_size: int
) -> Predictions:
    """Predict all rows of a split, in order, in evaluation mode.

    The network is left in the mode in which it came.
    """
    was_training = network.training
    network.eval()
    conditional, joint = [], []
    for batch in split.in_order(batch_size):
        logits = network(batch.features)
        probabilities = objective.probabilities(logits)
        conditional.append(probabilities.conditional.cpu())
        joint.append(probabilities.joint.cpu())
    network.train(was_training)
    return Predictions(torch.cat(conditional).numpy(), torch.cat(joint).numpy())
