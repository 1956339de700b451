"""Rows of tokens into bytes, without a Python step per row.

A token takes three words of eight bytes: separator, field and 0x02; up to eight digits; 0x03 and
the value. A row begins with a prefix of a whole number of such triples. Everything shorter than
its place is padded with NUL, and at the end the NULs are taken out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.generator.sample import MAX_EVENTS, Tokens
from cvrbench.data.generator.values import Doubles, Longs
from cvrbench.data.sources.aliccp.grammar import (
    FEATURE_SEPARATOR,
    ID_SEPARATOR,
    INDEX_DIGITS,
    VALUE_SEPARATOR,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
WORDS, TOKEN_BYTES = 3, 24
COMMA, LINE_FEED, ZERO = ord(","), ord("\n"), ord("0")
TWELFTHS = frozenset({"150_14", "853"})
"""Fields whose count is in twelfths."""
GROUP = 10_000
DECIMALS = 12
"""Of a probability in the truth files: seven significant digits down to one in a million."""


def _number(value: float) -> str:
    """Five decimals, trailing zeros cut."""
    text = f"{value:.5f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _values() -> tuple[list[str], list[str]]:
    """Text of each count, and of each count in twelfths; 0 stands for a field without counts."""
    counts = range(1, MAX_EVENTS + 1)
    return (
        ["1.0", *(_number(np.log1p(n)) for n in counts)],
        ["1.0", *(_number(np.log1p(round(n / 12, 3))) for n in counts)],
    )


def _words(texts: Sequence[str], size: int = 8) -> Bytes:
    """Fixed-width records, `[texts, size]`, padded with NUL."""
    return np.array(texts, dtype=f"S{size}").view(np.uint8).reshape(len(texts), size)


_WHOLE, _TWELFTHS = _values()
COUNT_VALUES = np.array([0.0, *map(float, _WHOLE[1:])])
"""Value of each count as the files have it; 0 for no token."""
_COUNT_WORDS, _TWELFTH_WORDS = (
    _words([chr(VALUE_SEPARATOR) + text for text in texts]).view(np.uint64)[:, 0]
    for texts in (_WHOLE, _TWELFTHS)
)
_PADDED = _words([f"{n:04}" for n in range(GROUP)], 4).view(np.uint32)[:, 0]
_PLAIN = _words([str(n or "").rjust(4, "\0") for n in range(GROUP)], 4).view(np.uint32)[:, 0]
"""Four digits each: with leading zeros, and with NUL instead of them."""
_HEX = _words([f"{n:04x}" for n in range(1 << 16)], 4).view(np.uint32)[:, 0]


class Layout(NamedTuple):
    """Where everything goes, in triples of words.

    Attributes:
        prefix: First triple of each row's prefix, `[rows]`.
        group: First triple of each field's tokens in each row, `[rows, fields]`.
        tokens: Tokens of each row.
        total: Triples in all.
    """

    prefix: Longs
    group: Longs
    tokens: Longs
    total: int


def counts(fields: Sequence[Tokens], rows: int) -> Longs:
    """Tokens of each field in each row, `[rows, fields]`."""
    return np.stack([np.bincount(field.row, minlength=rows) for field in fields], axis=1)


def lay_out(count: Longs, field_order: Longs, row_order: Longs, prefix: int) -> Layout:
    """Place rows in `row_order`, and in each row the fields in its `field_order`.

    Args:
        count: Tokens, `[rows, fields]`.
        field_order: For each row a permutation of the fields.
        row_order: Permutation of the rows.
        prefix: Triples of a row's prefix.
    """
    ordered = np.take_along_axis(count, field_order, axis=1)
    ends = np.cumsum(ordered, axis=1)
    tokens = ends[:, -1]
    start = np.empty(len(count), np.int64)
    row_ends = np.cumsum(tokens[row_order] + prefix)
    start[row_order] = row_ends - tokens[row_order] - prefix
    group = np.empty_like(count)
    np.put_along_axis(group, field_order, ends - ordered + start[:, None] + prefix, axis=1)
    return Layout(start, group, tokens, int(row_ends[-1]))


def assemble(
    names: Sequence[str], fields: Sequence[Tokens], layout: Layout, prefixes: Bytes
) -> Bytes:
    """Give the text of all rows.

    Args:
        names: Of the fields.
        fields: Their tokens, rows ascending.
        layout: Their places.
        prefixes: Each row's beginning, `[rows, triples * 24]`, a line feed first: the one that ends
            the row before it.
    """
    text = np.empty((layout.total + 1, WORDS), np.uint64)
    text[-1] = 0
    octets = text.view(np.uint8).reshape(-1)
    for column, (name, tokens) in enumerate(zip(names, fields, strict=True)):
        first = layout.group[:, column]
        n = np.bincount(tokens.row, minlength=len(first))
        # Tokens stand by row, so a token's number within its row is its own minus the row's first.
        shift = first - (np.cumsum(n) - n)
        at = np.arange(len(tokens.row)) + shift[tokens.row]
        head = chr(FEATURE_SEPARATOR) + name.ljust(6, "\0") + chr(ID_SEPARATOR)
        table = _TWELFTH_WORDS if name in TWELFTHS else _COUNT_WORDS
        text[at, 0] = np.frombuffer(head.encode(), np.uint64)[0]
        text[at, 1] = _id_words(tokens.ids)
        text[at, 2] = table[tokens.counts]
    triples = prefixes.shape[1] // TOKEN_BYTES
    words = prefixes.view(np.uint64).reshape(len(prefixes), triples, WORDS)
    for k in range(triples):
        text[layout.prefix + k] = words[:, k]
    # A row's first token follows a comma, whichever field it is of.
    octets[(layout.prefix + triples) * TOKEN_BYTES] = COMMA
    octets[-1], octets[int(layout.prefix.min()) * TOKEN_BYTES] = LINE_FEED, 0
    return np.asarray(octets[octets != 0])


def skeleton_prefixes(
    sample_ids: Longs, click: Bytes, conversion: Bytes, keys: Words, tokens: Longs
) -> Bytes:
    """Line feed, id, labels, index and number of features, `[rows, 48]`."""
    text = np.zeros((len(keys), 2 * TOKEN_BYTES), np.uint8)
    text[:, 0] = LINE_FEED
    text[:, 1:17] = digits(sample_ids, 4)
    text[:, [17, 19, 21, 38]] = COMMA
    text[:, 18], text[:, 20] = click + ZERO, conversion + ZERO
    text[:, 22:38] = hexadecimal(keys)
    text[:, 39:43] = digits(tokens, 1)
    return text


def common_prefixes(keys: Words, tokens: Longs) -> Bytes:
    """Line feed, index and number of features, `[rows, 26]` padded to 48."""
    text = np.zeros((len(keys), 2 * TOKEN_BYTES), np.uint8)
    text[:, 0], text[:, 17] = LINE_FEED, COMMA
    text[:, 1:17] = hexadecimal(keys)
    text[:, 18:26] = digits(tokens, 2)
    return text


def truth_lines(sample_ids: Longs, ctr: Doubles, cvr: Doubles) -> Bytes:
    """Rows of a truth file: `sample_id,p_ctr,p_cvr`, the probabilities with 12 decimals."""
    text = np.zeros((len(sample_ids), 16 + 2 * (DECIMALS + 3) + 1), np.uint8)
    text[:, :16] = digits(sample_ids, 4)
    for k, p in enumerate((ctr, cvr)):
        at = 16 + k * (DECIMALS + 3)
        text[:, at : at + 3] = [COMMA, ZERO, ord(".")]
        parts = np.minimum(np.rint(p * 10**DECIMALS), 10**DECIMALS - 1).astype(np.int64)
        text[:, at + 3 : at + 3 + DECIMALS] = digits(parts, DECIMALS // 4, padded=True)
    text[:, -1] = LINE_FEED
    flat = text.reshape(-1)
    return np.asarray(flat[flat != 0])


def digits(values: Longs, groups: int, *, padded: bool = False) -> Bytes:
    """Decimal text `[values, 4 * groups]`; leading zeros are NUL unless `padded`."""
    words = np.empty((len(values), groups), np.uint32)
    rest = values
    for k in reversed(range(groups)):
        higher, group = np.divmod(rest, GROUP)
        plain = _PADDED[group]
        words[:, k] = plain if padded else np.where(higher > 0, plain, _PLAIN[group])
        rest = higher
    return words.view(np.uint8)


def hexadecimal(keys: Words) -> Bytes:
    """16 lower-case hex digits, `[keys, 16]`."""
    quarters = _HEX[keys.astype(">u8").view(">u2").reshape(-1, 4)]
    return np.asarray(quarters.view(np.uint8).reshape(-1, INDEX_DIGITS))


def _id_words(ids: npt.NDArray[np.int32]) -> Words:
    """Up to eight digits in one word."""
    high = ids // GROUP
    low = ids - high * GROUP
    words = np.empty((len(ids), 2), np.uint32)
    words[:, 0] = _PLAIN[high]
    words[:, 1] = np.where(high > 0, _PADDED[low], _PLAIN[low])
    return words.view(np.uint64)[:, 0]
