"""Which of several strategies may be the best: the model confidence set, with both doubts.

Hansen, Lunde and Nason (Econometrica 2011): as long as the strategies that are left are shown to
differ, the one that another beats most clearly is dropped. All that are truly best stay together in
at least 95 % of repetitions, so that of strategies that are alike none is called worse more often
than once in twenty. How clearly j beats i is

    U[j, i] = (mean of j - mean of i) / reach of the pair,

with the distance that their difference exceeds by chance (`mixture.reaches`) in place of a standard
error, so that pairs of few and of many seeds are on one scale; and what is left differs where the
largest U is beyond that of simulated seeds and test rows on which all are alike.

What a strategy gives up at most is Hsu's (Annals of Statistics 1984): with c[i] the value that the
largest U against i exceeds once in twenty if i is the best, the best one's mean is at most
mean of i + c[i] * reach away for all others at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.stats import mixture
from cvrbench.stats.difference import Difference, difference, row_difference
from cvrbench.stats.influence import Floats, Labels, common_part
from cvrbench.system.rng import numpy_stream

LEVEL = 0.05
DRAWS = 4000
MOST_CELLS = 8_000_000
"""Draws times pairs that are in memory together."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """One metric of several strategies on the same test rows; higher is better."""

    values: Floats
    """`[strategies, seeds]`; NaN where a strategy lacks a seed."""
    of_rows: Floats
    """`[strategies, strategies]`: variance of a pair's mean difference over redrawn test rows."""
    freedom: float = np.inf
    """Degrees of freedom of that."""

    @property
    def there(self) -> Bools:
        """Which strategy has which seed, `[strategies, seeds]`."""
        found: Bools = ~np.isnan(self.values)
        return found

    @property
    def single(self) -> bool:
        """Whether there is one seed, so that the doubt is that of the test rows alone."""
        return bool(self.there.sum() == len(self.values))

    def gains(self, first: int, second: int) -> Floats:
        """Return the first strategy's metric less the second's, a value per seed in common."""
        gains = self.values[first] - self.values[second]
        found: Floats = gains[~np.isnan(gains)]
        return found

    def difference(self, first: int, second: int) -> Difference:
        """Test a pair by itself, as `difference.difference` does; it needs two seeds."""
        return difference(
            self.gains(first, second).tolist(), float(self.of_rows[first, second]), self.freedom
        )


class Best(NamedTuple):
    """What is known of the best of several strategies; all `[strategies]`."""

    p: Floats
    """p of "it is one of the best", over all strategies at once."""
    rival: npt.NDArray[np.int64]
    """Of those that are dropped the strategy that beat them most clearly, which the p is of."""
    loss: Floats
    """What it gives up against the best, at most: bounds that hold together at 95 %."""
    chance: Floats
    """Chance to be the best, with seeds and test rows drawn anew."""
    wins: Floats
    """`[strategies, strategies]`: share of these draws in which the first beats the second."""

    @property
    def inside(self) -> Bools:
        """Which are in the best set."""
        found: Bools = self.p >= LEVEL
        return found


def joint(
    values: Floats,
    influences: Sequence[Mapping[int, Floats]],
    strata: Labels | None,
    freedom: float = np.inf,
) -> Joint:
    """Combine runs on the same test rows.

    Args:
        values: `[strategies, seeds]`, higher is better; NaN where there is no run.
        influences: Per strategy: number of the seed -> `[rows]` (`influence`).
        strata: As for `influence.row_variance`.
        freedom: Degrees of freedom of variances over rows.
    """
    of_rows = np.zeros((len(values), len(values)))
    there = ~np.isnan(values)
    of_seed = {}
    for seed in np.flatnonzero(there.any(axis=0)).tolist():
        members = np.flatnonzero(there[:, seed]).tolist()
        of_seed[seed] = _spread(members, [influences[k][seed] for k in members], strata, len(there))
    for seeds, pairs in _by_seeds(there):
        members = np.flatnonzero(there[:, seeds].all(axis=1)).tolist()
        means = [np.mean([influences[k][seed] for seed in seeds], axis=0) for k in members]
        of_mean = _spread(members, means, strata, len(there))
        of_one = np.mean([of_seed[seed] for seed in seeds], axis=0)
        for i, j in pairs:
            mean, one = float(of_mean[i, j]), float(of_one[i, j])
            of_rows[i, j] = mean if len(seeds) == 1 else common_part(mean, one, len(seeds))
    return Joint(values=values, of_rows=np.maximum(of_rows, of_rows.T), freedom=freedom)


