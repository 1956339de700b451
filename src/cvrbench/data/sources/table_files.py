"""Files of a user's table, read as streams of frames: Parquet, or delimited text.

A path is a path and never a pattern. Text is cut into blocks of whole records, and every record
must hold as many values as the header: a torn line is an error, not a row of nulls.
"""

import codecs
import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
from polars import selectors

from cvrbench.config.dataset import Paths, SplitPaths, TableConfig
from cvrbench.data.archives import MOST_RATIO, RawFile, files_in, refuse_bomb
from cvrbench.data.sources.delimited import check_columns
from cvrbench.errors import DataError
from cvrbench.system.machine import available_memory
from cvrbench.system.parquet import parquet_size

PARQUET, TEXT = (".parquet", ".pq", ".parq"), (".csv", ".tsv", ".tab", ".txt")
PACKED = (".gz", ".zst")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
TABS = (".tsv", ".tab")
SLICE_ROWS, BLOCK_BYTES = 1 << 18, 16 << 20
GZIP = b"\x1f\x8b"
OTHERS = {
    b"PK\x03\x04": ("a zip archive", ".zip"),
    b"PAR1": ("Parquet", ".parquet"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", ".csv.zst"),
}
"""How files begin that are no text, what they are, and how their names should end."""
NEWLINE, QUOTE, UNUSED = b"\n", b'"', "\x1f"
MAX_RECORD = 1 << 28
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a table, and what its folders say of its rows."""

    name: str
    """The file's place below the path that the user gave."""
    path: Path
    split: int | None
    """Number of the split that its rows belong to; None: to be decided row by row."""
    partition: dict[str, str | None] = field(default_factory=dict)
    """Columns that stand in the folders' names: `day=2021-09-30`."""
    text: RawFile | None = None
    """Delimited text; None for Parquet."""


def find_parts(config: TableConfig) -> list[Part]:
    """Return the files of a table in their order: as listed, those of a folder by their names.

    Raises:
        DataError: There is none, or one of another kind.
    """
    named: dict[int | None, Paths] = {}
    if isinstance(config.path, SplitPaths):
        train, valid, test = config.path.train, config.path.valid, config.path.test
        named = {None: train} if valid is None else {0: train, 1: valid}
        named[2] = test
    else:
        named[None] = config.path
    parts = [
        part
        for split, paths in named.items()
        for path in ((paths,) if isinstance(paths, str) else paths)
        for part in parts_of(Path(path).expanduser(), split)
    ]
    seen: dict[tuple[int, int, str], str] = {}
    for part in parts:  # a link to a file is that file
        status, inside = part.path.stat(), where(part).removeprefix(str(part.path))
        if other := seen.get(place := (status.st_dev, status.st_ino, inside)):
            as_other = "" if other == where(part) else f" (the second time as {where(part)})"
            raise DataError(
                f"dataset.path names {other} twice{as_other}; its rows would count twice"
            )
        seen[place] = where(part)
    if len({part.text is None for part in parts}) > 1:
        raise DataError(
            f"dataset.path names Parquet and text, {parts[0].name} and {parts[-1].name}; "
            "bring all rows in one kind of file"
        )
    return parts


def parts_of(path: Path, split: int | None = None) -> list[Part]:
    """Return a file, the texts of an archive, or the files of a folder by their names.

    Raises:
        DataError: There is none, or one of another kind.
    """
    if path.is_dir():
        walk = os.walk(path, followlinks=True)
        every = sorted(Path(place, name) for place, _, names in walk for name in names)
        files = [
            file
            for file in every
            if file.is_file() and not any(map(_is_hidden, file.relative_to(path).parts))
        ]
        if not files:
            raise DataError(f"dataset.path names the folder {path}, which holds no file")
        return [
            replace(part, name=file.relative_to(path).as_posix(), partition=_partition(path, file))
            for file in files
            for part in _in_file(file, split)
        ]
    if not path.is_file():
        raise DataError(
            f"dataset.path names {path}, which is no file and no folder; set dataset.path=FILE "
            "(a name is taken as it is: for several files give their folder, or [a.csv, b.csv])"
        )
    return _in_file(path, split)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _partition(folder: Path, file: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for part in file.relative_to(folder).parts[:-1]:
        name, is_partition, value = part.partition("=")
        if is_partition and unquote(name) in found:
            raise DataError(
                f"{file} is in two folders that say what {unquote(name)!r} is; rename one"
            )
        if is_partition:
            found[unquote(name)] = None if value == HIVE_NULL else unquote(value)
    return found


def _in_file(path: Path, split: int | None) -> list[Part]:
    part = Part(name=path.name, path=path, split=split)
    name = path.name.lower()
    if name.endswith(PARQUET):
        return [part]
    if not name.endswith((*ARCHIVES, *_text_names())):
        raise DataError(
            f"{path} is none of {', '.join((*PARQUET, *TEXT))}, {' or '.join(PACKED)} of these, "
            "or .zip"
        )
    found = [
        replace(part, text=file)
        for file in files_in(path)
        if not file.name.startswith((".", "_")) and "__MACOSX" not in file.where
    ]
    strays = [p.text.where for p in found if p.text and not p.text.name.lower().endswith(TEXT)]
    strays = [] if not name.endswith(ARCHIVES) else strays
    if strays or not found:
        raise DataError(
            f"{strays[0] if strays else path} is no delimited text ({', '.join(TEXT)}); unpack "
            "the archive and name the folder"
        )
    return found


def _text_names() -> tuple[str, ...]:
    return (*TEXT, *(f"{end}{packed}" for end in TEXT for packed in PACKED))


class Table:
    """The rows of a user's files, and what type each column that is asked for has in them."""

    def __init__(self, config: TableConfig, parts: Sequence[Part], columns: Sequence[str]) -> None:
        """Read every file's header.

        Raises:
            DataError: A file lacks a column or cannot be read, or a column has two types.
        """
        self._config, self.parts = config, parts
        self._headers: list[list[str]] = []
        known: dict[str, tuple[str, str, pl.DataType]] = {}
        for part in parts:
            schema = self._schema(part)
            check_columns([*schema, *part.partition], columns, where(part))
            self._headers.append(list(schema))
            if both := [name for name in part.partition if name in schema]:
                raise DataError(f"{where(part)} has a column {both[0]!r}, as its folder's name has")
            for name in columns:
                dtype = schema.get(name, pl.String())
                if dtype == pl.Null:
                    continue
                family, first, before = known.setdefault(name, (_family(dtype), where(part), dtype))
                if family != _family(dtype):
                    raise DataError(
                        f"column {name!r} is {before} in {first} and {dtype} in {where(part)}; "
                        "write it with one type in all files"
                    )
        families = {
            name: family.removeprefix("list of ").split("(")[0]
            for name, (family, *_) in known.items()
        }
        self.typed = {
            name: family != "text"
            for name, family in families.items()
            if family in {"text", "number", "Boolean", "Decimal"}
        }
        """Whether a column, or what its lists hold, is numbers or flags by type; False: text."""

    @property
    def columns(self) -> list[str]:
        """Every column of the first file, and those that stand in its folders' names."""
        return [*self._headers[0], *self.parts[0].partition]

    def frames(self, columns: Sequence[str]) -> Iterator[tuple[Part, int, pl.DataFrame]]:
        """Yield the rows in order: their file, the number of the first in it (from 1), and values.

        Raises:
            DataError: A file is damaged, or a line holds more or fewer values than the header.
        """
        for part, header in zip(self.parts, self._headers, strict=True):
            inside = [name for name in dict.fromkeys(columns) if name not in part.partition]
            row, given = 1, [name for name in dict.fromkeys(columns) if name in part.partition]
            for frame in self._read(part, header, inside):
                words = [pl.repeat(part.partition[n], len(frame), dtype=pl.String, eager=True)
                         for n in given]  # fmt: skip
                named = [word.alias(name) for word, name in zip(words, given, strict=True)]
                yield part, row, pl.DataFrame([*frame.get_columns(), *named])
                row += len(frame)

    def _schema(self, part: Part) -> dict[str, pl.DataType]:
        if part.text is None:
            with translated(where(part)):
                _check_size(part.path)
                found = pl.scan_parquet(part.path, glob=False, hive_partitioning=False)
                return dict(found.collect_schema())
        for header, _, _ in self._blocks(part.text):
            return dict.fromkeys(header, pl.String())
        raise DataError(f"{where(part)} is empty")

    def _read(self, part: Part, header: list[str], columns: list[str]) -> Iterator[pl.DataFrame]:
        if part.text is not None:
            yield from self._read_text(part.text, header, columns)
            return
        with translated(where(part)):
            rows = parquet_size(part.path).rows
        # A column is needed to count rows where only folders' names are asked for.
        chosen = selectors.by_name(*(columns or header[:1]))
        for start in range(0, rows, SLICE_ROWS):
            with translated(where(part)):
                scan = pl.scan_parquet(part.path, glob=False, hive_partitioning=False)
                frame = scan.select(chosen).slice(start, SLICE_ROWS).collect()
            yield frame

    def _read_text(
        self, text: RawFile, header: list[str], columns: list[str]
    ) -> Iterator[pl.DataFrame]:
        places = sorted(header.index(name) for name in columns or header[:1])
        for _, line, block in self._blocks(text):
            if not block:
                continue
            n = self._count_records(block, len(header), text, line)
            with translated(text.where):
                frame = pl.read_csv(
                    io.BytesIO(block),
                    has_header=False,
                    columns=places,
                    separator=self._separator(text),
                    infer_schema=False,
                )
            if len(frame) != n:
                raise DataError(
                    f"{text.where}: of {n:,} records from line {line:,} on, {len(frame):,} can be "
                    'read; are quotes closed, and those within values doubled ("")?'
                )
            frame.columns = [header[place] for place in places]
            yield frame

    def _blocks(self, text: RawFile) -> Iterator[tuple[list[str], int, bytes]]:
        """Yield the header, the line that comes next, and whole records, their end included."""
        header, first, line = None, b"", 1
        for block in _whole_records(as_utf8(text, self._config.encoding), text.where):
            if header is None:
                n_blank = len(block) - len(block.lstrip(b"\r\n"))
                line += block[:n_blank].count(NEWLINE)
                end = block.index(NEWLINE, n_blank) + 1
                while block.count(QUOTE, n_blank, end) % 2:
                    end = block.index(NEWLINE, end) + 1
                header = self._header(block[n_blank:end], text)
                line += block.count(NEWLINE, n_blank, end)
                first, block = block[n_blank:end], block[end:]
                if not block:
                    yield header, line, block
                    continue
            if (at := (NEWLINE + block).find(NEWLINE + first)) >= 0:
                raise DataError(
                    f"{text.where}, line {line + block.count(NEWLINE, 0, at):,}: the first line "
                    "comes again; were several files joined? give them as a folder"
                )
            yield header, line, block
            line += block.count(NEWLINE)

    def _header(self, record: bytes, text: RawFile) -> list[str]:
        with translated(text.where):
            lines = io.StringIO(record.decode())
            names = next(csv.reader(lines, delimiter=self._separator(text)))
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise DataError(
                f"{text.where}: two columns are called {twice[0]!r}; rename one in the first line"
            )
        return names

    def _count_records(self, block: bytes, n_values: int, text: RawFile, line: int) -> int:
        """Return the number of records, each of which must hold so many values.

        Raises:
            DataError: One holds more or fewer.
        """
        body = np.frombuffer(block, np.uint8)
        is_outside = np.ones(len(body), np.bool_)
        if QUOTE in block:
            is_outside = ~np.logical_xor.accumulate(body == ord(QUOTE))
        ends = np.flatnonzero((body == ord(NEWLINE)) & is_outside)
        between = np.flatnonzero((body == ord(self._separator(text))) & is_outside)
        counts = np.diff(np.searchsorted(between, ends), prepend=0) + 1
        wrong = np.flatnonzero(counts != n_values)
        if not len(wrong):
            return len(ends)
        if QUOTE in block:  # a quote within a value that is not quoted: 5" screen
            try:
                lines = io.StringIO(block.decode(), newline="")
                separator = self._separator(text)
                lengths = [len(r) for r in csv.reader(lines, delimiter=separator, strict=True)]
            except (csv.Error, UnicodeDecodeError):
                lengths = []
            if lengths and set(lengths) == {n_values}:
                return len(lengths)
        at = int(wrong[0])
        line += block.count(NEWLINE, 0, int(ends[at - 1]) + 1) if at else 0
        raise DataError(
            f"{text.where}, line {line:,}: {counts[at]:,} values separated by "
            f"{self._separator(text)!r}, but the header has {n_values:,}; is the file whole?"
        )

    def _separator(self, text: RawFile) -> str:
        name = text.name.lower().removesuffix(".zst")
        return self._config.separator or ("\t" if name.endswith(TABS) else ",")


def where(part: Part) -> str:
    """Return the file of a part as messages name it."""
    return part.text.where if part.text is not None else str(part.path)


@contextmanager
def translated(file: str) -> Iterator[None]:
    """Turn what libraries say of a file that cannot be read into a `DataError` that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError, csv.Error) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        encoded = "utf-8" in words or isinstance(error, UnicodeError)
        hint = "; say how its text is encoded, such as dataset.encoding=latin-1" if encoded else ""
        if "malformed" in words:
            hint = '; a quote within a value must be doubled ("") and the value stand in quotes'
        raise DataError(f"{file} cannot be read: {words}{hint}") from None


def as_utf8(text: RawFile, encoding: str) -> Iterator[bytes]:
    """Yield a text file in pieces, in UTF-8 without a mark at its begin."""
    if text.name.lower().endswith(".zst"):
        pieces = _unpack_zst(text)
    else:
        first = next(text.pieces(4), b"")
        if first in OTHERS:
            what, suffix = OTHERS[first]
            raise DataError(f"{text.where} is {what}, not text; rename it to end in {suffix}")
        is_gzipped = text.is_gzipped or first.startswith(GZIP)
        pieces = replace(text, is_gzipped=is_gzipped).pieces(BLOCK_BYTES)
    if codecs.lookup(encoding).name not in {"utf-8", "utf-8-sig"}:
        with translated(text.where):
            yield from (piece.encode() for piece in codecs.iterdecode(pieces, encoding))
        return
    for number, piece in enumerate(pieces):
        if number == 0 and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{text.where} is UTF-16; set dataset.encoding=utf-16")
        yield piece.removeprefix(codecs.BOM_UTF8) if number == 0 else piece


def _unpack_zst(text: RawFile) -> Iterator[bytes]:
    """Yield a file that polars unpacks in memory, since Python has no such stream before 3.14."""
    packed = text.read()
    refuse_bomb(text.where, _zst_size(packed), len(packed))
    with translated(text.where):
        lines = pl.read_csv(
            io.BytesIO(packed),
            has_header=False,
            separator=UNUSED,
            quote_char=None,
            infer_schema=False,
        ).to_series()
    yield "\n".join(lines.fill_null("")).encode()


def _zst_size(data: bytes) -> int:
    """Return at most how many bytes zstd frames unpack to; a block holds 128 KiB (RFC 8878)."""
    place, total = 0, 0

    def number(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], "little")

    while place + 8 <= len(data):
        if number(place, 4) & ~0xF == 0x184D2A50:  # a frame that is skipped
            place += 8 + number(place + 4, 4)
            continue
        flags, is_last = data[place + 4], 0
        is_single = flags >> 5 & 1
        place += 5 + (not is_single) + (0, 1, 2, 4)[flags & 3] + (is_single, 2, 4, 8)[flags >> 6]
        while not is_last and place < len(data):
            header = number(place, 3)
            is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
            total += size if kind < 2 else 1 << 17  # as it is, or one byte repeated
            place += 3 + (1 if kind == 1 else size)
        place += 4 * (flags >> 2 & 1)
    return total


def _whole_records(pieces: Iterator[bytes], file: str) -> Iterator[bytes]:
    """Yield blocks of whole records; blank lines at the end of the file are left out."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        end = _record_end(data)
        body = data[:end].rstrip(b"\r\n")
        if body:
            yield body + b"\n"
            end = len(body) + (2 if data.startswith(b"\r\n", len(body)) else 1)
        rest = data[end:] if body else data
        if len(rest) > MAX_RECORD:
            raise DataError(f"{file}: a record of {len(rest):,} bytes or more; is a quote open?")
    if body := rest.rstrip(b"\r\n"):
        yield body + b"\n"


def _record_end(data: bytes) -> int:
    """Return where the last whole record ends: behind the last line end outside of quotes."""
    n_quotes, end = data.count(QUOTE), data.rfind(NEWLINE)
    while end >= 0 and (n_quotes - data.count(QUOTE, end)) % 2:
        end = data.rfind(NEWLINE, 0, end)
    return end + 1


def _check_size(path: Path) -> None:
    """Refuse a table that unpacks to more than the memory, as a small file can."""
    size, free = parquet_size(path), available_memory().n_bytes
    if size.n_bytes > max(free, MOST_RATIO * path.stat().st_size):
        raise DataError(
            f"{path} unpacks to up to {size.n_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of "
            "memory are free; if you trust it, keep the columns that you name and write it anew"
        )


def _family(dtype: pl.DataType) -> str:
    """Return what types of one column in several files must have in common."""
    if dtype.is_integer() or dtype.is_float():
        return "number"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if isinstance(dtype, pl.Datetime):
        return f"time {dtype.time_zone}"
    if isinstance(dtype, pl.List | pl.Array):
        return f"list of {_family(dtype.inner)}"  # type: ignore[arg-type]
    return str(dtype)
