"""Lines of a raw file into arrays, many at a time and without a Python step per row.

`parse` reads a block of whole lines or refuses it; it never guesses. `parse_or_explain` halves a
refused block until the lines at fault stand alone, and has `explain.fault` say what is wrong.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.sources.aliccp.explain import Reason, fault
from cvrbench.data.sources.aliccp.grammar import (
    FEATURE_SEPARATOR,
    FIELDS,
    ID_SEPARATOR,
    INDEX_DIGITS,
    MAX_ID_DIGITS,
    MAX_SAMPLE_ID_DIGITS,
    N_COLUMNS,
    VALUE_SEPARATOR,
    Kind,
)
from cvrbench.data.sources.aliccp.words import (
    MASK,
    WORD,
    ZERO,
    Bytes,
    Ints,
    Refused,
    Words,
    digits,
    require,
    values,
    words_of,
)

NO_LIMIT = 1 << 62
COMMA, LINE_FEED = ord(","), ord("\n")
PADDING = 2 * WORD
"""Bytes before and behind a block, so that a word can be read at every place of it."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Parsed lines.

    Attributes:
        index: uint64 `[lines]`, the common feature index.
        sample_id: int64 `[lines]`; empty of common lines, as are the labels.
        labels: uint8 `[lines, 2]`, click and conversion.
        offsets: int64 `[lines + 1]` into the features.
        field: uint8 `[features]`, position in `grammar.FIELDS`.
        ids: int32 `[features]`.
        values: float32 `[features]`.
    """

    index: Words
    sample_id: Ints
    labels: Bytes
    offsets: Ints
    field: Bytes
    ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Lines."""
        return len(self.index)


class Fault(NamedTuple):
    """A line that is no line of the format."""

    line: int
    """Counted from 1."""
    reason: Reason


def parse_or_explain(
    block: bytes, kind: Kind, first_line: int, max_faults: int = NO_LIMIT
) -> tuple[list[Lines], list[Fault]]:
    """Parse a block; take out the lines that cannot be, each with its reason.

    Args:
        block: Lines, the last maybe without its end.
        kind: Of which file.
        first_line: Number of the first line in the file, from 1.
        max_faults: With so many found, the rest of the block is not looked at: a file with CR LF in
            every line is refused at once.

    Returns:
        The good lines in order, in one or more pieces, and the faults in order.
    """
    if not block or max_faults <= 0:
        return [], []
    try:
        return [parse(block, kind)], []
    except Refused:
        pass
    n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if n_lines == 1:
        reason = fault(block, kind)
        assert reason is not None, f"parser and explainer disagree on {block!r}"
        return [], [Fault(first_line, reason)]
    # Cut at the middle line, not the middle byte: a line of a megabyte would never stand alone.
    starts = np.flatnonzero(np.frombuffer(block, np.uint8) == LINE_FEED) + 1
    middle = n_lines // 2
    cut = int(starts[middle - 1])
    left, faults = parse_or_explain(block[:cut], kind, first_line, max_faults)
    remaining = max_faults - len(faults)
    right, more = parse_or_explain(block[cut:], kind, first_line + middle, remaining)
    return left + right, faults + more


def parse(block: bytes, kind: Kind) -> Lines:
    """Parse whole lines.

    Raises:
        Refused: A line is not as the grammar wants it.
    """
    text = np.zeros(len(block) + 2 * PADDING, np.uint8)
    text[PADDING:-PADDING] = np.frombuffer(block, np.uint8)
    body = text[: len(text) - PADDING]
    separators = np.flatnonzero((body <= LINE_FEED) | (body == COMMA))
    separators = separators[PADDING:]  # the zeros in front
    columns, triples, tokens = _structure(text, separators, N_COLUMNS[kind])
    require(int(separators[-1]) == len(body) - 1)
    offsets = np.concatenate([[0], np.cumsum(tokens)])
    starts = np.empty(len(triples), np.int64)
    starts[1:] = triples[:-1, 2] + 1
    starts[offsets[:-1]] = columns[:, -1] + 1
    words = words_of(text)
    field = _fields(words, starts, triples[:, 0], kind)
    ids = digits(words, triples[:, 0] + 1, triples[:, 1], MAX_ID_DIGITS)
    require(bool(((ids >= _LOW[field]) & (ids <= _HIGH[field])).all()))
    numbers = values(text, words, triples[:, 1] + 1, triples[:, 2])
    _check_singles(field, offsets)
    number = digits(words, columns[:, -2] + 1, columns[:, -1], MAX_ID_DIGITS)
    require(bool((number == tokens).all()))
    line_starts = np.empty(len(columns), np.int64)
    line_starts[:1] = PADDING
    line_starts[1:] = triples[offsets[1:-1] - 1, 2] + 1
    sample_id, labels = _labels(text, words, line_starts, columns, kind)
    index_start = line_starts if kind == "common" else columns[:, 2] + 1
    return Lines(
        index=_index(text, index_start, columns[:, -2]),
        sample_id=sample_id,
        labels=labels,
        offsets=offsets,
        field=field,
        ids=ids.astype(np.int32),
        values=numbers,
    )