def _by_seeds(there: Bools) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Yield every set of seeds that some pair has in common, with these pairs."""
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i, j in combinations(range(len(there)), 2):
        common = tuple(np.flatnonzero(there[i] & there[j]).tolist())
        if common:
            found.setdefault(common, []).append((i, j))
    yield from ((list(seeds), pairs) for seeds, pairs in found.items())


def _spread(
    members: Sequence[int], influences: Sequence[Floats], strata: Labels | None, n: int
) -> Floats:
    """Return `row_variance` of every pair's difference, `[n, n]`; 0 beside the members."""
    stacked = np.array(influences)
    squares = np.zeros((len(members), len(members)))
    everywhere = np.ones(stacked.shape[1], np.bool_)
    for own in (everywhere,) if strata is None else (strata == 1, strata != 1):
        rows = np.ascontiguousarray(stacked[:, own])
        # Not by BLAS, whose last bits depend on the number of its threads.
        products = np.einsum("ir,jr->ij", rows, rows)
        squares += products * (rows.shape[1] / max(rows.shape[1] - 1, 1))
    alone = np.diag(squares)
    found = np.zeros((n, n))
    found[np.ix_(members, members)] = np.maximum(alone[:, None] + alone - 2 * squares, 0.0)
    return found


def best(found: Joint, *, seed: int = 0) -> Best:
    """Find out which strategies may be the best, and what each gives up at most.

    Seeds of two strategies count as independent once what they have in common is gone; the seeds'
    variance of each is fitted to those of the pairs, and every simulated table draws the true one
    by what so few seeds leave open of it. Taken for the true one, a variance that is too small by
    luck calls up to 10 % of tables of two seeds different in which all are alike.

    Args:
        found: At least two strategies, every pair with two seeds in common, or all with one.
        seed: Of the simulation.
    """
    n = len(found.values)
    level = min(0.1, max(0.002, 2 * LEVEL / (n - 1)))
    gain, of_seeds, reach = _pairs(found, level)
    draws = min(DRAWS, max(400, MOST_CELLS // n**2))
    random = numpy_stream(seed, "best set", draws)
    deviation = np.sqrt(_per_strategy(of_seeds))
    normal = random.standard_normal((draws, found.values.shape[1], n))
    freedom = np.maximum(found.there.sum(axis=1) - 1, 1)
    true = deviation * np.sqrt(freedom / random.chisquare(freedom, (draws, n)))
    rows, estimated = _row_noise(found, draws, random)
    simulated = np.zeros((draws, n, n))
    for seeds, pairs in _by_seeds(found.there):
        part = normal[:, seeds] * true[:, None]
        mean = part.mean(axis=1) + rows
        apart = part - part.mean(axis=1, keepdims=True)
        for i, j in pairs:
            squares = ((apart[:, :, i] - apart[:, :, j]) ** 2).sum(axis=1)
            spread = squares / max(len(seeds) - 1, 1)
            known = found.of_rows[i, j] * estimated
            of = _reach(level, spread, len(seeds), known, found.freedom)
            simulated[:, i, j] = _ratio(mean[:, i] - mean[:, j], of)
            simulated[:, j, i] = -simulated[:, i, j]
    p, rival = _dropped(found, _ratio(gain, reach), simulated)
    means = _redrawn(found, gain, deviation, normal, rows / np.sqrt(estimated)[:, None])
    return Best(
        p=p,
        rival=rival,
        loss=_losses(gain, reach, simulated),
        chance=np.bincount(np.argmax(means, axis=1), minlength=n) / draws,
        wins=np.array([(means[:, [k]] > means).mean(axis=0) for k in range(n)]),
    )


def _pairs(found: Joint, level: float) -> tuple[Floats, Floats, Floats]:
    """Return every pair's mean difference, the seeds' variance of it, and its reach."""
    n = len(found.values)
    gain, of_seeds, reach = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        gains = found.gains(i, j)
        gain[i, j], gain[j, i] = gains.mean(), -gains.mean()
        spread = gains.var(ddof=1) if len(gains) > 1 else 0.0
        of_seeds[i, j] = of_seeds[j, i] = spread
        known = found.of_rows[i, j][None]
        of = _reach(level, np.array([spread]), len(gains), known, found.freedom)
        reach[i, j] = reach[j, i] = of[0]
    return gain, of_seeds, reach


def _per_strategy(of_pairs: Floats) -> Floats:
    """Split variances of differences into each strategy's own, `[strategies]`: least squares."""
    n, sums = len(of_pairs), of_pairs.sum(axis=1)
    if n == 2:
        halves: Floats = sums / 2
        return halves
    total = sums.sum() / (2 * (n - 1))
    found: Floats = np.maximum((sums - total) / (n - 2), 0.05 * total / n)
    return found


def _row_noise(found: Joint, draws: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw what other test rows do to every strategy, `[draws, n]`, and to their variance."""
    centred = found.of_rows - found.of_rows.mean(axis=0)
    centred = -0.5 * (centred - centred.mean(axis=1)[:, None])
    factor = _cholesky((centred + centred.T) / 2)
    normal = random.standard_normal((draws, len(factor)))
    noise = np.einsum("dk,ik->di", normal, factor)
    if np.isinf(found.freedom):
        return noise, np.ones(draws)
    return noise, random.chisquare(found.freedom, draws) / found.freedom


def _cholesky(matrix: Floats) -> Floats:
    """Return a factor of a covariance that may be singular; the same bits on any machine's BLAS."""
    rest, factor = matrix.copy(), np.zeros_like(matrix)
    floor = 1e-12 * max(float(np.trace(matrix)), 0.0)
    for step in range(len(matrix)):
        place = int(np.argmax(np.diag(rest)))
        if rest[place, place] <= floor:
            break
        factor[:, step] = rest[:, place] / np.sqrt(rest[place, place])
        rest -= factor[:, step][:, None] * factor[:, step]
    return factor


def _reach(level: float, spread: Floats, seeds: int, known: Floats, freedom: float) -> Floats:
    """Return the distance that a pair's difference exceeds with a chance of `level`."""
    few, many = (mixture.quantile(level / 2, one) for one in (freedom, np.inf))
    if seeds == 1:
        found: Floats = np.sqrt(known) * abs(few)
        return found
    estimated, known = spread / seeds, (few / many) ** 2 * known
    nowhere = estimated + known == 0
    reach = mixture.reaches(
        level, estimated=np.where(nowhere, 1.0, estimated), freedom=seeds - 1, known=known
    )
    return np.where(nowhere, 0.0, reach)


def _ratio(shift: Floats, reach: Floats) -> Floats:
    """Divide; a difference without any doubt is beyond every reach."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shift == 0, 0.0, shift / reach)


def _dropped(
    found: Joint, observed: Floats, simulated: Floats
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Drop the strategies one by one, the most clearly beaten first; return each one's p and rival.

    Those that are left when nothing more is shown share the p of the next that would go.
    """
    p, left, largest = np.ones(len(observed)), list(range(len(observed))), 0.0
    rival = np.arange(len(observed))
    while len(left) > 1:
        among = observed[np.ix_(left, left)]
        beaten_by = among.max(axis=0)
        worst = int(np.argmax(beaten_by))
        rival[left[worst]] = left[int(np.argmax(among[:, worst]))]
        shown = _alone(found, int(rival[left[worst]]), left[worst])
        if len(left) > 2:
            beyond = simulated[:, left][:, :, left].max(axis=(1, 2)) >= beaten_by[worst]
            shown = max(shown, (1 + int(beyond.sum())) / (1 + len(simulated)))
        largest = max(largest, shown)
        if largest >= LEVEL:
            p[left] = largest
            break
        p[left.pop(worst)] = largest
    return p, rival


def _alone(found: Joint, first: int, second: int) -> float:
    """Return the two-sided p of one pair by itself."""
    gains = found.gains(first, second)
    if len(gains) > 1:
        return found.difference(first, second).p
    return row_difference(float(gains[0]), float(found.of_rows[first, second]), found.freedom).p


def _losses(gain: Floats, reach: Floats, simulated: Floats) -> Floats:
    """Return Hsu's upper bounds of what each strategy gives up against the best."""
    critical = np.quantile(simulated.max(axis=1), 1 - LEVEL, axis=0)
    candidates = (gain <= critical * reach).all(axis=0)  # the columns that no row is shown to beat
    ahead = gain + critical[:, None] * reach
    np.fill_diagonal(ahead, 0.0)
    found: Floats = ahead[candidates].max(axis=0, initial=0.0)
    return found


def _redrawn(found: Joint, gain: Floats, deviation: Floats, normal: Floats, rows: Floats) -> Floats:
    """Draw means, less the leader's, with other seeds (Student's law) and rows, `[draws, n]`."""
    noise = rows.copy()
    for k, there in enumerate(found.there):
        if there.sum() > 1:
            part = normal[:, there, k]
            noise[:, k] += deviation[k] * part.mean(axis=1) / part.std(axis=1, ddof=1)
    leader = int(np.argmax(gain.min(axis=1)))
    means: Floats = gain[:, leader] + noise
    return means
