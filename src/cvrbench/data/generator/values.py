"""Values of the fields: how many, their ids, how popular, and how one is drawn.

Popularity is log-normal; the deviations reproduce how many values of the real fields are left at a
threshold of 12 occurrences. A log-normal of such width looks like Zipf's law over the head.
"""

import numpy as np
import numpy.typing as npt

from cvrbench.data.sources.aliccp.grammar import FIELDS

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Rng = np.random.Generator

MIN_VALUES = 50
"""Of a field whose number of values is scaled; a pool of intentions needs 40."""
PROFILE_MAX = 100
"""Fields with fewer values are never scaled: profile and scene."""
SIGMA = {"101": 1.52, "205": 2.2, "206": 2.4, "207": 1.9, "216": 1.3}
"""Those of 206, 207 and 216 are smaller than what is seen in rows, to which items add theirs."""
BY_NAME = {field.name: field for field in FIELDS}


def size(name: str, card: float) -> int:
    """Number of values of a field in the world; what a short field has is not scaled."""
    field = BY_NAME[name]
    if field.distinct < PROFILE_MAX:
        return field.distinct
    first, last = field.first, field.high
    return min(max(MIN_VALUES, round(field.distinct * card)), last - first + 1)


def spread(rng: Rng, name: str, n: int) -> Ints:
    """Choose `n` distinct ids over a field's whole block, in random order."""
    first, last = BY_NAME[name].first, BY_NAME[name].high
    edges = first + np.arange(n + 1) * (last - first + 1) // n
    ids = edges[:-1] + (rng.random(n) * np.diff(edges)).astype(np.int64)
    return rng.permutation(ids.astype(np.int32))


def few(name: str) -> Ints:
    """Ids of a short field's values: the first of its block, as the real files have them."""
    return BY_NAME[name].first + np.arange(BY_NAME[name].distinct, dtype=np.int32)


def pick(cum: Doubles, u: Doubles) -> Longs:
    """Draw by cumulative weights; `u` is uniform in `[0, 1)` times the last of them."""
    return np.minimum(np.searchsorted(cum, u, side="right"), len(cum) - 1)


def popularity(rng: Rng, name: str, n: int) -> Doubles:
    """Draw the log-normal weights of a field's `n` values."""
    return np.asarray(np.exp(SIGMA[name] * rng.standard_normal(n)))


def normal(rng: Rng, *shape: int) -> Floats:
    """Draw from N(0, 1)."""
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))


def starts(values: Ints, n: int) -> Longs:
    """Where each value's entries begin once they are sorted, `[n + 1]`."""
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=n))])


def profile_shares(name: str) -> Doubles:
    """How users spread over a profile field's values: mildly skewed, the same in every world."""
    weight = 1 / (2.0 + np.arange(BY_NAME[name].distinct))
    return np.asarray(weight / weight.sum())


def mass(values: Ints, weight: Doubles, n: int) -> Doubles:
    """Sum of the weights of each value, `[n]`; a value of -1 is none."""
    sums = np.bincount(values + 1, weight, n + 1)[1:]
    return sums.astype(np.float64)
