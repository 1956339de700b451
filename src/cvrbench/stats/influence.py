"""How far each test row moves a metric, and how far redrawn rows would: formulas and bootstrap."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cvrbench.metrics import Undefined, log_losses
from cvrbench.metrics.by_group import contests
from cvrbench.metrics.ratios import Pairs
from cvrbench.system.rng import numpy_stream

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


def rmse_influence(labels: Labels, scores: Floats) -> Floats:
    """Influence of each row on an RMSE: `[rows]`, that on its square over 2 RMSE (delta method).

    Args:
        labels: `[rows]`, from 0 to 1.
        scores: `[rows]`.
    """
    squares = np.square(scores.astype(np.float64) - labels)
    mse = float(squares.mean())
    influence: Floats = (squares - mse) / len(squares)
    return influence / (2 * math.sqrt(mse)) if mse else influence


def mae_influence(labels: Labels, scores: Floats) -> Floats:
    """Influence of each row on a mean absolute error: `[rows]`; see `rmse_influence`."""
    errors = np.abs(scores.astype(np.float64) - labels)
    influence: Floats = (errors - errors.mean()) / len(errors)
    return influence


def xauc_influence(labels: Labels, scores: Floats) -> Floats:
    """Influence of each row on an XAUC: `[rows]`, summing to 0.

    XAUC is a ratio of two U-statistics, the pairs ordered rightly over the pairs whose labels
    differ. Its derivative by the weight of a row, at weights of 1, is (a - XAUC n) / pairs, where
    the row is in n such pairs, a of them right (Hoeffding, Annals of Mathematical Statistics 1948).
    Of labels 0 and 1 it is `auc_influence`.

    Args:
        labels: `[rows]`, from 0 to 1, two of them different.
        scores: `[rows]`, without NaN.
    """
    pairs = Pairs.of(labels, scores)
    rivals, twice_wrong = pairs.of_rows()
    right = rivals - twice_wrong / 2
    xauc = float(right.sum() / rivals.sum())
    influence = np.empty(len(rivals))
    influence[pairs.order] = (right - xauc * rivals) / (rivals.sum() / 2)
    return influence


def gxauc_influence(labels: Labels, scores: Floats, groups: Labels) -> Floats:
    """Influence of each group, drawn as a whole, on a GXAUC: `[groups]`; see `gauc_influence`.

    Raises:
        Undefined: No group has two labels.
    """
    rivals, twice_wrong, sizes = Pairs.of(labels, scores, groups).of_groups()
    used = rivals > 0
    if not used.any():
        raise Undefined("no user has two rows that differ in their label")
    rows = sizes[used]
    xauc = 1 - twice_wrong[used] / (2 * rivals[used])
    gxauc = float((rows * xauc).sum() / rows.sum())
    influence = np.zeros(len(sizes))
    influence[used] = rows * (xauc - gxauc) / rows.sum()
    return influence


def per_group(influence: Floats, groups: Ints, labels: Labels | None = None) -> Floats:
    """Sum influences over groups that are drawn as a whole, `[groups]`, for `row_variance`.

    A group pulls the mean that it is measured against, so that the sum of a heavy one is too near
    to 0: each row's influence is divided by the root of 1 less its group's share of the rows, the
    correction CR2 (Bell and McCaffrey, Survey Methodology 2002) under equal rows. Groups of equal
    size are left to the factor n / (n - 1) of `row_variance`, which is the same there.

    Args:
        influence: `[rows]`.
        groups: `[rows]`, numbers from 0 without gaps.
        labels: `[rows]`, 0 or 1, of an AUC, whose two means are over the rows of either class.
    """
    n = int(groups.max()) + 1
    rest = np.empty(len(influence))
    strata = (np.ones(len(groups), np.bool_),) if labels is None else (labels == 1, labels != 1)
    for own in strata:
        share = np.bincount(groups[own], minlength=n) / max(int(own.sum()), 1)
        rest[own] = np.maximum(1 - share, 1 / n)[groups[own]]
    scaled = influence * np.sqrt((1 - 1 / n) / rest) if n > 1 else influence
    return np.bincount(groups, weights=scaled, minlength=n).astype(np.float64, copy=False)


def effective_groups(groups: Ints) -> float:
    """Return the number of groups of equal size that would weigh as these do.

    One over the sum of their squared shares of the rows (Kish, Survey Sampling 1965). A variance
    over redrawn groups has about as many degrees of freedom, less 1 (Carter, Schnepel and
    Steigerwald, Review of Economics and Statistics 2017).

    >>> effective_groups(np.array([0, 0, 0, 1])), effective_groups(np.array([0, 1, 2]))
    (1.6, 3.0)
    """
    sizes = np.bincount(groups).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


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


def folded(influence: Floats, labels: Labels | None = None, most: int = 2**17) -> Floats:
    """Sum influences over so many heaps of rows at most, for a `row_variance` of less memory.

    Independent rows make independent heaps: the variance over these has the same mean and a
    standard deviation of half a per cent. The heaps of label 1 come first (`folded_labels`).

    Args:
        influence: `[rows]`.
        labels: `[rows]`, as for `row_variance`.
        most: Heaps of rows of one label.
    """
    everywhere = np.ones(len(influence), np.bool_)
    heaps = []
    for own in (everywhere,) if labels is None else (labels == 1, labels != 1):
        rows = influence[own]
        heaps.append(np.bincount(np.arange(len(rows)) % most, weights=rows))
    found: Floats = np.concatenate(heaps)
    return found


def folded_labels(labels: Labels, most: int = 2**17) -> Labels:
    """Return the labels of `folded` heaps."""
    positives = int((labels == 1).sum())
    return np.repeat([1, 0], [min(most, positives), min(most, len(labels) - positives)])


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampling:
    """Which test rows each draw of the bootstrap holds, and how often.

    Efron (Annals of Statistics 1979); clusters, such as users, are drawn whole (Field and Welsh,
    JRSS B 2007). A redrawn sample is a count per cluster, and so a weight per row: scores are
    sorted once, and a draw costs a few sums over the rows. The same `Resampling` gives the same
    samples to every run, so that the difference of two runs' draws is a draw of their difference.
    """

    rows: int
    groups: Labels | None = None
    """`[rows]`, codes of what is drawn as a whole (a user); None where it is each row."""
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError where there are no rows or draws, or not one code per row."""
        if self.rows < 1 or self.draws < 1:
            raise ValueError(f"{self.draws} draws of {self.rows} rows: both must be at least 1")
        if self.groups is not None and len(self.groups) != self.rows:
            raise ValueError(f"{len(self.groups)} group codes for {self.rows} rows")

    @cached_property
    def clusters(self) -> Ints | None:
        """`[rows]`: each row's cluster, from 0; None where each row is its own."""
        return None if self.groups is None else np.unique(self.groups, return_inverse=True)[1]

    @cached_property
    def n_clusters(self) -> int:
        """How many clusters there are, and are drawn."""
        return self.rows if self.clusters is None else int(self.clusters.max()) + 1

    def counts(self, draw: int) -> Ints:
        """How often each cluster is in a draw, `[clusters]`: follows from `seed` and `draw`."""
        drawn = numpy_stream(self.seed, "bootstrap", draw).integers(
            0, self.n_clusters, self.n_clusters
        )
        return np.bincount(drawn, minlength=self.n_clusters)

    def weights(self, order: Ints | None = None) -> Iterator[Ints]:
        """Yield, draw after draw, how often each row is in it, `[rows]`.

        Args:
            order: `[rows]`, the order of the rows in the result; None for their own.
        """
        cluster = self.clusters
        if order is not None:
            cluster = order if cluster is None else cluster[order]
        for draw in range(self.draws):
            counts = self.counts(draw)
            yield counts if cluster is None else counts[cluster]


