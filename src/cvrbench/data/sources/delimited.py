"""Delimited text of any size as tables, block by block, read strictly.

A missing column, a torn line, a value of another type or a missing one where none may be missing is
an error with the file, the line and the column; nothing becomes null in silence.
"""

import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from cvrbench.data.archives import RawFile
from cvrbench.errors import DataError

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file's lines hold."""

    types: Mapping[str, type[pl.DataType]]  # of the columns to read
    names: tuple[str, ...] | None = None
    """All columns in order, of a file without a header; None: the first line names them."""
    separator: str = ","
    is_quoted: bool = False
    """Whether values may be quoted, and hold separators; a torn line is then found only by what is
    missing in it."""
    nullable: Collection[str] = field(default_factory=frozenset)  # where a value may be missing

    def parse(self, text: bytes, names: Sequence[str]) -> pl.DataFrame:
        """Return the wanted columns of lines, all as text."""
        return pl.read_csv(
            io.BytesIO(text),
            has_header=False,
            new_columns=list(names),
            columns=sorted(names.index(name) for name in self.types),
            separator=self.separator,
            quote_char='"' if self.is_quoted else None,
            infer_schema=False,
        ).select(list(self.types))


def read(file: RawFile, layout: Layout) -> pl.DataFrame:
    """Read a file as one table; see `frames`."""
    return pl.concat(frames(file, layout))


def counted(
    files: Iterable[RawFile], layout: Layout, account: Counter[str]
) -> Iterator[pl.DataFrame]:
    """Read several files one after the other; see `frames`. Rows are counted as `read`."""
    for file in files:
        for table in frames(file, layout):
            account["read"] += len(table)
            yield table


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
            yield _Block(text, raw.where, layout, names, first_line).table()
        first_line += n_lines
    if names is None or first_line == 1:
        raise DataError(f"{raw.where} is empty")


@dataclass(frozen=True)
class _Block:
    """Some whole lines of a file, without its header."""

    text: bytes
    where: str
    layout: Layout
    names: tuple[str, ...]
    first_line: int

    def table(self) -> pl.DataFrame:
        if not self.layout.is_quoted:
            self._check_counts()
        try:
            plain = self.layout.parse(self.text, self.names)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{self.where} cannot be read: {str(error).splitlines()[0]}") from None
        table = plain.cast(pl.Schema(self.layout.types), strict=False)
        faulty = [
            name
            for name in self.layout.types
            if table[name].null_count()
            > (plain[name].null_count() if name in self.layout.nullable else 0)
        ]
        if faulty:
            raise self._first_fault(plain, table, faulty)
        return table

    def _check_counts(self) -> None:
        """Every line must hold as many values as there are columns; polars would fill torn ones."""
        text, n_names = self.text, len(self.names)
        body = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
        ends = np.flatnonzero(body == ord("\n"))
        separators = np.flatnonzero(body == ord(self.layout.separator))
        counts = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
        if bool((counts != n_names).any()):
            at = int((counts != n_names).argmax())
            raise DataError(
                f"{self.where}, line {self.first_line + at:,}: {counts[at]} values, expected "
                f"{n_names} separated by {self.layout.separator!r}; is the file whole, and the "
                "right one?"
            )

    def _first_fault(
        self, plain: pl.DataFrame, table: pl.DataFrame, faulty: Sequence[str]
    ) -> DataError:
        """Return an error about the first value that does not fit its column."""
        found: list[tuple[int, str]] = []
        for name in faulty:
            wrong = table[name].is_null()
            if name in self.layout.nullable:
                wrong &= plain[name].is_not_null()
            found.append((int(wrong.arg_max() or 0), name))
        at, name = min(found)
        kind = self.layout.types[name]
        expected = "a whole number" if kind.is_integer() else "a number"
        return DataError(
            f"{self.where}, line {self.first_line + at:,}: column {name!r} holds "
            f"{plain[name][at] or ''!r}, expected {'text' if kind == pl.String else expected}"
        )


def read_headerless(
    raw: RawFile, columns: Sequence[str], *, comment: str | None = None
) -> pl.DataFrame:
    """Read lines of `", "` separated values without a header, all as text without the blanks.

    Raises:
        DataError: A line has another number of values.
    """
    lines = raw.read().decode("utf-8", "replace").splitlines()
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
            f"{raw.where}: every line must hold {len(columns)} values separated by commas; {found}."
            " Is the file whole, and the right one?"
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
