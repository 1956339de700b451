"""Delimited text files read strictly: a missing column or a torn line is an error, not a null."""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from cvrbench.data.archives import RawFile
from cvrbench.errors import DataError


def read_csv(
    content: bytes, file: str, *, needed: Sequence[str], dtypes: dict[str, type[pl.DataType]]
) -> pl.DataFrame:
    """Read comma-separated text with a header line.

    Args:
        content: The file.
        file: Its name, for messages.
        needed: Columns that must be there; only these are kept, in this order.
        dtypes: Types of columns that are no text.

    Raises:
        DataError: A column is missing or a value does not fit its type.
    """
    header = content.split(b"\n", 1)[0].decode("utf-8", "replace").strip().split(",")
    check_columns(header, needed, file)
    types = {name: dtypes.get(name, pl.String) for name in needed}
    try:
        return pl.read_csv(
            io.BytesIO(content), columns=list(needed), schema_overrides=types
        ).select(needed)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None


def read_headerless(
    content: bytes, file: str, *, columns: Sequence[str], comment: str | None = None
) -> pl.DataFrame:
    """Read lines of `", "` separated values without a header, all as text without the blanks.

    Raises:
        DataError: A line has another number of values.
    """
    lines = content.decode("utf-8", "replace").splitlines()
    kept = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not (comment is not None and line.startswith(comment))
    ]
    rows = pl.Series("line", [line for _, line in kept], dtype=pl.String).str.split(",")
    lengths = rows.list.len()
    if not len(rows) or bool((lengths != len(columns)).any()):
        at = int((lengths != len(columns)).arg_max() or 0) if len(rows) else 0
        found = f"line {kept[at][0]:,} has {lengths[at]}" if len(rows) else "the file is empty"
        raise DataError(
            f"{file}: every line must hold {len(columns)} values separated by commas; {found}. Is "
            "the file whole, and the right one?"
        )
    table = rows.list.to_struct(fields=list(columns)).struct.unnest()
    return table.select(pl.all().str.strip_chars())


def check_columns(found: Sequence[str], needed: Sequence[str], file: str) -> None:
    """Raise `DataError` naming the columns that are not there."""
    if missing := [name for name in needed if name not in found]:
        raise DataError(
            f"{file} has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(found[:40])}"
        )


def sha256s(files: dict[str, bytes]) -> dict[str, str]:
    """Hash every file's content, for the manifest."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


BLOCK_BYTES = 8 << 20
Types = Mapping[str, type[pl.DataType]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file's lines hold.

    Attributes:
        types: Columns to read and their types.
        names: All columns in order, of a file without a header; None: the first line names them.
        separator: One character.
        is_quoted: Whether values may be quoted, and hold separators; a torn line is then found only
            by what is missing in it.
        nullable: Columns in which a value may be missing.
    """

    types: Types
    names: tuple[str, ...] | None = None
    separator: str = ","
    is_quoted: bool = False
    nullable: Collection[str] = field(default_factory=frozenset)


def frames(
    raw: RawFile, layout: Layout, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[pl.DataFrame]:
    """Read a file as tables of the wanted columns, rows in order.

    Raises:
        DataError: The file is damaged or empty, lacks a column, or a line is not of the layout.
    """
    names, first_line = layout.names, 1
    for block in raw.blocks(block_bytes):
        text = block.replace(b"\r\n", b"\n")
        n_lines = text.count(b"\n") + (not text.endswith(b"\n"))
        if names is None:
            header, _, text = text.partition(b"\n")
            names = tuple(header.decode("utf-8-sig", "replace").strip().split(layout.separator))
            check_columns(names, list(layout.types), raw.where)
            first_line, n_lines = 2, n_lines - 1
        if text:
            yield _parse(text, raw.where, layout, names, first_line)
        first_line += n_lines
    if names is None or first_line == 1:
        raise DataError(f"{raw.where} is empty")


def sha256(raw: RawFile) -> str:
    """Hash a file's unpacked content."""
    digest = hashlib.sha256()
    for block in raw.blocks(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _parse(
    text: bytes, where: str, layout: Layout, names: tuple[str, ...], first_line: int
) -> pl.DataFrame:
    if not layout.is_quoted:
        _check_counts(text, where, layout, names, first_line)
    try:
        frame = _as_text(text, layout, names).cast(pl.Schema(layout.types))
    except pl.exceptions.PolarsError:
        raise _explain(text, where, layout, names, first_line) from None
    required = [name for name in layout.types if name not in layout.nullable]
    if any(frame[name].null_count() for name in required):
        raise _explain(text, where, layout, names, first_line)
    return frame


def _as_text(text: bytes, layout: Layout, names: tuple[str, ...]) -> pl.DataFrame:
    return pl.read_csv(
        io.BytesIO(text),
        has_header=False,
        new_columns=list(names),
        columns=sorted(names.index(name) for name in layout.types),
        separator=layout.separator,
        quote_char='"' if layout.is_quoted else None,
        infer_schema=False,
    ).select(list(layout.types))


def _check_counts(
    text: bytes, where: str, layout: Layout, names: tuple[str, ...], first_line: int
) -> None:
    """Every line must hold as many values as there are columns; polars would fill torn ones."""
    body = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
    ends = np.flatnonzero(body == ord("\n"))
    separators = np.flatnonzero(body == ord(layout.separator))
    counts = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    if bool((counts != len(names)).any()):
        at = int((counts != len(names)).argmax())
        raise DataError(
            f"{where}, line {first_line + at:,}: {counts[at]} values, expected {len(names)} "
            f"separated by {layout.separator!r}; is the file whole, and the right one?"
        )


def _explain(
    text: bytes, where: str, layout: Layout, names: tuple[str, ...], first_line: int
) -> DataError:
    """Find the first value that is none of its column's type."""
    plain = _as_text(text, layout, names)
    found: list[tuple[int, str]] = []
    for name, kind in layout.types.items():
        values = plain[name]
        wrong = values.is_not_null() & values.cast(kind, strict=False).is_null()
        if name not in layout.nullable:
            wrong |= values.is_null()
        if bool(wrong.any()):
            found.append((int(wrong.arg_max() or 0), name))
    at, name = min(found)
    expected = "a whole number" if layout.types[name].is_integer() else "a number"
    return DataError(
        f"{where}, line {first_line + at:,}: column {name!r} holds {plain[name][at] or ''!r}, "
        f"expected {expected}"
    )