def auc_draws(
    labels: Labels, scores: Floats, resampling: Resampling, groups: Labels | None = None
) -> Floats:
    """AUC on every redrawn sample, `[draws]`, exact with ties; or GAUC, if there are groups.

    NaN where a draw, or each group of it, has one class only. A group that is drawn twice counts as
    one of twice the rows; as two it would weigh the same.

    Args:
        labels: `[rows]`, 0 or 1.
        scores: `[rows]`.
        resampling: Of these rows.
        groups: `[rows]`, those that GAUC averages over.
    """
    _require_rows(labels, resampling)
    ranked = Ranked.of(labels, scores, groups)
    positive = (labels[ranked.order] == 1).astype(np.int64)
    values = np.empty(resampling.draws)
    for draw, weight in enumerate(resampling.weights(ranked.order)):
        wins = ranked.add(weight * positive)
        losses = ranked.add(weight) - wins
        n_positive, n_negative = ranked.per_group(wins), ranked.per_group(losses)
        twice_wins = ranked.per_group(wins * (2 * ranked.before(losses) + losses))
        pairs = n_positive * n_negative
        rows = np.where(pairs > 0, n_positive + n_negative, 0)
        total = rows.sum()
        shares = rows * (twice_wins / (2 * np.maximum(pairs, 1)))
        values[draw] = shares.sum() / total if total else np.nan
    return values


