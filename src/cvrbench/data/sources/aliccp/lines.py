"""Lines of a raw file into arrays, many at a time and without a Python step per row or token.

Lines are read or refused together, never guessed. What is refused is halved until the lines at
fault stand alone. `diagnose` says what is wrong with each: it is the grammar written a second time,
slowly and without numpy, and the parser is tested against it.

Text is read eight bytes at a time as little-endian words, the digits of a word all at once (Lemire,
"Quickly parsing eight digits", 2018).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.dataset import Bag
from cvrbench.data.raw import Tolerance
from cvrbench.data.sources.aliccp import (
    BAGS,
    BY_NAME,
    FEATURE_SEPARATOR,
    FIELDS,
    ID_SEPARATOR,
    INDEX_DIGITS,
    MAX_ID_DIGITS,
    MAX_SAMPLE_ID_DIGITS,
    MAX_VALUE,
    N_COLUMNS,
    SINGLES,
    VALUE_SEPARATOR,
    Kind,
)
from cvrbench.errors import DataError

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

NO_LIMIT = 1 << 62
WORD = 8
COMMA, LINE_FEED, DOT, ZERO = b",\n.0"
PADDING = 2 * WORD
"""Bytes before and behind a block, so that a word can be read at every place of it."""
PIECE_BYTES = 2 << 20
"""Text parsed at once: its arrays fit in the processor's cache."""


MAX_EXAMPLES = 100
_INDEX = re.compile(rf"[0-9a-f]{{{INDEX_DIGITS}}}")
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
_SHOWN = 40
MAX_ASCII = 127
GZIP_MAGIC = b"\x1f\x8b"


class Reason(NamedTuple):
    """Why a line is refused: a short name to count by, and what was found and expected."""

    name: str
    words: str


class Fault(NamedTuple):
    """A line that is refused; lines are counted from 1."""

    line: int
    reason: Reason


@dataclass
class FaultLog:
    """Faults of all files so far, by file and reason, the first ones as examples."""

    tolerance: Tolerance
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, file: str, where: str, faults: Iterable[Fault]) -> None:
        """Note the faults of a file.

        Raises:
            DataError: There is one and none is tolerated, or there are too many by now.
        """
        for fault in sorted(faults):
            text = f"{where}, line {fault.line:,}: {fault.reason.words}"
            if self.tolerance.on_error == "stop":
                raise DataError(
                    f"{text}. Mend the file, or leave such lines out with --on-error skip"
                )
            self.counts[file, fault.reason.name] += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(text)
            if self.counts.total() > self.tolerance.most:
                raise DataError(
                    f"{text}. That is fault {self.counts.total():,}, more than the "
                    f"{self.tolerance.most:,} lines that --max-skips allows to leave out; is it "
                    "the right file?"
                )

    def dropped(self, file: str) -> dict[str, int]:
        """Return the number of lines of a file that were left out, by reason."""
        return {reason: n for (of, reason), n in sorted(self.counts.items()) if of == file}


def diagnose(line: bytes, kind: Kind) -> Reason | None:
    """Return what is wrong with a line that ends in its line feed, or None if nothing is."""
    if line.startswith(GZIP_MAGIC):
        return Reason("gzipped", "the file is gzipped but not named so; rename it to end in .gz")
    if not line.endswith(b"\n"):
        return Reason("truncated line", "the last line has no end; unpack or download it again")
    body = line[:-1]
    if not body:
        return Reason("blank line", "the line is blank")
    if body.endswith(b"\r"):
        return Reason("CR LF", "the line ends in CR LF, expected LF; unpack without conversion")
    if not body.isascii():
        at = next(i for i, byte in enumerate(body) if byte > MAX_ASCII)
        return Reason("not ASCII", f"byte {at + 1} is {body[at]:#04x}, expected ASCII only")
    columns = body.decode("ascii").split(",")
    if len(columns) != N_COLUMNS[kind]:
        other: Kind = "common" if kind == "skeleton" else "skeleton"
        hint = f"; is this a {other} file?" if len(columns) == N_COLUMNS[other] else ""
        words = f"{len(columns)} columns separated by commas, expected {N_COLUMNS[kind]}{hint}"
        return Reason("column count", words)
    *labels, index, number, features = columns
    return _why_labels(labels) or _why_index(index) or _why_features(features, number, kind)


