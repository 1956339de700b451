"""What is wrong with a line of a raw file, in words, and how many such lines are left out.

`diagnose` is the grammar of `grammar.py` written a second time, slowly and without numpy: `tokens`
is tested against it, and asks it for the reason when it has refused a line.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cvrbench.data.raw import Tolerance
from cvrbench.data.sources.aliccp.grammar import (
    BY_NAME,
    FIELDS,
    INDEX_DIGITS,
    MAX_ID_DIGITS,
    MAX_SAMPLE_ID_DIGITS,
    MAX_VALUE,
    N_COLUMNS,
    Kind,
)
from cvrbench.errors import DataError

MAX_EXAMPLES = 100
_INDEX = re.compile(rf"[0-9a-f]{{{INDEX_DIGITS}}}")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
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
    return _labels(labels) or _index(index) or _features(features, number, kind)


def _labels(columns: list[str]) -> Reason | None:
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


def _index(index: str) -> Reason | None:
    if _INDEX.fullmatch(index) is None:
        words = f"common feature index is {_show(index)}, expected {INDEX_DIGITS} of 0-9a-f"
        return Reason("index", words)
    return None


def _features(text: str, number: str, kind: Kind) -> Reason | None:
    if not text:
        return Reason("no features", "the features column is empty")
    if not _is_number(number, MAX_ID_DIGITS):
        return Reason("feature_num", f"feature_num is {_show(number)}, expected a number")
    features = text.split("\x01")
    singles: set[str] = set()
    for feature in features:
        if (reason := _feature(feature, kind)) is not None:
            return reason
        name = feature.split("\x02")[0]
        if not BY_NAME[name].bag and name in singles:
            return Reason("repeated field", f"field {name} stands twice, expected once in a row")
        singles.add(name)
    if int(number) != len(features):
        words = f"feature_num is {number}, but there are {len(features)} features"
        return Reason("feature_num", words)
    return None


def _feature(feature: str, kind: Kind) -> Reason | None:
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
    if _NUMBER.fullmatch(value) is None or not 0 < float(value) < MAX_VALUE:
        words = f"value of field {name} is {_show(value)}, expected a decimal above 0, such as 1.0"
        return Reason("value", words)
    return None


def _is_number(text: str, max_digits: int) -> bool:
    return text.isdecimal() and len(text) <= max_digits


def _names(kind: Kind) -> str:
    return ", ".join(known.name for known in FIELDS if known.kind == kind)


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
