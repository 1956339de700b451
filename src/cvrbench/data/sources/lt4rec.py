"""The sample of the NCS authors' log: TFRecord files of `tf.Example`, read without TensorFlow.

github.com/xuanjixiao/onerec, folder lt4rec, no licence stated. Clicks on a video feed, and of each
click the share of the video that was watched, the paper's conversion. Fields and shared
vocabularies are those of the authors' `drank_tf.yaml`; `pctr` and `seqnum` are no features. The
files name no split: users are split at random.

A record is its length (8 bytes), the length's checksum (4), its bytes, and their checksum (4), all
little-endian; a checksum is the masked CRC32C, ((crc >> 15 | crc << 17) + 0xa282ead8) mod 2^32.
Its bytes are a protocol buffer, of which these fields are read:

    Example { Features features = 1 }            Features { map<string, Feature> feature = 1 }
    Feature { bytes_list = 1, float_list = 2, int64_list = 3 }, each { repeated value = 1 }
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from cvrbench.config.dataset import LT4RecConfig
from cvrbench.data.archives import locate
from cvrbench.data.raw import (
    Fractions,
    RawField,
    RawStream,
    by_group,
    click_conversion,
    table_chunks,
)
from cvrbench.errors import DataError

PATTERN = "part-r-*"
SINGLE = (
    "SVID", "SCP", "SICAT1", "SICAT2", "VID", "CP", "ICAT1", "ICAT2", "ORDER", "COVERQUALITY",
    "AGE", "DURATION", "ALGID", "UID", "UGROUP",
)  # fmt: skip
LISTS = ("SIKEYWORD", "STAG", "IXFTAG", "IKEYWORD", "UCAT")
SHARED = {
    "SVID": "VID",
    "SCP": "CP",
    **dict.fromkeys(("SICAT1", "SICAT2", "ICAT1", "UCAT"), "ICAT2"),
    **dict.fromkeys(("STAG", "IKEYWORD"), "IXFTAG"),
}
"""Field -> the one whose vocabulary and embeddings it has."""
MISSING = "-1"
HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")
BYTES, FLOATS, INTEGERS = 1, 2, 3
KINDS = {BYTES: "texts", FLOATS: "floats", INTEGERS: "integers"}
WANTED = {"label": INTEGERS, "cvrlabel": FLOATS} | {f"FEA_{n}": BYTES for n in (*SINGLE, *LISTS)}
Value = bytes | float | int


def load_lt4rec(config: LT4RecConfig, raw: Path) -> RawStream:
    """Read the records and split them by user.

    Raises:
        DataError: A file is missing or damaged, or holds something else.
    """
    files = locate(raw, [PATTERN], dataset="lt4rec")
    columns: dict[str, list[Any]] = {name: [] for name in WANTED}
    for file in files.values():
        for number, record in enumerate(records(file.read(), file.where), start=1):
            for name, value in _row(record, f"{file.where}: record {number:,}").items():
                columns[name].append(value)
    table = pl.DataFrame({name.removeprefix("FEA_"): column for name, column in columns.items()})
    return RawStream(
        chunks=table_chunks(
            table.with_columns(by_group(table["UID"], Fractions.of(config))), {"read": len(table)}
        ),
        fields=tuple(
            RawField(
                name=name,
                kind="multivalued" if name in LISTS else "categorical",
                min_count=config.min_count,
                shares=SHARED.get(name),
            )
            for name in (*SINGLE, *LISTS)
        ),
        tasks=click_conversion("label", "cvrlabel", "ratio"),
        group="UID",
        group_disjoint=True,
        sources={name: file.sha256() for name, file in files.items()},
    )


def records(data: bytes, where: str) -> Iterator[bytes]:
    """Yield the records of a TFRecord file.

    Raises:
        DataError: One is cut short, or has not the bytes that were written.
    """
    at, number = 0, 0
    while at < len(data):
        number += 1
        place = f"{where}: record {number:,}"
        if len(data) - at < HEAD.size:
            raise DataError(
                f"{place} is cut short after {len(data) - at} bytes; get the file again"
            )
        length, check = HEAD.unpack_from(data, at)
        if masked_crc32c(data[at : at + 8]) != check:
            raise DataError(
                f"{place} has a wrong checksum of its length: the file is damaged or no TFRecord; "
                "get it again"
            )
        start = at + HEAD.size
        at = start + length + TAIL.size
        if at > len(data):
            raise DataError(
                f"{place} is cut short: {length:,} bytes are announced, and "
                f"{max(len(data) - start, 0):,} are left in the file; get it again"
            )
        if masked_crc32c(data[start : start + length]) != TAIL.unpack_from(data, start + length)[0]:
            raise DataError(f"{place} has a wrong checksum: the file is damaged; get it again")
        yield data[start : start + length]


def masked_crc32c(data: bytes) -> int:
    """Return the checksum that TFRecord files have of some bytes.

    >>> hex(masked_crc32c(b"123456789"))  # CRC32C 0xe3069283
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _remainder(byte: int) -> int:
    """Return a byte's remainder by Castagnoli's polynomial, bits in reverse order."""
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


