"""The prediction pass: a network's probabilities for every row of a split."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cvrbench.data.batches import Rows
from cvrbench.objectives import Objective
from cvrbench.objectives import Predictions as Probabilities
from cvrbench.strategies.base import SharingStrategy

CPU = torch.device("cpu")


class Predictions(NamedTuple):
    """Probabilities in both kinds of space, `[rows, tasks]` float64 each."""

    conditional: npt.NDArray[np.float64]
    joint: npt.NDArray[np.float64]


Predicted = Predictions | Probabilities
"""On the host, or where the network is."""


def predict(
    network: SharingStrategy, split: Rows, objective: Objective, *, batch_size: int
) -> Predictions:
    """Predict all rows of a split, in order, in evaluation mode, and bring them to the host.

    The network is left in the mode in which it came.
    """
    found = _predict(network, split, objective, batch_size, CPU)
    return Predictions(found.conditional.numpy(), found.joint.numpy())


def predict_there(
    network: SharingStrategy, split: Rows, objective: Objective, *, batch_size: int
) -> Probabilities:
    """As `predict`, and leave them on the device: `[rows, tasks]` float64 each.

    The host waits for nothing meanwhile.
    """
    return _predict(network, split, objective, batch_size, split.device)


@torch.inference_mode()
def _predict(
    network: SharingStrategy,
    split: Rows,
    objective: Objective,
    batch_size: int,
    place: torch.device,
) -> Probabilities:
    was_training = network.training
    network.eval()
    # In one piece from the start, for two copies are many bytes; metrics read column by column.
    shape = (2, len(objective.chains), len(split))
    conditional, joint = torch.empty(shape, dtype=torch.float64, device=place).mT
    start = 0
    for batch in split.in_order(batch_size):
        found = objective.predictions(network(batch.features))
        rows = slice(start, start + len(batch.labels))
        conditional[rows] = found.conditional
        joint[rows] = found.joint
        start = rows.stop
    network.train(was_training)
    return Probabilities(conditional, joint)
