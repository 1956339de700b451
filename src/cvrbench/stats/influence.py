"""How far each test row moves a metric, and how far redrawn rows would."""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cvrbench.metrics import Undefined, log_losses
from cvrbench.metrics.by_group import contests

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]


class Ranked(NamedTuple):
    """An order of the rows; a block of it holds the rows of one group that share one score."""

    order: Ints
    """`[rows]`: by group, then by score."""
    blocks: Ints
    """`[blocks]`: where each begins in that order."""
    starts: Ints
    """`[groups]`: the first block of each group."""

    @classmethod
    def of(cls, labels: Labels, scores: Floats, groups: Labels | None = None) -> Self:
        """Sort the rows; without groups all rows are one.

        Args:
            labels: `[rows]`.
            scores: `[rows]`.
            groups: `[rows]`, any sortable codes; codes of 16 bits are sorted by counting.

        Raises:
            ValueError: Lengths differ, or a score is NaN.
        """
        if not len(labels) or labels.shape != scores.shape or np.isnan(scores).any():
            raise ValueError(
                f"labels {labels.shape} and scores {scores.shape} must be [rows] both, without NaN"
            )
        order = np.argsort(scores)
        if groups is not None:
            order = order[np.argsort(groups[order], kind="stable")]
        score = scores[order]
        new_block = np.append(True, score[1:] != score[:-1])
        if groups is None:
            return cls(order, np.flatnonzero(new_block), np.zeros(1, np.int64))
        group = groups[order]
        new_group = np.append(True, group[1:] != group[:-1])
        blocks = np.flatnonzero(new_group | new_block)
        return cls(order, blocks, np.flatnonzero(new_group[blocks]))

    def add(self, weights: Labels) -> Labels:
        """Sum weights `[rows]`, in this order, over each block."""
        return np.add.reduceat(weights, self.blocks)

    def per_group(self, values: Labels) -> Labels:
        """Sum values `[blocks]` over each group."""
        return np.add.reduceat(values, self.starts)

    def before(self, values: Labels) -> Labels:
        """Sum values `[blocks]` over the blocks of the same group with lower scores."""
        running = np.cumsum(values) - values
        sizes = np.diff(np.append(self.starts, len(self.blocks)))
        sums: Labels = running - np.repeat(running[self.starts], sizes)
        return sums

    def over_rows(self, values: Labels) -> Labels:
        """Repeat values `[blocks]` over each block's rows, in this order."""
        return np.repeat(values, np.diff(np.append(self.blocks, len(self.order))))


def auc_influence(labels: Labels, scores: Floats) -> Floats:
    """Influence of each row on an AUC: `[rows]`, with mean 0 over the rows of either class.

    A positive row's value is its placement, the share of negatives that it outscores (ties half),
    less the AUC, over the number of positives; a negative row's likewise. The sum of squares over
    the rows is the variance of DeLong, DeLong and Clarke-Pearson (Biometrics 1988) up to their
    factors m / (m - 1) and n / (n - 1); sums over clusters give Obuchowski's (Biometrics 1997).
    Sorting makes it exact with ties in O(n log n) (Sun and Xu, IEEE Signal Proc. Letters 2014).

    Args:
        labels: `[rows]`, 0 or 1, both present.
        scores: `[rows]`.
    """
    ranked = Ranked.of(labels, scores)
    positive = labels[ranked.order] == 1
    wins, losses = ranked.add(positive * 1), ranked.add(~positive * 1)
    n_positive, n_negative = int(wins.sum()), int(losses.sum())
    below = np.cumsum(losses) - losses / 2
    above = n_positive - np.cumsum(wins) + wins / 2
    placement = np.where(
        positive, ranked.over_rows(below) / n_negative, ranked.over_rows(above) / n_positive
    )
    auc = float(placement[positive].mean())
    influence = np.empty(len(scores))
    influence[ranked.order] = (placement - auc) / np.where(positive, n_positive, n_negative)
    return influence


