"""Exact metrics of predicted ratios: labels from 0 to 1, scores any real numbers, `[rows]` each.

XAUC is the share of pairs of rows, among those whose labels differ, that the scores put into the
right order; pairs of equal scores count half. Of labels 0 and 1 it is the AUC. GXAUC is its mean
over users, weighted by their rows (both after Zhan et al., KDD 2022, who sample the pairs).

A pair is in the wrong order where the row of the lower score has the higher label: an inversion.
Rows are put in order once, and inversions are counted bit by bit of the labels' ranks, from the
highest: two ranks are ordered by the first bit in which they differ, so that rows are dealt into
ever smaller segments of equal first bits, which takes a few sums over all rows for every bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.metrics import Floats, Gauc, Labels, Undefined

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def rmse(labels: Labels, scores: Floats) -> float:
    """Root of the mean squared error.

    Raises:
        Undefined: There are no rows.
        ValueError: A label lies outside [0, 1], a score is NaN, or the lengths differ.

    >>> round(rmse(np.array([0.0, 1.0]), np.array([0.3, 0.6])), 6)
    0.353553
    """
    return float(np.sqrt(np.square(_errors(labels, scores)).mean()))


def mae(labels: Labels, scores: Floats) -> float:
    """Mean absolute error; errors are those of `rmse`."""
    return float(np.abs(_errors(labels, scores)).mean())


def pcoc(labels: Labels, scores: Floats) -> float:
    """Predicted over observed mean: 1 is calibrated, above 1 promises too much.

    Raises:
        Undefined: All labels are 0.
        ValueError: As for `rmse`.
    """
    _errors(labels, scores)
    if not labels.any():
        raise Undefined("every label is 0")
    return float(scores.sum(dtype=np.float64) / labels.sum(dtype=np.float64))


def ece(labels: Labels, scores: Floats, bins: int = 15) -> float:
    """Mean over rows of |mean prediction - mean label| of the bin; bins as of `metrics.ece`.

    Raises:
        Undefined, ValueError: As for `rmse`.
    """
    errors = _errors(labels, scores)
    edges = np.sort(scores)[np.arange(1, bins) * len(scores) // bins]
    bin_of = np.searchsorted(edges, scores, "right")
    return float(np.abs(np.bincount(bin_of, errors)).sum() / len(scores))


def xauc(labels: Labels, scores: Floats) -> float:
    """Share of the pairs with different labels that are ordered rightly, equal scores half.

    Raises:
        Undefined: There are no rows, or all labels are equal.
        ValueError: As for `rmse`.

    >>> round(xauc(np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.2, 0.1])), 6)
    0.166667
    """
    rivals, twice_wrong, _ = Pairs.of(labels, scores).of_groups()
    if not rivals[0]:
        raise Undefined(f"all {len(labels):,} labels are equal")
    return float(1 - twice_wrong[0] / (2 * rivals[0]))


def gxauc(labels: Labels, scores: Floats, groups: npt.NDArray[Any]) -> Gauc:
    """Mean of each group's XAUC, weighted by its rows; groups of one label are left out.

    Args:
        labels: [rows], from 0 to 1.
        scores: [rows].
        groups: [rows], any sortable codes.

    Raises:
        Undefined: There are no rows, or no group has two labels.
        ValueError: As for `rmse`.
    """
    rivals, twice_wrong, sizes = Pairs.of(labels, scores, groups).of_groups()
    used = rivals > 0
    if not used.any():
        raise Undefined("no user has two rows that differ in their label")
    values = 1 - twice_wrong[used] / (2 * rivals[used])
    return Gauc(float(np.average(values, weights=sizes[used])), int(used.sum()))


class Level(NamedTuple):
    """The rows dealt into segments of equal group and equal first bits of the label's rank."""

    at: Array
    """`[rows]`: the place in `Pairs` of the row at each position."""
    begin: Array
    """`[rows]`: first position of the segment."""
    end: Array
    """`[rows]`: position after its last."""
    one: npt.NDArray[np.bool_]
    """`[rows]`: the next bit."""