def _why_labels(columns: list[str]) -> Reason | None:
    if not columns:
        return None
    sample_id, click, conversion = columns
    if not _is_number(sample_id, MAX_SAMPLE_ID_DIGITS):
        words = f"sample id is {_show(sample_id)}, expected up to {MAX_SAMPLE_ID_DIGITS} digits"
        return Reason("sample id", words)
    for name, value in (("click", click), ("conversion", conversion)):
        if value not in {"0", "1"}:
            return Reason("label", f"{name} is {_show(value)}, expected 0 or 1")
    return None


def _why_index(index: str) -> Reason | None:
    if _INDEX.fullmatch(index) is None:
        words = f"common feature index is {_show(index)}, expected {INDEX_DIGITS} of 0-9a-f"
        return Reason("index", words)
    return None


def _why_features(text: str, number: str, kind: Kind) -> Reason | None:
    if not text:
        return Reason("no features", "the features column is empty")
    if not _is_number(number, MAX_ID_DIGITS):
        return Reason("feature_num", f"feature_num is {_show(number)}, expected a number")
    features = text.split("\x01")
    singles: set[str] = set()
    for feature in features:
        if (reason := _why_feature(feature, kind)) is not None:
            return reason
        name = feature.split("\x02")[0]
        if not BY_NAME[name].bag and name in singles:
            return Reason("repeated field", f"field {name} stands twice, expected once in a row")
        singles.add(name)
    if int(number) != len(features):
        words = f"feature_num is {number}, but there are {len(features)} features"
        return Reason("feature_num", words)
    return None


def _why_feature(feature: str, kind: Kind) -> Reason | None:
    parts = re.split("([\x02\x03])", feature)
    if parts[1::2] != ["\x02", "\x03"]:
        words = f"feature {_show(feature)} is not field \\x02 id \\x03 value"
        return Reason("malformed feature", words)
    name, identity, value = parts[::2]
    known = BY_NAME.get(name)
    if known is None:
        return Reason("unknown field", f"field {_show(name)}, expected one of {_names(kind)}")
    if known.kind != kind:
        words = f"field {name} belongs into the {known.kind} file; this is a {kind} file"
        return Reason("field of the other file", words)
    if not _is_number(identity, MAX_ID_DIGITS):
        return Reason("id", f"id of field {name} is {_show(identity)}, expected a number")
    if not known.low <= int(identity) <= known.high:
        block = f"{known.low} to {known.high}"
        words = f"id {int(identity)} lies outside the block of field {name}, {block}"
        return Reason("id outside its block", words)
    if _DECIMAL.fullmatch(value) is None or not 0 < float(value) < MAX_VALUE:
        words = f"value of field {name} is {_show(value)}, expected a decimal above 0, such as 1.0"
        return Reason("value", words)
    return None


def _is_number(text: str, max_digits: int) -> bool:
    return text.isdecimal() and len(text) <= max_digits


def _names(kind: Kind) -> str:
    return ", ".join(known.name for known in FIELDS if known.kind == kind)


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


@dataclass(frozen=True, kw_only=True)
class Block:
    """The good lines of a part of a raw file, its features sorted by field."""

    kind: Kind
    line: Ints  # number of each row's line in the file, from 1
    index: Words  # common feature index of each row
    sample_id: Ints  # of skeleton rows, else empty
    labels: Bytes  # click and conversion of skeleton rows, [rows, 2]
    singles: Ids  # ids of the fields with one value, [rows, fields]; 0 where it is absent
    bags: dict[str, Bag]  # by field with several values, row after row, in the order of the file
    n_lines: int  # of the block, good or not
    faults: tuple[Fault, ...]  # lines that are not of the format


def to_block(text: bytes, kind: Kind, first_line: int, max_faults: int = NO_LIMIT) -> Block:
    """Parse lines of a raw file.

    Args:
        text: Lines, the last maybe without its end.
        kind: Which of the two files they are from.
        first_line: Number of the first line in the file, from 1.
        max_faults: With so many found, the rest of the text is skipped: a file with CR LF in every
            line is refused at once.
    """
    blocks, line = [_empty(kind)], first_line
    for piece in _cut(text):
        found = _parse_or_diagnose(piece, kind, line, max_faults)
        max_faults -= _count_faults(found)
        blocks += found
        line += _count_lines(piece)
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("line", "index", "sample_id", "labels", "singles")
    }
    return Block(
        kind=kind,
        bags={name: _concatenate([block.bags[name] for block in blocks]) for name in BAGS[kind]},
        n_lines=sum(block.n_lines for block in blocks),
        faults=tuple(fault for block in blocks for fault in block.faults),
        **arrays,
    )


