"""Exact metrics of binary predictions: numbers from NumPy arrays, and nothing else.

Labels are 0 or 1, shape [rows]; scores may be any real numbers, probabilities lie in [0, 1].
A metric that the labels do not determine raises `Undefined`; it is never 0.5 or 0.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[Any]


class Undefined(ValueError):  # noqa: N818 - a fact about the data, not a mistake
    """The metric has no value on these rows; the message is the reason."""


class Gauc(NamedTuple):
    """A group-weighted AUC and how many groups it rests on."""

    value: float
    groups: int


def auc(labels: Labels, scores: Floats) -> float:
    """Probability that a positive row scores above a negative one, ties counting half.

    Sorting both classes and counting in integers makes it exact for any number of ties.

    Raises:
        Undefined: There are no rows or only one class.
        ValueError: A label is not 0 or 1, a score is NaN, or the lengths differ.

    >>> auc(np.array([0, 1, 1, 0]), np.array([0.1, 0.8, 0.3, 0.3]))
    0.875
    """
    positive = _checked(labels, scores)
    _require_both_classes(positive)
    above, below = np.sort(scores[positive]), np.sort(scores[~positive])
    twice_wins = int(np.searchsorted(below, above, "left").sum()) + int(
        np.searchsorted(below, above, "right").sum()
    )
    return twice_wins / (2 * len(above) * len(below))


def gauc(labels: Labels, scores: Floats, groups: npt.NDArray[Any]) -> Gauc:
    """Mean of each group's AUC, weighted by the group's rows; one-class groups are left out.

    Args:
        labels: [rows], 0 or 1.
        scores: [rows].
        groups: [rows], any sortable codes.

    Raises:
        Undefined: No group has both classes.
        ValueError: As for `auc`.
    """
    positive = _checked(labels, scores)
    if groups.shape != positive.shape:
        raise ValueError(f"{len(groups)} group codes for {len(positive)} labels")
    if not len(positive):
        raise Undefined("there are no rows")
    order = np.lexsort((scores, groups))
    group, score, label = groups[order], scores[order], positive[order]
    new_group = np.append(True, group[1:] != group[:-1])
    # A block holds the rows of one group that share one score.
    blocks = np.flatnonzero(new_group | np.append(True, score[1:] != score[:-1]))
    rows = np.diff(np.append(blocks, len(group)))
    wins = np.add.reduceat(label.astype(np.int64), blocks)
    losses = rows - wins
    starts = np.flatnonzero(new_group[blocks])
    group_rows = np.add.reduceat(rows, starts)
    n_positive = np.add.reduceat(wins, starts)
    n_negative = group_rows - n_positive
    losses_before = np.cumsum(losses) - losses
    blocks_per_group = np.diff(np.append(starts, len(blocks)))
    losses_before -= np.repeat(losses_before[starts], blocks_per_group)
    twice_wins = np.add.reduceat(wins * (2 * losses_before + losses), starts)
    used = (n_positive > 0) & (n_negative > 0)
    if not used.any():
        raise Undefined("no group has both a positive and a negative row")
    values = twice_wins[used] / (2 * n_positive[used] * n_negative[used])
    return Gauc(float(np.average(values, weights=group_rows[used])), int(used.sum()))


def log_loss(labels: Labels, probabilities: Floats) -> float:
    """Mean negative log-likelihood, in nats.

    Probabilities are clipped to [eps, 1 - eps] with the eps of float64, whatever their type.

    Raises:
        Undefined: There are no rows.
        ValueError: As for `auc`, or a probability lies outside [0, 1].

    >>> round(log_loss(np.array([1, 0]), np.array([0.5, 0.5])), 6)
    0.693147
    """
    _checked_probabilities(labels, probabilities)
    return float(log_losses(labels, probabilities).mean())


def log_losses(labels: Labels, probabilities: Floats) -> npt.NDArray[np.float64]:
    """Each row's negative log-likelihood, `[rows]`, in nats; their mean is `log_loss`.

    Nothing is checked: what is no probability is clipped to one.
    """
    eps = np.finfo(np.float64).eps
    clipped = np.clip(probabilities.astype(np.float64), eps, 1 - eps)
    losses: npt.NDArray[np.float64] = -np.log(np.where(labels == 1, clipped, 1 - clipped))
    return losses


def pcoc(labels: Labels, probabilities: Floats) -> float:
    """Predicted positives over observed positives: 1 is calibrated, above 1 promises too much.

    Raises:
        Undefined: There is no positive row.
        ValueError: As for `log_loss`.
    """
    positive = _checked_probabilities(labels, probabilities)
    if not positive.any():
        raise Undefined("no row is positive")
    return float(probabilities.sum(dtype=np.float64) / int(positive.sum()))


def ece(labels: Labels, probabilities: Floats, bins: int = 15) -> float:
    """Expected calibration error: mean over rows of |mean prediction - positive share| of the bin.

    Bins are of equal mass: the k-th edge is the value at position floor(k * rows / bins) of the
    sorted probabilities, and belongs to the upper bin. Equal values are thus never separated, and
    the result does not depend on the order of the rows.

    Raises:
        Undefined: There are no rows.
        ValueError: As for `log_loss`.
    """
    positive = _checked_probabilities(labels, probabilities)
    rows = len(positive)
    values = probabilities.astype(np.float64)
    positions = np.arange(1, bins) * rows // bins
    edges = np.partition(values, positions)[positions] if bins > 1 else values[:0]
    bin_of_row = np.searchsorted(edges, values, "right")
    predicted = np.bincount(bin_of_row, weights=values, minlength=bins)
    observed = np.bincount(bin_of_row[positive], minlength=bins)
    return float(np.abs(predicted - observed).sum() / rows)


def hanley_mcneil(value: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC from the sampling of rows alone (Hanley and McNeil 1982).

    It takes rows as independent and the scores as given, so it says nothing of the seed.
    """
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    ) / (positives * negatives)
    return math.sqrt(max(variance, 0.0))


def _checked(labels: Labels, scores: Floats) -> npt.NDArray[np.bool_]:
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be [rows] both")
    positive: npt.NDArray[np.bool_] = labels == 1
    if not (positive | (labels == 0)).all():
        raise ValueError("a label is neither 0 nor 1")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    return positive


def _checked_probabilities(labels: Labels, probabilities: Floats) -> npt.NDArray[np.bool_]:
    positive = _checked(labels, probabilities)
    if not len(positive):
        raise Undefined("there are no rows")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("a probability lies outside [0, 1]")
    return positive


def _require_both_classes(positive: npt.NDArray[np.bool_]) -> None:
    if not len(positive):
        raise Undefined("there are no rows")
    if positive.all() or not positive.any():
        kind = "positive" if positive[0] else "negative"
        raise Undefined(f"all {len(positive):,} rows are {kind}")
