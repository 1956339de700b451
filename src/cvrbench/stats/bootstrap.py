"""The bootstrap: metrics on redrawn test rows, paired between runs.

Efron (Annals of Statistics 1979); clusters, such as users, are drawn whole (Field and Welsh, JRSS B
2007). A redrawn sample is a count per cluster, and so a weight per row: scores are sorted once, and
a draw costs a few sums over the rows. The same `Resampling` gives the same samples to every run, so
that the difference of two runs' draws is a draw of their difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cvrbench.metrics import log_losses
from cvrbench.stats.influence import Floats, Ints, Labels, Ranked, common_part
from cvrbench.system.rng import numpy_stream


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampling:
    """Which test rows each draw holds, and how often."""

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


def auc_draws(labels: Labels, scores: Floats, resampling: Resampling) -> Floats:
    """AUC on every redrawn sample, `[draws]`, exact with ties; NaN where a draw has one class only.

    Args:
        labels: `[rows]`, 0 or 1.
        scores: `[rows]`.
        resampling: Of these rows.
    """
    return _draws(labels, Ranked.of(labels, scores), resampling)


def gauc_draws(labels: Labels, scores: Floats, groups: Labels, resampling: Resampling) -> Floats:
    """GAUC on every redrawn sample, `[draws]`; NaN where no group of a draw has both classes.

    A group that is drawn twice counts as one of twice the rows; as two it would weigh the same.

    Args:
        labels: `[rows]`, 0 or 1.
        scores: `[rows]`.
        groups: `[rows]`, those that GAUC averages over.
        resampling: Of these rows, usually by the same groups.
    """
    return _draws(labels, Ranked.of(labels, scores, groups), resampling)


def log_loss_draws(labels: Labels, probabilities: Floats, resampling: Resampling) -> Floats:
    """Log loss on every redrawn sample, `[draws]`, in nats.

    Args:
        labels: `[rows]`, 0 or 1.
        probabilities: `[rows]`, in [0, 1].
        resampling: Of these rows.
    """
    losses = log_losses(labels, probabilities)
    _require_rows(losses, resampling)
    return np.array([weight @ losses / weight.sum() for weight in resampling.weights()])


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


def _draws(labels: Labels, ranked: Ranked, resampling: Resampling) -> Floats:
    """GAUC over the groups of `ranked`, which is the AUC where there is one group."""
    _require_rows(labels, resampling)
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


def _require_rows(values: Labels, resampling: Resampling) -> None:
    if len(values) != resampling.rows:
        raise ValueError(f"{len(values)} rows, but {resampling.rows} are redrawn")
