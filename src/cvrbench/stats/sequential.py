"""Seeds in rounds: when to look, what a look may spend of the 5 %, and which rows need more seeds.

A table that is tested after every new seed finds something in the end, whatever the truth. Here the
looks are planned: each spends its share of the level, in proportion to the seeds since the look
before it (Lan and DeMets, Biometrika 1983, with linear spending), and a row that is out at a look
is out for good. The shares sum to one, so that by Bonferroni's inequality no more than 5 % of
tables lose one of their best rows at any look, however the looks hang together.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Literal

from scipy import stats

from cvrbench.stats.best import LEVEL, Best, Joint
from cvrbench.stats.difference import equivalence

FIRST, GROWTH = 4, 1.7
"""Seeds of the first look, and by how many times more every further look has."""
Reason = Literal["out", "within the margin", "test rows are the limit", "best mean"]


def looks(most: int) -> list[int]:
    """Return after how many seeds to look, `most` being the last.

    >>> looks(20), looks(5)
    ([4, 7, 12, 20], [5])
    """
    found, n = [], float(FIRST)
    while n * sqrt(GROWTH) < most:
        found.append(round(n))
        n *= GROWTH
    return [*found, most]


def share(most: int, seeds: int) -> float:
    """Return the share of the level that is spent at the look with so many seeds.

    >>> [share(20, n) for n in looks(20)]
    [0.2, 0.15, 0.25, 0.4]
    """
    before = 0
    for look in looks(most):
        if seeds <= look:
            return (look - before) / most
        before = look
    return (most - looks(most)[-2]) / most if len(looks(most)) > 1 else 1.0


def decided(found: Joint, best: Best, margin: float, most: int) -> dict[int, Reason]:
    """Return the rows that need no more seeds, and why; the others are open.

    Against the row of the best mean a row is decided that is shown to lie within the margin, or of
    which neither that nor a difference can be shown with the most seeds, since these take away only
    their own part of the doubt. The leader is open as long as another row is.

    Args:
        found: All rows.
        best: Of them, with p as this look has it.
        margin: Difference that matters.
        most: Seeds at which it ends.
    """
    n = range(len(found.values))
    inside = [k for k in n if best.inside[k]]
    reasons: dict[int, Reason] = {k: "out" for k in n if k not in inside}
    leader = max(inside, key=lambda k: min(found.gains(k, j).mean() for j in inside))
    for row in inside:
        if row != leader and (reason := _reason(found, row, leader, margin, most)) is not None:
            reasons[row] = reason
    if len(reasons) == len(n) - 1:
        reasons[leader] = "best mean"
    return reasons


def _reason(found: Joint, row: int, leader: int, margin: float, most: int) -> Reason | None:
    if len(found.gains(row, leader)) < 2:
        return None
    d = found.difference(row, leader)
    if equivalence(d, margin) < LEVEL:
        return "within the margin"
    at_most = sqrt(d.of_seeds / max(most, d.seeds) + d.of_rows)
    slack = sqrt(d.of_seeds / d.seeds)  # what further seeds may move the mean by
    beyond = float(stats.norm.isf(LEVEL / 2 / max(1, len(found.values) - 1)))
    within = float(stats.norm.isf(LEVEL))
    may_differ = abs(d.mean) + slack > beyond * at_most
    may_be_small = max(abs(d.mean) - slack, 0.0) + within * at_most < margin
    return None if may_differ or may_be_small else "test rows are the limit"


def rounds(most: int) -> Sequence[tuple[int, int]]:
    """Return the first and the last seed of every round.

    >>> rounds(20)
    [(0, 3), (4, 6), (7, 11), (12, 19)]
    """
    ends = looks(most)
    return [(first, end - 1) for first, end in zip([0, *ends], ends, strict=False)]
