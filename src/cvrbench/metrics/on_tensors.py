"""AUC and log loss of `metrics` where torch's tensors lie: counts and sums alone reach the host.

Labels are 0 or 1, shape [rows]; scores and probabilities have the same shape and device. Errors are
those of `metrics`. Neither uses an operation whose order of computation may change, so that a
device gives the same bits every time.
"""

import math

import torch
from torch import Tensor

from cvrbench.metrics import Undefined, n_pairs

CHUNK_ROWS = 1 << 22
"""Rows whose logarithms are in memory at a time."""


def auc(labels: Tensor, scores: Tensor) -> float:
    """Probability that a positive row scores above a negative one, ties counting half.

    It is the ratio of the same two integers as `metrics.auc`, and so the same to the last bit.

    Raises:
        Undefined: There are no rows or only one class.
        ValueError: A label is not 0 or 1, a score is NaN, or the shapes differ.

    >>> auc(torch.tensor([0, 1, 1, 0]), torch.tensor([0.1, 0.8, 0.3, 0.3]))
    0.875
    """
    positive, positives = _checked(labels, scores)
    pairs = n_pairs(positives, len(labels) - positives)
    # Sorted one after the other: sorting holds several times what it sorts.
    above, below = scores[positive].sort().values, scores[~positive].sort().values
    # The fewer are looked up among the more.
    if len(above) <= len(below):
        return _twice_above(above, below) / (2 * pairs)
    return (2 * pairs - _twice_above(below, above)) / (2 * pairs)


def log_loss(labels: Tensor, probabilities: Tensor) -> float:
    """Mean negative log-likelihood, in nats, computed and summed in float64.

    Probabilities are clipped as by `metrics.log_loss`. The sum has another order and the logarithm
    is another program's, so that the last digits may differ from it.

    Raises:
        Undefined: There are no rows.
        ValueError: As for `auc`, or a probability lies outside [0, 1].

    >>> round(log_loss(torch.tensor([1, 0]), torch.tensor([0.5, 0.5])), 6)
    0.693147
    """
    _checked(labels, probabilities)
    if not len(labels):
        raise Undefined("there are no rows")
    low, high = torch.stack(torch.aminmax(probabilities)).tolist()
    if low < 0 or high > 1:
        raise ValueError("a probability lies outside [0, 1]")
    chunks = zip(labels.split(CHUNK_ROWS), probabilities.split(CHUNK_ROWS), strict=True)
    sums = torch.stack([_log_losses(*chunk).sum() for chunk in chunks])
    return math.fsum(sums.tolist()) / len(labels)


def _twice_above(values: Tensor, others: Tensor) -> int:
    """Twice the pairs in which the value is above the other, plus those that tie; both sorted."""
    counts = [torch.searchsorted(others, values, right=right).sum() for right in (False, True)]
    return sum(torch.stack(counts).tolist())


def _log_losses(labels: Tensor, probabilities: Tensor) -> Tensor:
    eps = torch.finfo(torch.float64).eps
    clipped = probabilities.double().clamp(eps, 1 - eps)
    return -torch.where(labels == 1, clipped, 1 - clipped).log()


def _checked(labels: Tensor, scores: Tensor) -> tuple[Tensor, int]:
    """Return where rows are positive, and how many are."""
    if labels.ndim != 1 or labels.shape != scores.shape:
        shapes = f"labels {tuple(labels.shape)} and scores {tuple(scores.shape)}"
        raise ValueError(f"{shapes} must be [rows] both")
    positive = labels == 1
    counts = torch.stack([positive.sum(), (labels != 0).sum(), scores.isnan().sum()])
    positives, not_negative, n_nan = counts.tolist()
    if not_negative != positives:
        raise ValueError("a label is neither 0 nor 1")
    if n_nan:
        raise ValueError(f"{n_nan} of {len(scores)} scores are NaN")
    return positive, positives
