"""Delimited text files read strictly: a missing column or a torn line is an error, not a null."""

import hashlib
import io
from collections.abc import Sequence

import polars as pl

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
