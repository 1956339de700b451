"""How far each test row moves a metric, and how far redrawn rows would."""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cvrbench.metrics import Undefined, log_losses

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class Ranked(NamedTuple):
    """An order of the rows; a block of it holds the rows of one group that share one score."""

    order: Ints
    """`[rows]`: by group, then by score."""
    blocks: Ints
    """`[blocks]`: where each begins in that order."""
    starts: Ints
    """`[groups]`: the first block of each group."""

    @classmethod
    def of(
        cls,
        labels: Array,
        scores: Array,
        groups: Array | None = None,
        by_score: Ints | None = None,
    ) -> Self:
        """Sort; without groups all rows are one.

        Args:
            labels: `[rows]`.
            scores: `[rows]`.
            groups: `[rows]`, any sortable codes; of 16 bits they are sorted by counting.
            by_score: `[rows]`, the scores' order from low to high where it is at hand.

        Raises:
            ValueError: Lengths differ, or a score is NaN.
        """
        if not len(labels) or labels.shape != scores.shape or np.isnan(scores).any():
            raise ValueError(
                f"labels {labels.shape} and scores {scores.shape} must be [rows] both, without NaN"
            )
        order = np.argsort(scores) if by_score is None else by_score
        if groups is not None:
            order = order[np.argsort(groups[order], kind="stable")]
        score = scores[order]
        new_block = np.append(True, score[1:] != score[:-1])
        if groups is None:
            blocks = np.flatnonzero(new_block)
            return cls(order, blocks, np.zeros(1, np.int64))
        group = groups[order]
        new_group = np.append(True, group[1:] != group[:-1])
        blocks = np.flatnonzero(new_group | new_block)
        return cls(order, blocks, np.flatnonzero(new_group[blocks]))

    def add(self, weights: Array) -> Array:
        """Sum weights `[rows]`, in this order, over each block."""
        return np.add.reduceat(weights, self.blocks)

    def per_group(self, values: Array) -> Array:
        """Sum values `[blocks]` over each group."""
        return np.add.reduceat(values, self.starts)

    def before(self, values: Array) -> Array:
        """Sum values `[blocks]` over the blocks of the same group with lower scores."""
        running = np.cumsum(values) - values
        return running - self.over_blocks(running[self.starts])

    def over_blocks(self, values: Array) -> Array:
        """Repeat values `[..., groups]` over each group's blocks."""
        sizes = np.diff(np.append(self.starts, len(self.blocks)))
        return np.repeat(values, sizes, axis=-1)

    def over_rows(self, values: Array) -> Array:
        """Repeat values `[..., blocks]` over each block's rows, in this order."""
        sizes = np.diff(np.append(self.blocks, len(self.order)))
        return np.repeat(values, sizes, axis=-1)


Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]


def auc_influence(labels: Labels, scores: Floats, by_score: Ints | None = None) -> Floats:
    """How far each row moves an AUC: `[rows]`, with mean 0 over the rows of either class.

    A positive row's value is its placement, the share of negatives that it outscores (ties half),
    less the AUC, over the number of positives; a negative row's likewise. The sum of squares over
    the rows is the variance of DeLong, DeLong and Clarke-Pearson (Biometrics 1988) up to their
    factors m / (m - 1) and n / (n - 1); sums over clusters give Obuchowski's (Biometrics 1997).
    Sorting makes it exact with ties in O(n log n) (Sun and Xu, IEEE Signal Proc. Letters 2014).

    Args:
        labels: `[rows]`, 0 or 1, both present.
        scores: `[rows]`.
        by_score: `[rows]`, their order from low to high where it is at hand.
    """
    ranked = Ranked.of(labels, scores, by_score=by_score)
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
    """How far each row moves a log loss: `[rows]`, its own loss less the mean, over the rows.

    The sum of squares is the textbook variance of a mean, up to n / (n - 1).

    Args:
        labels: `[rows]`, 0 or 1.
        probabilities: `[rows]`, in [0, 1].
    """
    losses = log_losses(labels, probabilities)
    influence: Floats = (losses - losses.mean()) / len(losses)
    return influence


def gauc_influence(
    labels: Labels, scores: Floats, groups: Labels, by_score: Ints | None = None
) -> Floats:
    """How far each row moves a GAUC: `[rows]`, summing to 0.

    GAUC = sum_g w_g A_g / sum_g w_g, with w_g the rows of a group that has both classes and A_g its
    AUC, is a ratio estimator (Cochran, Sampling Techniques, 3rd ed. 1977, section 6.3). Its
    derivative by the weight of row i of group g, at weights of 1, is

        ( A_g - GAUC + w_g dA_g ) / W,    W = sum_g w_g,

    where dA_g, row i's `auc_influence` within its group, sums to 0 over each class of the group. A
    group drawn as a whole therefore moves GAUC by w_g (A_g - GAUC) / W, whatever its rows do among
    themselves; rows of one-class groups move nothing.

    Args:
        labels: `[rows]`, 0 or 1.
        scores: `[rows]`.
        groups: `[rows]`, any sortable codes.
        by_score: `[rows]`, the scores' order from low to high where it is at hand.

    Raises:
        Undefined: No group has both classes.
    """
    ranked = Ranked.of(labels, scores, groups, by_score)
    positive = labels[ranked.order] == 1
    found = _group_aucs(ranked, positive)
    with np.errstate(invalid="ignore", divide="ignore"):  # one-class groups, left out below
        of_positive = found.below / ranked.over_blocks(found.negatives)
        of_negative = found.above / ranked.over_blocks(found.positives)
        of_groups = np.stack([found.auc, 1 / found.positives, 1 / found.negatives])
    row_auc, per_positive, per_negative = ranked.over_rows(ranked.over_blocks(of_groups))
    placement = ranked.over_rows(np.stack([of_positive, of_negative]))
    within = np.where(
        positive, (placement[0] - row_auc) * per_positive, (placement[1] - row_auc) * per_negative
    )
    size = ranked.over_rows(ranked.over_blocks(found.positives + found.negatives))
    moves = (row_auc - found.gauc + size * within) / found.total
    influence = np.empty(len(scores))
    used = ranked.over_rows(ranked.over_blocks(found.used))
    influence[ranked.order] = np.where(used, moves, 0.0)
    return influence