def _concatenate(bags: Sequence[Bag]) -> Bag:
    lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
    return Bag(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([bag.ids for bag in bags]),
        np.concatenate([bag.weights for bag in bags]),
    )


def _empty(kind: Kind) -> Block:
    bag = Bag(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    return Block(
        kind=kind,
        line=np.empty(0, np.int64),
        index=np.empty(0, np.uint64),
        sample_id=np.empty(0, np.int64),
        labels=np.empty((0, 2), np.uint8),
        singles=np.empty((0, len(SINGLES[kind])), np.int32),
        bags=dict.fromkeys(BAGS[kind], bag),
        n_lines=0,
        faults=(),
    )


def _cut(text: bytes) -> Iterator[bytes]:
    """Whole lines of about `PIECE_BYTES` each."""
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + PIECE_BYTES) + 1 or text.find(b"\n", start) + 1
        end = end or len(text)
        yield text[start:end]
        start = end


def _count_lines(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n"))


def _count_faults(blocks: Sequence[Block]) -> int:
    return sum(len(block.faults) for block in blocks)


class Refused(Exception):  # noqa: N818 - an answer of the parser, not an error of the program
    """Something is not as the grammar wants it."""


def _require(condition: bool) -> None:
    if not condition:
        raise Refused


def _parse_or_diagnose(text: bytes, kind: Kind, first_line: int, max_faults: int) -> list[Block]:
    """Parse lines; a line that cannot be parsed becomes a block without rows and with a fault."""
    if not text or max_faults <= 0:
        return []
    try:
        return [_parse(text, kind, first_line)]
    except Refused:
        pass
    n_lines = _count_lines(text)
    if n_lines == 1:
        reason = diagnose(text, kind)
        assert reason is not None, f"parser and diagnosis disagree on {text!r}"
        return [replace(_empty(kind), n_lines=1, faults=(Fault(first_line, reason),))]
    # Cut at the middle line, not the middle byte: a line of a megabyte would never stand alone.
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == LINE_FEED)
    middle = n_lines // 2
    cut = int(ends[middle - 1]) + 1
    before = _parse_or_diagnose(text[:cut], kind, first_line, max_faults)
    left = max_faults - _count_faults(before)
    return before + _parse_or_diagnose(text[cut:], kind, first_line + middle, left)


def _parse(lines: bytes, kind: Kind, first_line: int) -> Block:
    """Parse whole lines.

    Raises:
        Refused: A line is not as the grammar wants it.
    """
    text = np.zeros(len(lines) + 2 * PADDING, np.uint8)
    text[PADDING:-PADDING] = np.frombuffer(lines, np.uint8)
    body = text[: len(text) - PADDING]
    separators = np.flatnonzero((body <= LINE_FEED) | (body == COMMA))
    separators = separators[PADDING:]  # the zeros in front
    columns, triples, tokens = _structure(text, separators, N_COLUMNS[kind])
    _require(int(separators[-1]) == len(body) - 1)
    offsets = np.concatenate([[0], np.cumsum(tokens)])
    starts = np.empty(len(triples), np.int64)
    starts[1:] = triples[:-1, 2] + 1
    starts[offsets[:-1]] = columns[:, -1] + 1
    # The word at every byte of the text, as a view.
    words: Words = np.ndarray((len(text) - WORD + 1,), "<u8", buffer=text, strides=(1,))
    field = _fields(words, starts, triples[:, 0], kind)
    ids = _digits(words, triples[:, 0] + 1, triples[:, 1], MAX_ID_DIGITS)
    _require(bool(((ids >= _LOW[field]) & (ids <= _HIGH[field])).all()))
    values = _values(text, words, triples[:, 1] + 1, triples[:, 2])
    number = _digits(words, columns[:, -2] + 1, columns[:, -1], MAX_ID_DIGITS)
    _require(bool((number == tokens).all()))
    line_starts = np.empty(len(columns), np.int64)
    line_starts[:1] = PADDING
    line_starts[1:] = triples[offsets[1:-1] - 1, 2] + 1
    sample_id, labels = np.empty(0, np.int64), np.empty((0, 2), np.uint8)
    if kind == "skeleton":
        sample_id = _digits(words, line_starts, columns[:, 0], MAX_SAMPLE_ID_DIGITS)
        _require(bool((columns[:, 1:3] - columns[:, 0:2] == 2).all()))
        labels = text[columns[:, 1:3] - 1] - np.uint8(ZERO)
        _require(not bool((labels > 1).any()))
    index_start = line_starts if kind == "common" else columns[:, 2] + 1
    singles, bags = _by_field(kind, tokens, field, ids.astype(np.int32), values)
    return Block(
        kind=kind,
        line=np.arange(first_line, first_line + len(columns)),
        index=_index(text, index_start, columns[:, -2]),
        sample_id=sample_id,
        labels=labels,
        singles=singles,
        bags=bags,
        n_lines=len(columns),
        faults=(),
    )


