"""Exact metrics of binary predictions: numbers from NumPy arrays, and nothing else.

Labels are 0 or 1, shape [rows]; scores may be any real numbers, probabilities lie in [0, 1].
A metric that the labels do not determine raises `Undefined`; it is never 0.5 or 0. `on_tensors` has
what is wanted of tensors on a GPU.
"""

import bisect
import itertools
import math
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cvrbench.metrics.by_group import contests

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[Any]


class Undefined(ValueError):  # noqa: N818 - a fact about the data, not a mistake
    """The metric has no value on these rows; the message is the reason."""


CHUNK_ROWS = 1 << 16
"""Rows that are worked on at a time where a metric needs no more: they fit a core's cache."""
LOOKED_UP = 1 << 12
"""Values of one class that are looked up in the other at a time."""


class Gauc(NamedTuple):
    """A group-weighted AUC and how many groups it rests on."""

    value: float
    groups: int


class Classes(NamedTuple):
    """The scores of either class, sorted: what the metrics that rank rows are computed from."""

    positives: Floats
    negatives: Floats

    @classmethod
    def of(cls, labels: Labels, scores: Floats) -> Self:
        """Part the rows by class and sort each; it copies the scores once and nothing else.

        Raises:
            ValueError: As for `auc`.
        """
        positive = _positive(labels, scores)
        classes = cls(scores[positive], scores[~positive])
        for values in classes:
            values.sort()
            if len(values) and np.isnan(values[-1]):  # NaN is sorted to the end
                _refuse_nan(scores)
        return classes

    @property
    def auc(self) -> float:
        """See `auc`."""
        pairs = n_pairs(len(self.positives), len(self.negatives))
        # The fewer are looked up among the more.
        if len(self.positives) <= len(self.negatives):
            return _twice_above(self.positives, self.negatives) / (2 * pairs)
        return (2 * pairs - _twice_above(self.negatives, self.positives)) / (2 * pairs)

    def ece(self, bins: int = 15) -> float:
        """See `ece`."""
        rows = len(self.positives) + len(self.negatives)
        if not rows:
            raise Undefined("there are no rows")
        if any(len(values) and (values[0] < 0 or values[-1] > 1) for values in self):
            raise ValueError("a probability lies outside [0, 1]")
        edges = [self._at(k * rows // bins) for k in range(1, bins)]
        predicted, observed = np.zeros(bins), np.zeros(bins)
        for values in self:
            ends = [0, *np.searchsorted(values, edges), len(values)]
            for part, (begin, end) in enumerate(itertools.pairwise(ends)):
                predicted[part] += values[begin:end].sum(dtype=np.float64)
                observed[part] += end - begin if values is self.positives else 0
        return float(np.abs(predicted - observed).sum() / rows)

    def _at(self, place: int) -> Any:
        """Return the value at a place, from 0, of all rows in order."""
        few, many = sorted(self, key=len)

        def place_of(index: int) -> int:
            return index + int(np.searchsorted(few, many[index], "right"))

        index = bisect.bisect_left(range(len(many)), place, key=place_of)
        if index < len(many) and place_of(index) == place:
            return many[index]
        return few[place - index]


def auc(labels: Labels, scores: Floats) -> float:
    """Probability that a positive row scores above a negative one, ties counting half.

    Sorting both classes and counting in integers makes it exact for any number of ties.

    Raises:
        Undefined: There are no rows or only one class.
        ValueError: A label is not 0 or 1, a score is NaN, or the lengths differ.

    >>> auc(np.array([0, 1, 1, 0]), np.array([0.1, 0.8, 0.3, 0.3]))
    0.875
    """
    return Classes.of(labels, scores).auc


def n_pairs(positives: int, negatives: int) -> int:
    """Count the pairs of a positive and a negative row, a share of which an AUC is.

    Raises:
        Undefined: There are no rows or only one class.
    """
    if not positives + negatives:
        raise Undefined("there are no rows")
    if not positives or not negatives:
        kind = "positive" if positives else "negative"
        raise Undefined(f"all {positives + negatives:,} rows are {kind}")
    return positives * negatives


def expected_auc(chances: Floats, scores: Floats) -> float:
    """AUC of labels that are not drawn: positive with these chances, independently of each other.

    The expected pairs of a positive above a negative, ties counting half, over all expected pairs
    of the two; with chances of 0 and 1 it is `auc`.

    Raises:
        Undefined: No row can be positive, or none negative.
        ValueError: A score is NaN.

    >>> expected_auc(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.1, 0.8, 0.3, 0.3]))
    0.875
    """
    _refuse_nan(scores)
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = np.bincount(place, chances), np.bincount(place, 1 - chances)
    own = float((chances * (1 - chances)).sum())  # a row is no pair with itself
    pairs = float(positive.sum() * negative.sum()) - own
    if pairs <= 0:
        raise Undefined("no row can be positive, or none negative")
    below = negative.cumsum() - negative / 2
    return (float((positive * below).sum()) - own / 2) / pairs


def gauc(labels: Labels, scores: Floats, groups: npt.NDArray[Any]) -> Gauc:
    """Mean of each group's AUC, weighted by the group's rows; one-class groups are left out.

    Args:
        labels: [rows], 0 or 1.
        scores: [rows], compared as float64.
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
    found = contests(positive, scores, groups)
    if not len(found.positives):
        raise Undefined("no group has both a positive and a negative row")
    values = found.twice_wins / (2 * found.positives * found.negatives)
    rows = found.positives + found.negatives
    return Gauc(float(np.average(values, weights=rows)), len(values))


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
    chunks = [slice(at, at + CHUNK_ROWS) for at in range(0, len(labels), CHUNK_ROWS)]
    sums = [float(log_losses(labels[rows], probabilities[rows]).sum()) for rows in chunks]
    return math.fsum(sums) / len(labels)


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
    return Classes.of(labels, probabilities).ece(bins)


def _twice_above(values: Floats, others: Floats) -> int:
    """Twice the pairs in which the value is above the other, plus those that tie; both sorted.

    Values that follow each other belong next to each other, so that a chunk of them is looked up
    in a short stretch of the others.
    """
    total = 0
    for at in range(0, len(values), LOOKED_UP):
        chunk = values[at : at + LOOKED_UP]
        low = int(np.searchsorted(others, chunk[0], "left"))
        near = others[low : int(np.searchsorted(others, chunk[-1], "right"))]
        for side in ("left", "right"):
            total += low * len(chunk) + int(np.searchsorted(near, chunk, side).sum())
    return total


def _positive(labels: Labels, scores: Floats) -> npt.NDArray[np.bool_]:
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be [rows] both")
    positive: npt.NDArray[np.bool_] = labels == 1
    if not (positive | (labels == 0)).all():
        raise ValueError("a label is neither 0 nor 1")
    return positive


def _refuse_nan(scores: Floats) -> None:
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")


def _checked(labels: Labels, scores: Floats) -> npt.NDArray[np.bool_]:
    positive = _positive(labels, scores)
    _refuse_nan(scores)
    return positive


def _checked_probabilities(labels: Labels, probabilities: Floats) -> npt.NDArray[np.bool_]:
    positive = _checked(labels, probabilities)
    if not len(positive):
        raise Undefined("there are no rows")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("a probability lies outside [0, 1]")
    return positive
