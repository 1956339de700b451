"""Seeds in rounds: what is spent, and which rows go on."""

import numpy as np
import pytest

from cvrbench.stats.best import Joint, best
from cvrbench.stats.sequential import decided, looks, rounds, share


@pytest.mark.parametrize("most", [2, 3, 4, 5, 8, 20, 100])
def test_looks_end_at_the_most_and_their_shares_are_the_whole(most):
    assert looks(most)[-1] == most
    assert sum(share(most, n) for n in looks(most)) == pytest.approx(1)
    seeds = [n for first, last in rounds(most) for n in range(first, last + 1)]
    assert seeds == list(range(most))


def table(means, of_seeds, of_rows, seeds=4, seed=0):
    rng = np.random.default_rng(seed)
    n = len(means)
    noise = of_seeds * rng.standard_normal((n, seeds))
    noise -= noise.mean(axis=1, keepdims=True)  # the means are as they are told
    return Joint(values=np.array(means)[:, None] + noise, of_rows=of_rows**2 * (1 - np.eye(n)))


def test_losers_are_out_and_what_more_seeds_can_decide_is_open():
    found = table([0.7, 0.699, 0.6], 0.001, 0.00001)
    assert decided(found, best(found), 0.001, 20) == {2: "out"}


def test_within_the_margin_there_is_nothing_to_decide():
    found = table([0.7, 0.6999], 0.0001, 0.00001)
    assert decided(found, best(found), 0.001, 20) == {1: "within the margin", 0: "best mean"}


def test_where_rows_blur_too_much_more_seeds_decide_nothing():
    found = table([0.7, 0.6995], 0.0002, 0.005)
    assert decided(found, best(found), 0.001, 20)[1] == "test rows are the limit"