_NUMBER = {field.name: number for number, field in enumerate(FIELDS)}
_COLUMN = np.array([-1 if f.bag else SINGLES[f.kind].index(f.name) for f in FIELDS], np.int64)


def _by_field(
    kind: Kind, tokens: Ints, field: Bytes, ids: Ids, values: npt.NDArray[np.float32]
) -> tuple[Ids, dict[str, Bag]]:
    """Features line after line -> ids of single fields, `[lines, fields]`, and bags by field."""
    n = len(tokens)
    row = np.repeat(np.arange(n), tokens)
    singles = np.zeros((n, len(SINGLES[kind])), np.int32)
    single = np.flatnonzero(_COLUMN[field] >= 0)
    singles[row[single], _COLUMN[field[single]]] = ids[single]
    _require(np.count_nonzero(singles) == len(single))  # no line has such a field twice
    bags = {}
    for name in BAGS[kind]:
        chosen = np.flatnonzero(field == _NUMBER[name])
        lengths = np.bincount(row[chosen], minlength=n)
        bags[name] = Bag(np.concatenate([[0], np.cumsum(lengths)]), ids[chosen], values[chosen])
    return singles, bags


def _structure(text: Bytes, separators: Ints, n_columns: int) -> tuple[Ints, Ints, Ints]:
    """Places of every line's commas, of every feature's three separators, and features per line.

    Returns:
        `[lines, n_columns - 1]`, `[features, 3]`, `[lines]`.
    """
    kinds = text[separators]
    ends = np.flatnonzero(kinds == LINE_FEED)
    commas = np.flatnonzero(kinds == COMMA)
    _require(len(ends) > 0 and len(commas) == len(ends) * (n_columns - 1))
    first = np.concatenate([[0], ends[:-1] + 1])
    columns = commas.reshape(len(ends), n_columns - 1)
    _require(bool((columns == first[:, None] + np.arange(n_columns - 1)).all()))
    others = separators[kinds != COMMA]
    _require(len(others) % 3 == 0)
    triples = others.reshape(-1, 3)
    marks = text[triples]
    last = marks[:, 2]
    _require(bool((marks[:, 0] == ID_SEPARATOR).all() and (marks[:, 1] == VALUE_SEPARATOR).all()))
    ends_line = last == LINE_FEED
    _require(bool((ends_line | (last == FEATURE_SEPARATOR)).all()))
    last_feature = np.flatnonzero(ends_line)
    return separators[columns], triples, np.diff(last_feature, prepend=-1)


_MASK = np.array([(1 << (8 * n)) - 1 for n in range(WORD + 1)], np.uint64)
_KEYS = np.array(
    [int.from_bytes(field.name.encode().ljust(WORD, b"\0"), "little") for field in FIELDS],
    np.uint64,
)
_LOW = np.array([field.low for field in FIELDS], np.int64)
_HIGH = np.array([field.high for field in FIELDS], np.int64)
_IN_FILE = {kind: np.array([field.kind == kind for field in FIELDS]) for kind in N_COLUMNS}
_HASH_BITS = 8
_SHIFT = np.uint64(64 - _HASH_BITS)


# The top bits of a name times this number tell the names apart.
_MULTIPLIER = np.uint64(0xDAA66D2C7DDF743F)
_SLOTS = np.zeros(1 << _HASH_BITS, np.uint8)
_SLOTS[(_KEYS * _MULTIPLIER >> _SHIFT).astype(np.int64)] = np.arange(len(_KEYS), dtype=np.uint8)