def gauc_influence_of_groups(
    labels: Labels, scores: Floats, groups: Labels, by_score: Ints | None = None
) -> Floats:
    """How far each group, drawn as a whole, moves a GAUC: `[groups]`, in the order of the codes.

    These are the sums of `gauc_influence` over each group's rows, at a third of the time.

    Args:
        labels: `[rows]`, 0 or 1.
        scores: `[rows]`.
        groups: `[rows]`, any sortable codes.
        by_score: `[rows]`, the scores' order from low to high where it is at hand.

    Raises:
        Undefined: No group has both classes.
    """
    ranked = Ranked.of(labels, scores, groups, by_score)
    found = _group_aucs(ranked, labels[ranked.order] == 1)
    moves = (found.positives + found.negatives) * (found.auc - found.gauc) / found.total
    return np.where(found.used, moves, 0.0)


class _GroupAucs(NamedTuple):
    """What GAUC is made of."""

    below: Floats
    """`[blocks]`: negatives of its group that a row of the block outscores, ties half."""
    above: Floats
    """`[blocks]`: positives of its group that outscore a row of the block, ties half."""
    positives: Ints
    """`[groups]`."""
    negatives: Ints
    auc: Floats
    """`[groups]`: NaN of one class."""
    used: Labels
    """`[groups]`: whether both classes are there."""
    total: int
    """Rows of the groups that are used."""
    gauc: float


def _group_aucs(ranked: Ranked, positive: Labels) -> _GroupAucs:
    """Rank the rows within each group; `positive` is `[rows]` in the ranks' order."""
    wins, losses = ranked.add(positive * 1), ranked.add(~positive * 1)
    positives, negatives = ranked.per_group(wins), ranked.per_group(losses)
    used = (positives > 0) & (negatives > 0)
    if not used.any():
        raise Undefined("no group has both a positive and a negative row")
    below = ranked.before(losses) + losses / 2
    above = ranked.over_blocks(positives) - ranked.before(wins) - wins / 2
    with np.errstate(invalid="ignore"):
        auc = ranked.per_group(wins * below) / (positives * negatives)
    size = (positives + negatives)[used]
    total = int(size.sum())
    gauc = float((size * auc[used]).sum() / total)
    return _GroupAucs(below, above, positives, negatives, auc, used, total, gauc)


def row_variance(
    influence: Floats, labels: Labels | None = None, groups: Labels | None = None
) -> float:
    """Variance, over redrawn test rows, of a statistic with these influences.

    Args:
        influence: `[rows]`: of a metric, of a difference of two, or of means of such.
        labels: `[rows]`, 0 or 1, where rows of either class are drawn in their given number, which
            gives DeLong's variance of an AUC exactly; None where all rows are drawn alike, which
            gives a mean's (log loss). Where groups are given it has no say.
        groups: `[rows]`, codes of what is drawn as a whole (a user); None where rows are drawn
            one by one.
    """
    if groups is None:
        everywhere = np.ones(len(influence), np.bool_)
        strata = (everywhere,) if labels is None else (labels == 1, labels != 1)
        squares = 0.0
        for own in strata:
            n = int(own.sum())
            squares += float((influence[own] ** 2).sum()) * n / max(n - 1, 1)
        return squares
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, weights=influence)
    return float((sums**2).sum()) * len(sums) / max(len(sums) - 1, 1)


def common_row_variance(
    influences: Floats, labels: Labels | None = None, groups: Labels | None = None
) -> float:
    """Variance, over redrawn test rows, of what the seeds have in common.

    The mean covariance of two different seeds' statistics over the same redrawn rows. What rows do
    to one seed alone is not in it: that is in the spread over seeds already, of which the variance
    of the seeds' mean (`row_variance` of the mean influence) would count it a second time. It is
    the covariance of the readers in Obuchowski and Rockette's analysis of many readers on the same
    cases (Communications in Statistics 1995), with seeds for readers, 0 where its estimate is less
    as there.

    Args:
        influences: `[seeds, rows]`, of one statistic under at least two seeds.
        labels: As for `row_variance`.
        groups: As for `row_variance`.

    Raises:
        ValueError: There is only one seed.
    """
    if len(influences) < 2:
        raise ValueError("what seeds have in common needs at least two")
    of_mean = row_variance(influences.mean(axis=0), labels, groups)
    of_one = float(np.mean([row_variance(one, labels, groups) for one in influences]))
    return common_part(of_mean, of_one, len(influences))


def common_part(of_mean: float, of_one: float, seeds: int) -> float:
    """Solve `of_mean = common + (of_one - common) / seeds` for a variance in common, at least 0.

    Args:
        of_mean: Variance of the seeds' mean over redrawn rows.
        of_one: Mean variance of one seed's statistic over redrawn rows.
        seeds: At least 2.
    """
    return max(0.0, (seeds * of_mean - of_one) / (seeds - 1))
