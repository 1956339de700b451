"""Who outscores whom within each group: counted exactly, at about the cost of one sort.

Rows are moved into parts that hold whole groups and fit a core's cache. Within a part one 64-bit
number stands for a row, with its group in the highest bits, then its score, and its label in the
lowest; sorting these numbers is all the ranking there is.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

PART_ROWS = 1 << 16
CHUNK_ROWS = 1 << 18
"""Rows that are moved into the parts at a time."""
MOST_PARTS = (1 << 16) - 1
"""Parts are sorted by counting, which NumPy does for numbers of 16 bits."""


class Contests(NamedTuple):
    """Positive against negative rows in each group that has both, `[groups]` in their order."""

    positives: Ints
    negatives: Ints
    twice_wins: Ints
    """Twice the pairs whose positive row scores higher, plus the pairs that tie."""


class _Part(NamedTuple):
    """The rows of some whole groups, in any order."""

    scores: Ints
    """`[rows]`: whole numbers in the order of the scores."""
    tags: Array
    """`[rows]`: twice the group's code, plus the label."""
    groups: slice
    """The codes of its groups, from the first to the last."""


def contests(positive: Bools, scores: Array, groups: Array) -> Contests:
    """Count the contests within every group; groups of one class are left out.

    Args:
        positive: `[rows]`.
        scores: `[rows]`, without NaN; compared as float64.
        groups: `[rows]`, any sortable codes, at least one. Whole numbers that leave few gaps are
            the cheapest.
    """
    codes = _dense(groups)
    sizes = np.bincount(codes)
    wins = np.bincount(codes[positive], minlength=len(sizes))
    used = (wins > 0) & (wins < sizes)
    number = np.cumsum(used) - 1
    sizes, wins = sizes[used], wins[used]
    twice_wins = np.empty_like(sizes)
    for part in _parts(positive, scores, codes, np.flatnonzero(used), sizes):
        mine = slice(number[part.groups.start], number[part.groups.stop - 1] + 1)
        labels = (part.tags & 1).astype(np.uint64)
        owners = number[part.tags >> 1] - mine.start
        twice_wins[mine] = _twice_wins(labels, part.scores, owners, sizes[mine], wins[mine])
    return Contests(wins, sizes - wins, twice_wins)


def _dense(groups: Array) -> Ints:
    """Number the groups in their order, from 0 and with few gaps."""
    if groups.dtype.kind in "iu":
        low, high = int(groups.min()), int(groups.max())
        if high - low < 4 * len(groups) + PART_ROWS:
            return groups.astype(np.int64, copy=False) if low == 0 else _above(groups)
    return np.unique(groups, return_inverse=True)[1]


def _above(groups: Array) -> Ints:
    """Return distances from the lowest; the bits of a difference are right whatever its sign."""
    unsigned = np.dtype(f"u{groups.dtype.itemsize}")
    distances: Ints = (groups - groups.min()).view(unsigned).astype(np.int64)
    return distances


def _parts(positive: Bools, scores: Array, codes: Ints, used: Ints, sizes: Ints) -> Iterator[_Part]:
    """Move the rows of the groups `used`, which have these sizes, into parts of whole groups."""
    if not len(used):
        return
    load = np.cumsum(sizes)
    n_parts = min(-(-int(load[-1]) // PART_ROWS), MOST_PARTS)
    part_of_used = (load - 1) * n_parts // load[-1]
    part_of_code = np.full(int(codes.max()) + 1, n_parts, np.uint16)
    part_of_code[used] = part_of_used
    first = np.searchsorted(part_of_used, np.arange(n_parts + 1))
    ends: list[int] = np.append(0, load)[first].tolist()
    numbers = np.empty(ends[-1], np.int64)
    tags = np.empty(ends[-1], np.min_scalar_type(2 * len(part_of_code)))
    filled = ends[:-1]
    for at in range(0, len(codes), CHUNK_ROWS):
        rows = slice(at, at + CHUNK_ROWS)
        part_of_row = part_of_code[codes[rows]]
        order = np.argsort(part_of_row, kind="stable")
        number = _in_order_of(scores[rows])[order]
        tag = (2 * codes[rows] + positive[rows]).astype(tags.dtype)[order]
        counts: list[int] = np.bincount(part_of_row, minlength=n_parts).tolist()
        begin = 0
        for part, count in enumerate(counts[:n_parts]):
            end, to = begin + count, filled[part] + count
            numbers[filled[part] : to] = number[begin:end]
            tags[filled[part] : to] = tag[begin:end]
            begin, filled[part] = end, to
    for full in np.flatnonzero(np.diff(first)):
        mine = slice(ends[full], ends[full + 1])
        groups = slice(used[first[full]], used[first[full + 1] - 1] + 1)
        yield _Part(numbers[mine], tags[mine], groups)


def _in_order_of(scores: Array) -> Ints:
    """Return whole numbers that compare as the scores do.

    The bits of a float64, read as an integer, rise with its magnitude; a negative one's are turned
    over. Adding 0 makes -0 and 0 one.
    """
    bits = (scores.astype(np.float64) + 0.0).view(np.int64)
    bits ^= (bits >> 63) & np.iinfo(np.int64).max
    return bits


def _twice_wins(labels: Words, scores: Ints, owners: Ints, sizes: Ints, wins: Ints) -> Ints:
    """Count the contests of a part, `[groups]`, from its rows and the size of each group.

    Negatives stand before positives of the same group and score. The place of a positive therefore
    tells how many rows are not above it, and ties are taken back where the classes meet.
    """
    # Differences of 64-bit numbers may overflow as signed, not as unsigned ones.
    above = scores.view(np.uint64) - scores.min().view(np.uint64)
    packed, shift, dropped = _packed(owners, above, labels)
    places = np.flatnonzero(packed & 1)
    meet = places[packed[places] - packed[places - 1] == 1]
    if len(meet) and _blurs(above, dropped):
        ranks = np.unique(above, return_inverse=True)[1].astype(np.uint64)
        packed, shift, _ = _packed(owners, ranks, labels)
        places = np.flatnonzero(packed & 1)
        meet = places[packed[places] - packed[places - 1] == 1]
    starts, first = np.cumsum(sizes) - sizes, np.cumsum(wins) - wins
    not_above = np.add.reduceat(places, first) - wins * starts - wins * (wins - 1) // 2
    twice_wins: Ints = 2 * not_above
    value = packed[meet]
    negatives = meet - np.searchsorted(packed, value - 1, "left")
    positives = np.searchsorted(packed, value, "right") - meet
    np.subtract.at(twice_wins, (value >> shift).astype(np.int64), negatives * positives)
    return twice_wins


def _packed(owners: Ints, scores: Words, labels: Words) -> tuple[Words, int, int]:
    """Sort rows as numbers; return them, the bit where the group begins, and score bits left out.

    The lowest bits of the scores are dropped where the three parts are more than 64 bits.
    """
    score_bits = int(scores.max()).bit_length()
    dropped = max(int(owners.max()).bit_length() + score_bits + 1 - 64, 0)
    shift = score_bits - dropped + 1
    packed = owners.astype(np.uint64) << np.uint64(shift)
    packed |= (scores >> np.uint64(dropped)) << np.uint64(1)
    packed |= labels
    packed.sort()
    return packed, shift, dropped


def _blurs(scores: Words, dropped: int) -> bool:
    """Whether two different scores are the same without their lowest bits."""
    if not dropped:
        return False
    ordered = np.sort(scores)
    kept = ordered >> np.uint64(dropped)
    return bool(((ordered[1:] != ordered[:-1]) & (kept[1:] == kept[:-1])).any())