def _fields(words: Words, starts: Ints, ends: Ints, kind: Kind) -> Bytes:
    length = ends - starts
    _require(bool((length >= 1).all() and (length <= WORD).all()))
    key = words[starts] & _MASK[length]
    field: Bytes = _SLOTS[(key * _MULTIPLIER >> _SHIFT).astype(np.int64)]
    _require(bool((_KEYS[field] == key).all() and _IN_FILE[kind][field].all()))
    return field


_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def _index(text: Bytes, starts: Ints, ends: Ints) -> Words:
    _require(bool((ends - starts == INDEX_DIGITS).all()))
    nibbles = _NIBBLE[text[starts[:, None] + np.arange(INDEX_DIGITS)]]
    _require(not bool((nibbles == 255).any()))
    pairs = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
    index: Words = np.ascontiguousarray(pairs).view(">u8")[:, 0].astype(np.uint64)
    return index


def _digits(words: Words, starts: Ints, ends: Ints, max_digits: int) -> Ints:
    """Numbers of up to 16 digits; a place with another byte than a digit is refused."""
    length = ends - starts
    _require(bool((length >= 1).all() and (length <= max_digits).all()))
    if max_digits <= WORD:
        return _eight(words[ends - WORD], length)
    low = _eight(words[ends - WORD], np.minimum(length, WORD))
    high = _eight(words[ends - 2 * WORD], np.maximum(length - WORD, 0))
    number: Ints = high * 10**WORD + low
    return number


_ZEROS, _TOPS, _BEYOND = (np.uint64(n * 0x0101010101010101) for n in (0x30, 0x80, 0x76))
_STEPS = [
    (np.uint64(10), np.uint64(8), np.uint64(0x00FF00FF00FF00FF)),
    (np.uint64(100), np.uint64(16), np.uint64(0x0000FFFF0000FFFF)),
    (np.uint64(10_000), np.uint64(32), np.uint64(0x00000000FFFFFFFF)),
]


def _eight(word: Words, length: Ints) -> Ints:
    """The last `length` of a word's eight digits, as a number."""
    before = _MASK[WORD - length]
    digits = ((word & ~before) | (_ZEROS & before)) ^ _ZEROS
    # A digit is now 0 to 9: adding 0x76 sets the top bit of any byte above 9.
    _require(not bool((((digits + _BEYOND) | digits) & _TOPS).any()))
    for ten, shift, kept in _STEPS:  # neighbours into pairs, fours, all eight
        digits = (digits * ten + (digits >> shift)) & kept
    return digits.astype(np.int64)


_TEN = 10.0 ** np.arange(WORD + 1)


def _values(text: Bytes, words: Words, starts: Ints, ends: Ints) -> npt.NDArray[np.float32]:
    """Decimals; those of one digit, a dot and up to eight more digits in words, others one by one.

    An integer below 2**53 over a power of ten is the nearest double to the text, as `float` gives.
    """
    length = ends - starts
    _require(bool((length >= 1).all()))
    usual = (length >= 3) & (length <= WORD + 2) & (text[starts + 1] == DOT)
    if bool(usual.all()):
        return _usual_values(text, words, starts, ends).astype(np.float32)
    values = np.empty(len(starts), np.float64)
    values[usual] = _usual_values(text, words, starts[usual], ends[usual])
    for place in np.flatnonzero(~usual).tolist():
        values[place] = _other_value(text[starts[place] : ends[place]].tobytes())
    return values.astype(np.float32)


def _usual_values(text: Bytes, words: Words, starts: Ints, ends: Ints) -> Floats:
    whole = text[starts].astype(np.int64) - ZERO
    _require(bool(((whole >= 0) & (whole <= 9)).all()))
    places = ends - starts - 2
    scale = _TEN[places]
    values: Floats = (whole * scale + _eight(words[ends - WORD], places)) / scale
    _require(bool((values > 0).all()))
    return values


def _other_value(text: bytes) -> float:
    whole, dot, rest = text.partition(b".")
    _require(whole.isdigit() and (rest.isdigit() if dot else True))
    value = float(text)
    _require(0 < value < MAX_VALUE)
    return value