def _structure(text: Bytes, separators: Ints, n_columns: int) -> tuple[Ints, Ints, Ints]:
    """Places of every line's commas, of every feature's three separators, and features per line.

    Returns:
        `[lines, n_columns - 1]`, `[features, 3]`, `[lines]`.
    """
    kinds = text[separators]
    ends = np.flatnonzero(kinds == LINE_FEED)
    commas = np.flatnonzero(kinds == COMMA)
    require(len(ends) > 0 and len(commas) == len(ends) * (n_columns - 1))
    first = np.concatenate([[0], ends[:-1] + 1])
    columns = commas.reshape(len(ends), n_columns - 1)
    require(bool((columns == first[:, None] + np.arange(n_columns - 1)).all()))
    others = separators[kinds != COMMA]
    require(len(others) % 3 == 0)
    triples = others.reshape(-1, 3)
    marks = text[triples]
    last = marks[:, 2]
    require(bool((marks[:, 0] == ID_SEPARATOR).all() and (marks[:, 1] == VALUE_SEPARATOR).all()))
    ends_line = last == LINE_FEED
    require(bool((ends_line | (last == FEATURE_SEPARATOR)).all()))
    last_feature = np.flatnonzero(ends_line)
    return separators[columns], triples, np.diff(last_feature, prepend=-1)


def _field_key(name: str) -> int:
    return int.from_bytes(name.encode().ljust(WORD, b"\0"), "little")


_KEYS = np.array([_field_key(field.name) for field in FIELDS], np.uint64)
_LOW = np.array([field.low for field in FIELDS], np.int64)
_HIGH = np.array([field.high for field in FIELDS], np.int64)
_IS_SINGLE = np.array([not field.bag for field in FIELDS])
_IN_FILE = {kind: np.array([field.kind == kind for field in FIELDS]) for kind in N_COLUMNS}
_HASH_BITS = 8


def _perfect_hash() -> tuple[np.uint64, Bytes]:
    """A multiplier whose products' top bits tell the fields' names apart, and the table of them."""
    shift = np.uint64(64 - _HASH_BITS)
    for odd in range(1, 1 << 20, 2):
        multiplier = np.uint64(odd * 0x9E3779B97F4A7C15 % (1 << 64))
        slots = (_KEYS * multiplier) >> shift
        if len(np.unique(slots)) == len(_KEYS):
            table = np.zeros(1 << _HASH_BITS, np.uint8)
            table[slots.astype(np.int64)] = np.arange(len(_KEYS), dtype=np.uint8)
            return multiplier, table
    raise AssertionError("no multiplier tells the fields apart")


_MULTIPLIER, _SLOTS = _perfect_hash()


def _fields(words: Words, starts: Ints, ends: Ints, kind: Kind) -> Bytes:
    length = ends - starts
    require(bool((length >= 1).all() and (length <= WORD).all()))
    key = words[starts] & MASK[length]
    slot = (key * _MULTIPLIER) >> np.uint64(64 - _HASH_BITS)
    field: Bytes = _SLOTS[slot.astype(np.int64)]
    require(bool((_KEYS[field] == key).all() and _IN_FILE[kind][field].all()))
    return field


def _check_singles(field: Bytes, offsets: Ints) -> None:
    """Refuse a row that has two values of a field which has one."""
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    single = _IS_SINGLE[field]
    seen = np.zeros((len(offsets) - 1) * len(FIELDS), np.bool_)
    places = row[single] * len(FIELDS) + field[single]
    seen[places] = True
    require(int(seen.sum()) == len(places))


_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def _index(text: Bytes, starts: Ints, ends: Ints) -> Words:
    require(bool((ends - starts == INDEX_DIGITS).all()))
    nibbles = _NIBBLE[text[starts[:, None] + np.arange(INDEX_DIGITS)]]
    require(not bool((nibbles == 255).any()))
    pairs = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
    index: Words = np.ascontiguousarray(pairs).view(">u8")[:, 0].astype(np.uint64)
    return index


def _labels(
    text: Bytes, words: Words, line_starts: Ints, columns: Ints, kind: Kind
) -> tuple[Ints, Bytes]:
    if kind == "common":
        return np.empty(0, np.int64), np.empty((0, 2), np.uint8)
    sample_id = digits(words, line_starts, columns[:, 0], MAX_SAMPLE_ID_DIGITS)
    require(bool((columns[:, 1:3] - columns[:, 0:2] == 2).all()))
    labels = text[columns[:, 1:3] - 1] - np.uint8(ZERO)
    require(not bool((labels > 1).any()))
    return sample_id, labels
