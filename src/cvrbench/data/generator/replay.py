"""A base block repeated: the same features with fresh sample ids, indices and labels.

Each shard of the block is kept as text and overwritten in place: what changes in a line is its
beginning, and all sample ids of a file have the same number of digits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cvrbench.data.generator import text
from cvrbench.data.generator.options import GeneratorConfig
from cvrbench.data.generator.shard import Shard, index_keys, label_totals
from cvrbench.data.generator.text import COMMA, LINE_FEED, ZERO, Bytes, Words
from cvrbench.data.generator.truth import Truth, labels
from cvrbench.data.generator.values import Longs
from cvrbench.data.sources.aliccp.grammar import ID_SEPARATOR, INDEX_DIGITS, Half
from cvrbench.rng import numpy_stream

SAMPLE_ID_GROUPS = 4


def first_id(rows: int) -> int:
    """Give the power of ten from which `rows` sample ids have one number of digits.

    >>> first_id(9), first_id(10), first_id(91)
    (1, 10, 100)
    """
    power = 1
    while rows > 9 * power:
        power *= 10
    return power


@dataclass
class _Page:
    """A shard that is overwritten, and where its lines begin."""

    shard: Shard
    rows: Longs
    """`[rows + 1]`: first octet of each line of the skeleton, and its end."""
    commons: Longs
    first: int
    """First row within the block."""


def repeat(
    shards: Sequence[Shard], config: GeneratorConfig, half: Half, rows: int
) -> Iterator[Shard]:
    """Yield the second and all later copies of a block, the last one cut, until `rows` are there.

    Args:
        shards: The block, the file's first copy; it is overwritten.
        config: Options; `anomaly` and `seed` matter here.
        half: Half of the data.
        rows: Rows of the half in all, those of the first copy included.

    Yields:
        Shards whose arrays are the block's own: write them before asking for the next.
    """
    pages = _pages(shards)
    done = pages[-1].first + len(shards[-1].truths.ctr)
    number = len(pages)
    start = first_id(rows)
    while done < rows:
        for page in pages:
            if done >= rows:
                return
            n = min(len(page.shard.truths.ctr), rows - done)
            yield _again(page, config, half, number, np.arange(n) + start + done)
            done += n
            number += 1


def _pages(shards: Sequence[Shard]) -> list[_Page]:
    pages, first = [], 0
    for shard in shards:
        pages.append(_Page(shard, _line_starts(shard.skeleton), _line_starts(shard.common), first))
        first += len(shard.truths.ctr)
    return pages


def _line_starts(lines: Bytes) -> Longs:
    return np.concatenate([[0], np.flatnonzero(lines == LINE_FEED) + 1])


def _again(
    page: _Page, config: GeneratorConfig, half: Half, number: int, sample_ids: Longs
) -> Shard:
    """Overwrite the first rows of a page, as many as there are ids, as shard `number`."""
    shard, n = page.shard, len(sample_ids)
    truths = Truth(shard.truths.ctr[:n], shard.truths.cvr[:n])
    rng = numpy_stream(config.seed, "replay", half, number)
    click, conversion = labels(truths, config.anomaly, rng)
    # The common rows stay where they are and their indices ascend, as in every other shard.
    keys = np.empty(len(shard.order), np.uint64)
    keys[shard.order] = np.sort(index_keys(config.seed, half, number, len(keys)))
    width = len(str(sample_ids[0]))
    ids = text.digits(sample_ids, SAMPLE_ID_GROUPS)[:, -width:]
    of_row = np.repeat(keys, shard.length)[:n]
    _overwrite(shard.skeleton, page.rows[:n], _heads(ids, click, conversion, of_row))
    _overwrite(shard.common, page.commons[:-1], text.hexadecimal(keys[shard.order]))
    shard.truth.reshape(len(shard.truths.ctr), -1)[:n, :width] = ids
    again = shard._replace(totals=shard.totals | label_totals(click, conversion))
    return again if n == len(shard.truths.ctr) else _cut(again, page, truths)


def _heads(ids: Bytes, click: Bytes, conversion: Bytes, keys: Words) -> Bytes:
    """Id, labels and index of skeleton rows."""
    n, width = ids.shape
    head = np.full((n, width + 5 + INDEX_DIGITS), COMMA, np.uint8)
    head[:, :width] = ids
    head[:, width + 1], head[:, width + 3] = click + ZERO, conversion + ZERO
    head[:, width + 5 :] = text.hexadecimal(keys)
    return head


def _overwrite(lines: Bytes, starts: Longs, heads: Bytes) -> None:
    lines[starts[:, None] + np.arange(heads.shape[1])] = heads


def _cut(shard: Shard, page: _Page, truths: Truth) -> Shard:
    """Keep the first rows and the contexts that they have."""
    n = len(truths.ctr)
    kept = shard.order < np.searchsorted(np.cumsum(shard.length) - shard.length, n)
    common = shard.common[np.repeat(kept, np.diff(page.commons))]
    skeleton = shard.skeleton[: page.rows[n]]
    return shard._replace(
        skeleton=skeleton,
        common=common,
        truth=shard.truth.reshape(len(shard.truths.ctr), -1)[:n].reshape(-1),
        truths=truths,
        totals=shard.totals
        | {
            "common_rows": int(kept.sum()),
            "tokens": int((skeleton == ID_SEPARATOR).sum()),
            "common_tokens": int((common == ID_SEPARATOR).sum()),
        },
    )
