"""How much a Parquet file unpacks to, by its footer.

polars allocates what a file says; where that is more than there is, the process ends at once. The
footer is a Thrift struct in the compact protocol, of which three numbers are needed:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from cvrbench.system.files import TEXT_BYTES, open_regular

MAGIC = b"PAR1"
PER_VALUE = 16
"""Bytes of a value in memory, at most, beside the text it may refer to."""


class ParquetSize(NamedTuple):
    """What a Parquet file unpacks to."""

    rows: int
    columns: int
    n_bytes: int
    """In memory, at most."""


def parquet_size(path: Path) -> ParquetSize:
    """Read the size of a table from its footer.

    Raises:
        OSError: The file is absent or no regular one.
        ValueError: It is no Parquet file, or its footer is damaged.
    """
    with open_regular(path) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 8))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or length > min(TEXT_BYTES, end - 8):
            raise ValueError("it is no Parquet file, or its end is missing")
        file.seek(end - 8 - length)
        footer = BytesIO(file.read(length))
    try:
        found = _struct(footer)
        # FileMetaData 3: num_rows, 4: row_groups; RowGroup 1: columns; ColumnChunk 3: meta_data;
        # ColumnMetaData 5: num_values, 6: total_uncompressed_size.
        groups = [[chunk[3] for chunk in group[1]] for group in found.get(4, [])]
        n_bytes = sum(max(PER_VALUE * c[5], 0) + max(c[6], 0) for group in groups for c in group)
        return ParquetSize(int(found[3]), max(map(len, groups), default=0), int(n_bytes))
    except (KeyError, TypeError, IndexError, RecursionError):
        raise ValueError("its footer is damaged") from None


def _struct(stream: BytesIO) -> dict[int, Any]:
    found: dict[int, Any] = {}
    number = 0
    while head := stream.read(1)[0]:
        number = number + (head >> 4) if head >> 4 else _integer(stream)
        found[number] = _value(stream, head & 15)
    return found


def _value(stream: BytesIO, kind: int) -> Any:
    match kind:
        case 1 | 2:
            return kind == 1
        case 3:
            return stream.read(1)[0]
        case 4 | 5 | 6:
            return _integer(stream)
        case 7:
            return stream.read(8)
        case 8:
            return stream.read(_varint(stream))
        case 9 | 10:
            head = stream.read(1)[0]
            n = _varint(stream) if head >> 4 == 15 else head >> 4
            of = head & 15
            return [_value(stream, 3 if of in (1, 2) else of) for _ in range(n)]
        case 12:
            return _struct(stream)
        case _:
            raise TypeError(kind)


def _integer(stream: BytesIO) -> int:
    n = _varint(stream)
    return (n >> 1) ^ -(n & 1)


def _varint(stream: BytesIO) -> int:
    number = shift = 0
    while True:
        byte = stream.read(1)[0]
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7
