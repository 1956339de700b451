"""One line of a raw file, read slowly and strictly: what is wrong with it, in words.

The grammar of `grammar.py` written a second time, without numpy: `parse.py` is tested against it,
and asks it for the reason when it has refused a line.
"""

import re

from cvrbench.data.sources.aliccp.grammar import (
    FIELDS,
    INDEX_DIGITS,
    MAX_ID_DIGITS,
    MAX_SAMPLE_ID_DIGITS,
    MAX_VALUE,
    N_COLUMNS,
    Kind,
)

_BY_NAME = {field.name: field for field in FIELDS}
_INDEX = re.compile(rf"[0-9a-f]{{{INDEX_DIGITS}}}")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_SHOWN = 40
GZIP_MAGIC = b"\x1f\x8b"


def fault(line: bytes, kind: Kind) -> str | None:
    """Say what is wrong with a line, or None if nothing is.

    Args:
        line: The line with its line feed.
        kind: Of which file it is.

    Returns:
        What was found and what was expected, such as `"click is '2', expected 0 or 1"`.
    """
    if line.startswith(GZIP_MAGIC):
        return "the file is gzipped though its name does not say so; rename it to end in .gz"
    if not line.endswith(b"\n"):
        return "the line has no end; the file is truncated, unpack or download it again"
    body = line[:-1]
    if body.endswith(b"\r"):
        return "the line ends in CR LF, expected LF alone; unpack the file again without conversion"
    if not body:
        return "the line is blank"
    if not body.isascii():
        at = next(i for i, byte in enumerate(body) if byte > 127)
        return f"byte {at + 1} is {body[at]:#04x}, expected ASCII only"
    columns = body.decode("ascii").split(",")
    if len(columns) != N_COLUMNS[kind]:
        other: Kind = "common" if kind == "skeleton" else "skeleton"
        hint = f"; is this a {other} file?" if len(columns) == N_COLUMNS[other] else ""
        return (
            f"{len(columns)} columns separated by commas, expected {N_COLUMNS[kind]} in a {kind} "
            f"file{hint}"
        )
    *labels, index, number, features = columns
    return _labels(labels) or _index(index) or _features(features, number, kind)


def _labels(columns: list[str]) -> str | None:
    if not columns:
        return None
    sample_id, click, conversion = columns
    if not (sample_id.isdigit() and len(sample_id) <= MAX_SAMPLE_ID_DIGITS):
        return f"sample id is {_show(sample_id)}, expected up to {MAX_SAMPLE_ID_DIGITS} digits"
    for name, value in (("click", click), ("conversion", conversion)):
        if value not in {"0", "1"}:
            return f"{name} is {_show(value)}, expected 0 or 1"
    return None


def _index(index: str) -> str | None:
    if _INDEX.fullmatch(index) is None:
        return f"common feature index is {_show(index)}, expected {INDEX_DIGITS} hex digits 0-9a-f"
    return None


def _features(text: str, number: str, kind: Kind) -> str | None:
    if not text:
        return "the features column is empty"
    if not (number.isdigit() and len(number) <= MAX_ID_DIGITS):
        return f"feature_num is {_show(number)}, expected a number"
    features = text.split("\x01")
    singles: set[str] = set()
    for feature in features:
        if (reason := _feature(feature, kind)) is not None:
            return reason
        name = feature.split("\x02")[0]
        if not _BY_NAME[name].bag and name in singles:
            return f"field {name} stands twice, expected one value of it in a row"
        singles.add(name)
    if int(number) != len(features):
        return f"feature_num is {number}, but there are {len(features)} features"
    return None


def _feature(feature: str, kind: Kind) -> str | None:
    parts = re.split("([\x02\x03])", feature)
    if parts[1::2] != ["\x02", "\x03"]:
        return f"feature {_show(feature)} is not field \\x02 id \\x03 value"
    name, identity, value = parts[::2]
    field = _BY_NAME.get(name)
    if field is None:
        return f"field {_show(name)} is unknown, expected one of {_names(kind)}"
    if field.kind != kind:
        return f"field {name} belongs into the {field.kind} file; this is a {kind} file"
    if not (identity.isdigit() and len(identity) <= MAX_ID_DIGITS):
        return f"id of field {name} is {_show(identity)}, expected a number"
    if not field.low <= int(identity) <= field.high:
        return (
            f"id {int(identity)} lies outside the block of field {name}, "
            f"{field.low} to {field.high}"
        )
    if _NUMBER.fullmatch(value) is None or not 0 < float(value) < MAX_VALUE:
        return f"value of field {name} is {_show(value)}, expected a decimal above 0, such as 1.0"
    return None


def _names(kind: Kind) -> str:
    names = [field.name for field in FIELDS if field.kind == kind]
    return ", ".join(names)


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