def log_loss_influence(labels: Labels, probabilities: Floats) -> Floats:
    """Influence of each row on a log loss: `[rows]`, its own loss less the mean, over the rows.

    The sum of squares is the textbook variance of a mean, up to n / (n - 1).

    Args:
        labels: `[rows]`, 0 or 1.
        probabilities: `[rows]`, in [0, 1].
    """
    losses = log_losses(labels, probabilities)
    influence: Floats = (losses - losses.mean()) / len(losses)
    return influence


def gauc_influence(labels: Labels, scores: Floats, groups: Labels) -> Floats:
    """Influence of each group, drawn as a whole, on a GAUC: `[groups]`, summing to 0.

    GAUC = sum_g w_g A_g / sum_g w_g, with w_g the rows of a group that has both classes and A_g its
    AUC, is a ratio estimator (Cochran, Sampling Techniques, 3rd ed. 1977, section 6.3). Its
    derivative by the weight of a whole group, at weights of 1, is w_g (A_g - GAUC) / sum_g w_g;
    groups of one class move nothing.

    Args:
        labels: `[rows]`, 0 or 1.
        scores: `[rows]`, without NaN.
        groups: `[rows]`, numbers from 0 without gaps.

    Raises:
        Undefined: No group has both classes.
    """
    positive = labels == 1
    rows, positives = np.bincount(groups), np.bincount(groups[positive])
    positives = np.pad(positives, (0, len(rows) - len(positives)))
    used = (positives > 0) & (positives < rows)
    if not used.any():
        raise Undefined("no group has both a positive and a negative row")
    found = contests(positive, scores, groups)
    auc = found.twice_wins / (2 * found.positives * found.negatives)
    size = rows[used]
    gauc = float((size * auc).sum() / size.sum())
    influence = np.zeros(len(rows))
    influence[used] = size * (auc - gauc) / size.sum()
    return influence


def row_variance(influence: Floats, labels: Labels | None = None) -> float:
    """Variance, over redrawn test rows, of a statistic with these influences.

    Args:
        influence: `[rows]`: of a metric, of a difference of two, or of means of such. Where rows
            are drawn by groups (all of a user's together), the sums over each group: `[groups]`.
        labels: `[rows]`, 0 or 1, where rows of either class are drawn in their given number, which
            gives DeLong's variance of an AUC exactly; None where all are drawn alike, which gives a
            mean's (log loss).
    """
    everywhere = np.ones(len(influence), np.bool_)
    strata = (everywhere,) if labels is None else (labels == 1, labels != 1)
    squares = 0.0
    for own in strata:
        n = int(own.sum())
        squares += float((influence[own] ** 2).sum()) * n / max(n - 1, 1)
    return squares


def common_row_variance(influences: Floats, labels: Labels | None = None) -> float:
    """Variance, over redrawn test rows, of what the seeds have in common.

    The mean covariance of two different seeds' statistics over the same redrawn rows. What rows do
    to one seed alone is part of the spread over seeds already, so the variance of the seeds' mean
    (`row_variance` of the mean influence) would count it a second time. The estimate is the
    covariance of the readers in Obuchowski and Rockette's analysis of many readers on the same
    cases (Communications in Statistics 1995), with seeds for readers, and 0 where it is negative as
    there.

    Args:
        influences: `[seeds, rows]`, of one statistic under at least two seeds.
        labels: As for `row_variance`.

    Raises:
        ValueError: There is only one seed.
    """
    if len(influences) < 2:
        raise ValueError("what seeds have in common needs at least two")
    of_mean = row_variance(influences.mean(axis=0), labels)
    of_one = float(np.mean([row_variance(one, labels) for one in influences]))
    return common_part(of_mean, of_one, len(influences))


def common_part(of_mean: float, of_one: float, seeds: int) -> float:
    """Solve `of_mean = common + (of_one - common) / seeds` for a variance in common, at least 0.

    Args:
        of_mean: Variance of the seeds' mean over redrawn rows.
        of_one: Mean variance of one seed's statistic over redrawn rows.
        seeds: At least 2.
    """
    return max(0.0, (seeds * of_mean - of_one) / (seeds - 1))