def log_loss_draws(labels: Labels, probabilities: Floats, resampling: Resampling) -> Floats:
    """Log loss on every redrawn sample, `[draws]`, in nats.

    Args:
        labels: `[rows]`, 0 or 1.
        probabilities: `[rows]`, in [0, 1].
        resampling: Of these rows.
    """
    return _mean_draws(log_losses(labels, probabilities), resampling)


def _mean_draws(losses: Floats, resampling: Resampling) -> Floats:
    _require_rows(losses, resampling)
    # Not by BLAS, whose last bits depend on the number of its threads.
    return np.array([(weight * losses).sum() / weight.sum() for weight in resampling.weights()])


def rmse_draws(labels: Labels, scores: Floats, resampling: Resampling) -> Floats:
    """RMSE on every redrawn sample, `[draws]`; arguments as of `rmse_influence`."""
    squares = np.square(scores.astype(np.float64) - labels)
    return np.sqrt(_mean_draws(squares, resampling))


def mae_draws(labels: Labels, scores: Floats, resampling: Resampling) -> Floats:
    """Mean absolute error on every redrawn sample, `[draws]`; arguments as of `rmse_influence`."""
    return _mean_draws(np.abs(scores.astype(np.float64) - labels), resampling)


def xauc_draws(
    labels: Labels, scores: Floats, resampling: Resampling, groups: Labels | None = None
) -> Floats:
    """XAUC on every redrawn sample, `[draws]`, or GXAUC, if there are groups; see `auc_draws`."""
    _require_rows(labels, resampling)
    pairs = Pairs.of(labels, scores, groups)
    levels = [*pairs.levels()]
    values = np.empty(resampling.draws)
    for draw, weight in enumerate(resampling.weights(pairs.order)):
        rivals, wrong, rows = pairs.weighted(weight, levels)
        used = rivals > 0
        shares = rows[used] * (1 - wrong[used] / rivals[used])
        values[draw] = shares.sum() / rows[used].sum() if used.any() else np.nan
    return values


def common_draw_variance(draws: Floats) -> float:
    """Variance of what the seeds have in common: `influence.common_row_variance` by the bootstrap.

    Args:
        draws: `[seeds, draws]` of one statistic, paired; at least two seeds. Draws in which one is
            NaN are left out.

    Raises:
        ValueError: There is only one seed, or fewer than two draws have a value.
    """
    known = draws[:, ~np.isnan(draws).any(axis=0)]
    seeds, n = known.shape
    if seeds < 2 or n < 2:
        raise ValueError(f"{seeds} seeds and {n} draws with a value; both must be at least 2")
    of_mean = float(known.mean(axis=0).var(ddof=1))
    return common_part(of_mean, float(known.var(axis=1, ddof=1).mean()), seeds)


def _require_rows(values: Labels, resampling: Resampling) -> None:
    if len(values) != resampling.rows:
        raise ValueError(f"{len(values)} rows, but {resampling.rows} are redrawn")