class Pairs(NamedTuple):
    """Rows in the order of group, score and label, `[rows]` each: ready to count their pairs."""

    order: Ints
    """Which row stands at a place."""
    ranks: Ints
    """Rank of the label, equal ones alike."""
    groups: Ints
    """Number of the group, from 0 without gaps."""
    tied: Ints
    """Number of the block of equal group and score."""
    alike: Ints
    """Number of the block of equal group, score and label."""

    @classmethod
    def of(cls, labels: Labels, scores: Floats, groups: npt.NDArray[Any] | None = None) -> "Pairs":
        """Sort by label, then by score, then by group if there are some: three sorts at most.

        Raises:
            Undefined, ValueError: As for `rmse`.
        """
        _errors(labels, scores)
        order = np.argsort(labels, kind="stable")
        ranks = np.empty(len(labels), np.int64)
        ranks[order] = _blocks(labels[order])
        order = order[np.argsort(scores[order], kind="stable")]
        own = np.zeros(len(labels), np.int64)
        if groups is not None:
            order = order[np.argsort(groups[order], kind="stable")]
            own = _blocks(groups[order])
        ranks = ranks[order]
        tied = _blocks(own, scores[order])
        return cls(order, ranks, own, tied, _blocks(tied, ranks))

    def levels(self) -> Iterator[Level]:
        """Deal the rows bit by bit; the last segments are of equal labels, their next bit is 0."""
        small = np.dtype(np.int32 if len(self.order) < 2**31 else np.int64)
        ends: Array = np.cumsum(np.bincount(self.groups)).astype(small)
        begin: Array = np.append(0, ends)[self.groups].astype(small)
        end: Array = ends[self.groups]
        at: Array = np.arange(len(self.order), dtype=small)
        positions, ranks = at, self.ranks.astype(small)
        for bit in reversed(range(int(self.ranks.max()).bit_length())):
            one = (ranks >> bit & 1).astype(np.bool_)
            yield Level(at, begin, end, one)
            ones = np.append(0, np.cumsum(one)).astype(small)
            before = ones[:-1] - ones[begin]  # of the same segment
            middle = end - (ones[end] - ones[begin])  # where the ones will begin
            to = np.where(one, middle + before, positions - before)
            begin, end = np.where(one, middle, begin), np.where(one, end, middle)
            moved = []
            for array in (at, ranks, begin, end):
                target = np.empty_like(array)
                target[to] = array
                moved.append(target)
            at, ranks, begin, end = moved
        yield Level(at, begin, end, np.zeros(len(at), np.bool_))

    def of_rows(self) -> tuple[Ints, Ints]:
        """Count, at each place, rows of the same group with another label, and twice the wrong.

        A row is wrong to another if the higher label has the lower score, and half so if the scores
        are equal.
        """
        twice_wrong = np.zeros(len(self.order), np.int64)
        at: Array = self.order
        begin = end = at
        for at, begin, end, one in self.levels():
            ones = np.append(0, np.cumsum(one))
            before, total = ones[:-1] - ones[begin], ones[end] - ones[begin]
            zeros_after = (end - np.arange(len(at)) - 1) - (total - before - one)
            twice_wrong[at] += 2 * np.where(one, zeros_after, before)
        same = np.empty(len(at), np.int64)
        same[at] = end - begin
        twice_wrong += np.bincount(self.tied)[self.tied] - np.bincount(self.alike)[self.alike]
        return np.bincount(self.groups)[self.groups] - same, twice_wrong

    def of_groups(self) -> tuple[Ints, Ints, Ints]:
        """Count each group's pairs with two labels, twice the wrong ones, and its rows."""
        rivals, twice_wrong = self.of_rows()  # by both rows of a pair
        sizes = np.bincount(self.groups)
        starts = np.cumsum(sizes) - sizes
        of_both = [np.add.reduceat(counts, starts) // 2 for counts in (rivals, twice_wrong)]
        return of_both[0], of_both[1], sizes

    def weighted(self, weights: Ints, levels: Sequence[Level]) -> tuple[Floats, Floats, Floats]:
        """Return each group's pairs with two labels, the wrong ones, and its rows, by weight.

        Args:
            weights: `[rows]`, at each place: how often a row counts.
            levels: Those of `levels`, kept for many weights.
        """
        n_groups = int(self.groups[-1]) + 1
        wrong = np.zeros(n_groups)
        for at, begin, _, one in levels:
            own = weights[at]
            ones = np.append(0, np.cumsum(own * one))
            lost = np.where(one, 0, own * (ones[:-1] - ones[begin]))
            wrong += np.bincount(self.groups, lost, n_groups)
        last = levels[-1]

        def pairs_in(blocks: Ints, groups: Ints, of: Ints) -> Floats:
            """Twice the pairs within blocks, and each row with itself, summed over groups."""
            sums = np.bincount(blocks, of)
            first = np.flatnonzero(np.append(True, blocks[1:] != blocks[:-1]))
            squares: Floats = np.bincount(groups[first], sums**2, n_groups).astype(np.float64)
            return squares

        rows: Floats = np.bincount(self.groups, weights, n_groups).astype(np.float64)
        same = pairs_in(_blocks(last.begin), self.groups, weights[last.at])
        tied = pairs_in(self.tied, self.groups, weights)
        tied -= pairs_in(self.alike, self.groups, weights)
        return (rows**2 - same) / 2, wrong + tied / 4, rows


def _blocks(*columns: Labels) -> Ints:
    """Number the blocks of equal neighbours, from 0."""
    new = np.zeros(len(columns[0]), np.bool_)
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.cumsum(new)


def _errors(labels: Labels, scores: Floats) -> npt.NDArray[np.float64]:
    """Return scores less labels, both checked."""
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be [rows] both")
    if not len(labels):
        raise Undefined("there are no rows")
    if not (labels.min() >= 0 and labels.max() <= 1):
        raise ValueError("a label lies outside [0, 1]")
    errors = scores.astype(np.float64) - labels
    if np.isnan(errors).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    return errors
