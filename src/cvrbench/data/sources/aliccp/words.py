"""Decimal numbers at many places of a text at once.

Text is read eight bytes at a time as little-endian words, the digits of a word all at once (Lemire,
"Quickly parsing eight digits", 2018). What is no number raises `Refused`, never a guess.
"""

import numpy as np
import numpy.typing as npt

from cvrbench.data.sources.aliccp.grammar import MAX_VALUE

WORD = 8
DOT, ZERO = ord("."), ord("0")
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Refused(Exception):  # noqa: N818 - an answer of the parser, not an error of the program
    """Something is not as the grammar wants it."""


def require(condition: bool) -> None:
    """Raise `Refused` unless the condition holds."""
    if not condition:
        raise Refused


def words_of(text: Bytes) -> Words:
    """Give the word at every byte of a text, as a view: `[len(text) - 7]`."""
    return np.ndarray((len(text) - WORD + 1,), "<u8", buffer=text, strides=(1,))


MASK = np.array([(1 << (8 * n)) - 1 for n in range(WORD + 1)], np.uint64)


def _u64(value: int) -> np.uint64:
    return np.uint64(value)


_ZEROS = _u64(0x3030303030303030)


def digits(words: Words, starts: Ints, ends: Ints, max_digits: int) -> Ints:
    """Numbers of up to 16 digits; a place with another byte than a digit is refused."""
    length = ends - starts
    require(bool((length >= 1).all() and (length <= max_digits).all()))
    if max_digits <= WORD:
        return _eight(words[ends - WORD], length)
    low = _eight(words[ends - WORD], np.minimum(length, WORD))
    high = _eight(words[ends - 2 * WORD], np.maximum(length - WORD, 0))
    number: Ints = high * 10**WORD + low
    return number


def _eight(word: Words, length: Ints) -> Ints:
    """The last `length` of a word's eight digits, as a number."""
    before = MASK[WORD - length]
    digits = ((word & ~before) | (_ZEROS & before)) ^ _ZEROS
    # A digit is now 0 to 9: adding 0x76 sets the top bit of any byte above 9.
    beyond = (digits + _u64(0x7676767676767676)) | digits
    require(not bool((beyond & _u64(0x8080808080808080)).any()))
    pairs = (digits * _u64(10) + (digits >> _u64(8))) & _u64(0x00FF00FF00FF00FF)
    fours = (pairs * _u64(100) + (pairs >> _u64(16))) & _u64(0x0000FFFF0000FFFF)
    return ((fours * _u64(10_000) + (fours >> _u64(32))) & _u64(0xFFFFFFFF)).astype(np.int64)


_TEN = 10.0 ** np.arange(WORD + 1)


def values(
    text: npt.NDArray[np.uint8], words: Words, starts: Ints, ends: Ints
) -> npt.NDArray[np.float32]:
    """Decimals; those of one digit, a dot and up to eight more digits in words, others one by one.

    An integer below 2**53 over a power of ten is the nearest double to the text, as `float` gives.
    """
    length = ends - starts
    require(bool((length >= 1).all()))
    usual = (length >= 3) & (length <= WORD + 2) & (text[starts + 1] == DOT)
    if bool(usual.all()):
        return _usual(text, words, starts, ends).astype(np.float32)
    values = np.empty(len(starts), np.float64)
    values[usual] = _usual(text, words, starts[usual], ends[usual])
    for place in np.flatnonzero(~usual).tolist():
        values[place] = _slow_value(text[starts[place] : ends[place]].tobytes())
    return values.astype(np.float32)


def _usual(text: npt.NDArray[np.uint8], words: Words, starts: Ints, ends: Ints) -> Floats:
    whole = text[starts].astype(np.int64) - ZERO
    require(bool(((whole >= 0) & (whole <= 9)).all()))
    places = ends - starts - 2
    scale = _TEN[places]
    values: Floats = (whole * scale + _eight(words[ends - WORD], places)) / scale
    require(bool((values > 0).all()))
    return values


def _slow_value(text: bytes) -> float:
    whole, dot, rest = text.partition(b".")
    require(whole.isdigit() and (rest.isdigit() if dot else True))
    value = float(text)
    require(0 < value < MAX_VALUE)
    return value