CRC_TABLE = [_remainder(byte) for byte in range(256)]


def _row(record: bytes, place: str) -> dict[str, Any]:
    """Return the wanted features of a record: texts, lists of them, and both labels."""
    try:
        features = dict(example(record))
    except (ValueError, IndexError, struct.error, UnicodeDecodeError):
        raise DataError(f"{place} is no tf.Example; give the authors' part-r-* files") from None
    row: dict[str, Any] = {}
    for name, kind in WANTED.items():
        found, values = features.get(name, (0, []))
        single = name.removeprefix("FEA_") not in LISTS
        if found != kind or (single and len(values) != 1):
            many = "one value" if single else "a list"
            there = f"{len(values)} {KINDS[found]}" if found else "nothing"
            raise DataError(
                f"{place} has {there} in {name!r}, where {many} of {KINDS[kind]} is expected"
            )
        row[name] = values[0] if single else values
    click, ratio = row["label"], row["cvrlabel"]
    if click not in (0, 1):
        raise DataError(f"{place}: label is {click}; a click is 0 or 1")
    if not 0 <= ratio <= 1:
        raise DataError(f"{place}: cvrlabel is {ratio:g}; a watch ratio is a number from 0 to 1")
    if ratio > 0 and not click:
        raise DataError(f"{place}: cvrlabel is {ratio:g} with label 0; what is not clicked has 0")
    for name, value in row.items():
        if isinstance(value, list):
            row[name] = _texts(value, place) or None
        elif isinstance(value, bytes):
            row[name] = next(iter(_texts([value], place)), None)
    return row


def _texts(values: list[bytes], place: str) -> list[str]:
    try:
        words = [value.decode() for value in values]
    except UnicodeDecodeError:
        raise DataError(f"{place} has a text that is not UTF-8") from None
    return [word for word in words if word != MISSING]


def example(record: bytes) -> Iterator[tuple[str, tuple[int, list[Value]]]]:
    """Yield the features of a serialised `tf.Example`: name, kind and values.

    Raises:
        ValueError, IndexError, struct.error: It is none.
    """
    for features in _messages(record):
        for feature in _messages(features):
            entry = dict(_fields(feature))
            if set(entry) - {1, 2} or not isinstance(entry.get(1), bytes):
                raise ValueError("no entry of a map")
            for kind, body in _fields(_as_bytes(entry[2])):
                yield _as_bytes(entry[1]).decode(), (kind, list(_values(kind, _as_bytes(body))))


def _values(kind: int, body: bytes) -> Iterator[Value]:
    if kind not in KINDS:
        raise ValueError(f"kind {kind}")
    for number, value in _fields(body):
        if number != 1:
            raise ValueError(f"field {number}")
        if kind == BYTES:
            yield _as_bytes(value)
        elif kind == FLOATS:
            yield from (one for (one,) in struct.iter_unpack("<f", _as_bytes(value)))
        elif isinstance(value, int):
            yield value
        else:
            at = 0
            while at < len(value):
                found, at = _varint(value, at)
                yield found


def _messages(body: bytes) -> Iterator[bytes]:
    for number, value in _fields(body):
        if number != 1:
            raise ValueError(f"field {number}")
        yield _as_bytes(value)


def _as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes are expected")
    return value


def _fields(body: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the fields of a protocol buffer: number and value; 4 bytes of a float stay bytes."""
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        if key & 7 == 0:
            value, at = _varint(body, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, at = _varint(body, at)
        elif key & 7 == 5:
            size = 4
        else:
            raise ValueError(f"wire type {key & 7}")
        if at + size > len(body):
            raise ValueError("a field is cut short")
        yield key >> 3, body[at : at + size]
        at += size


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, and where it ends; 64 bits are signed."""
    number = shift = 0
    while True:
        byte = body[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
        if shift > 63:
            raise ValueError("a number is too long")
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number, at
