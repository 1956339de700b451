"""A first guess at what the columns of somebody's log are, from a sample of its rows.

The guess is a yaml to be read and edited, so each column has a reason. Columns that a model must
not see are left out: keys, times, constants, and what is only filled in where a label is 1.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from cvrbench.data.archives import RawFile
from cvrbench.data.sources.table_files import (
    TABS,
    TEXT,
    Part,
    as_utf8,
    parts_of,
    translated,
    where,
)
from cvrbench.errors import ConfigError, DataError, did_you_mean
from cvrbench.system.parquet import parquet_size

ROWS, PLACES = 20_000, 8
"""Rows of the sample, and at how many places of the file or folder they are taken."""
LINE_BYTES = 400
"""Bytes of a line of text, for how much of a file to read."""
SEPARATORS = (",", "\t", ";", "|")
LIST_SEPARATORS = ("|", ";", ",")
CLICK = {"click", "clicked", "clicks", "clk", "isclick", "ctr"}
CONVERSION = {
    "conversion", "conversions", "converted", "convert", "conv", "cvr", "buy", "bought", "purchase",
    "purchased", "order", "ordered", "pay", "paid", "install", "installed", "sale", "subscribe",
    "subscribed", "signup",
}  # fmt: skip
USER = {"user", "uid", "userid", "member", "memberid", "customer", "customerid", "visitor", "u"}
TIME = {"time", "timestamp", "ts", "date", "datetime", "t", "at", "day", "dt"}
NUMBER = {
    "price", "amount", "count", "cnt", "num", "age", "score", "length", "len", "duration", "size",
    "rate", "ratio", "sum", "total", "n", "cost", "value", "days", "hours", "minutes", "seconds",
}  # fmt: skip
IDENTIFIER = {"id", "ids", "code", "zip", "idx", "type", "cat", "category", "hash", "key"}
UNNAMED = {"", "???"}
FEW, RARE = 50, 0.001
"""Least rows that a guess about some of them needs, and the share of exceptions that it takes."""
PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
WORDS_OF_YAML = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
SAID = {"yes": 1, "no": 0, "y": 1, "n": 0, "t": 1, "f": 0}
"""Labels that only `positive:` takes."""
ABSENT = {"na", "n/a", "nan", "null", "none", "nil", "\\n", "-", "?"}
"""Words that mean no value among numbers, in small letters."""
ISO = re.compile(r"\d{4}-\d\d-\d\d")
Role = Literal["id", "number", "list", "label", "group", "key", "time", "left out"]


class Column(NamedTuple):
    """A column and what it may be."""

    name: str
    role: Role
    why: str


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user says of columns."""

    tasks: Mapping[str, str] = field(default_factory=dict)
    """Task -> label: `{"ctr": "click", "cvr": "buy"}`."""
    only_these: bool = False
    """Whether no other task is to be guessed."""
    user: str | None = None
    time: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The guess about a whole table."""

    path: Path
    rows: int
    """Of the sample."""
    columns: tuple[Column, ...]
    keys: dict[str, Any]
    """Keys of `dataset=table` that differ from its yaml's."""
    remarks: tuple[str, ...]

    def yaml(self, name: str) -> str:
        """Return the yaml of a `conf/dataset/NAME.yaml`."""
        title = f"# From `cvrbench data inspect`. In conf/dataset/{name}.yaml it is dataset={name}."
        lines = [title, *(f"# {remark}" for remark in self.remarks), "defaults: [table, _self_]"]
        for key, value in self.keys.items():
            if key == "tasks":
                lines += ["tasks:", *(f"  - {_yaml(task)}" for task in value)]
            else:
                lines.append(f"{key}: {_yaml(value)}")
        return "\n".join(lines) + "\n"


def inspect(path: Path, wanted: Wanted) -> Inspection:
    """Guess the roles of a table's columns.

    Raises:
        DataError: The file is absent, cannot be read, or has no column that could be a label.
        ConfigError: A column that the user names is not there.
    """
    frame, separator = sample(path)
    if not len(frame):
        raise DataError(f"{path} holds no rows")
    for column in [*wanted.tasks.values(), wanted.user, wanted.time]:
        if column is not None and column not in frame.columns:
            raise ConfigError(
                f"{path} has no column {column!r}.{did_you_mean(column, frame.columns)} Its "
                f"columns are {', '.join(frame.columns)}"
            )
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    return _Guess(path, frame, wanted, separator).whole()


def sample(path: Path) -> tuple[pl.DataFrame, str | None]:
    """Read rows from the beginning and from further places of a file, or of a folder's files.

    Returns:
        The rows, and the separator of text where the file's name does not say it.

    Raises:
        DataError: There is no such file, no table in the folder, or it cannot be read.
    """
    parts = parts_of(path.expanduser())
    chosen = parts[:: -(-len(parts) // PLACES)]
    frames, separator = [], None
    for part in chosen:
        with translated(where(part)):
            if part.text is None:
                frame = _sample_parquet(part, ROWS // len(chosen))
            else:
                frame, separator = _sample_text(part, part.text, ROWS // len(chosen))
        words = [pl.lit(value).alias(key) for key, value in part.partition.items()]
        frames.append(frame.with_columns(words))
    return pl.concat(frames, how="diagonal_relaxed"), separator


def _sample_parquet(part: Part, rows: int) -> pl.DataFrame:
    scan = pl.scan_parquet(part.path, glob=False, hive_partitioning=False)
    total = parquet_size(part.path).rows
    starts = range(0, max(total, 1), max(total // PLACES, rows // PLACES, 1))
    return pl.concat([scan.slice(start, rows // PLACES).collect() for start in starts])


def _sample_text(part: Part, file: RawFile, rows: int) -> tuple[pl.DataFrame, str | None]:
    n_bytes = LINE_BYTES * rows // PLACES
    if part.path.name.lower().endswith(TEXT):
        with part.path.open("rb") as raw:
            step = max(part.path.stat().st_size // PLACES, n_bytes)
            starts = range(0, max(part.path.stat().st_size, 1), step)
            blocks = [(raw.seek(start), raw.read(n_bytes))[1] for start in starts]
        if blocks[0].startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{where(part)} is UTF-16, of which no sample is taken; write it as UTF-8, or "
                "describe it in a yaml of your own with encoding: utf-16"
            )
    else:  # can only be read from its beginning
        blocks = [next(as_utf8(file, "utf-8"), b"")[: PLACES * n_bytes]]
    text = b"\n".join(_lines(blocks, rows // len(blocks) + 1))
    usual = "\t" if any(end in part.path.name.lower() for end in TABS) else ","
    separator = _separator(text, usual)
    read = partial(pl.read_csv, separator=separator or usual, infer_schema_length=None)
    try:
        frame = read(io.BytesIO(text))
    except pl.exceptions.PolarsError:  # a quoted line break, at which a block began
        frame = read(io.BytesIO(b"\n".join(_lines(blocks[:1], rows))))
    return frame.with_columns(_times(frame[name]) for name in frame.columns), separator


def _separator(text: bytes, usual: str) -> str | None:
    """Return what separates the values of a header; None where it is the usual one."""
    header = text.partition(b"\n")[0].decode("utf-8-sig", "replace")
    found = max((usual, *SEPARATORS), key=header.count)
    return None if found == usual else found


def _times(values: pl.Series) -> pl.Series:
    """Return texts in the ISO form as times; what is anything else as it is."""
    known = values.drop_nulls()
    if values.dtype != pl.String or not len(known) or not ISO.match(known[0]):
        return values
    try:
        return values.str.to_datetime()
    except pl.exceptions.PolarsError:
        return values


def _lines(blocks: Sequence[bytes], most: int) -> Iterator[bytes]:
    """Yield whole lines of blocks; the first line of all but the first block is torn."""
    for number, block in enumerate(blocks):
        lines = block.split(b"\n")
        yield from lines[number > 0 : -1 if len(lines) > most else None][:most]


class _Guess:
    """The columns of a sample as they find their roles."""

    def __init__(
        self, path: Path, frame: pl.DataFrame, wanted: Wanted, separator: str | None
    ) -> None:
        self.path, self.wanted, self.separator = path, wanted, separator
        self.null_values: list[str] = []
        self.frame = frame.with_columns(self._numbers(frame[name]) for name in frame.columns)
        frame = self.frame
        self.roles: dict[str, Column] = {}
        self.remarks: list[str] = []
        self.list_separator = LIST_SEPARATORS[0]
        self.key: str | None = None
        binary = ((name, _binary(frame[name])) for name in frame.columns)
        self.binary = {name: values for name, values in binary if values is not None}

    def _numbers(self, values: pl.Series) -> pl.Series:
        """Return text of numbers and words for absent ones as numbers; what is else as it is."""
        if values.dtype != pl.String:
            return values
        is_word = values.str.strip_chars().str.to_lowercase().is_in(ABSENT).fill_null(value=False)
        words, rest = values.filter(is_word).unique().to_list(), values.set(is_word, None)
        numbers = rest.str.strip_chars().cast(pl.Float64, strict=False)
        if not words or not numbers.count() or numbers.count() < rest.count():
            return values
        self.null_values += [word for word in sorted(words) if word not in self.null_values]
        whole = numbers.cast(pl.Int64, strict=False)
        return whole if (whole == numbers).all() else numbers

    def whole(self) -> Inspection:
        tasks = self._tasks()
        self._user_and_time()
        for name in self.frame.columns:
            if name in UNNAMED:
                self._set(name, "left out", "a name that no yaml can hold; rename it")
            if name not in self.roles:
                self._set(name, *(self._leaking(name, tasks) or self._feature(name)))
        return Inspection(
            path=self.path,
            rows=len(self.frame),
            columns=tuple(self.roles[name] for name in self.frame.columns),
            keys=self._keys(tasks),
            remarks=tuple(self.remarks),
        )

    def _set(self, name: str, role: Role, why: str) -> None:
        self.roles[name] = Column(name, role, why)

    def _named(self, role: Role) -> list[str]:
        return [name for name in self.frame.columns if self.roles[name].role == role]

    def _keys(self, tasks: list[dict[str, str]]) -> dict[str, Any]:
        times, groups = self._named("time"), self._named("group")
        keys: dict[str, Any] = {"path": str(self.path), "ids": [*groups, *self._named("id")]}
        keys |= {"numbers": self._named("number"), "lists": self._named("list")}
        keys |= {"separator": self.separator} if self.separator else {}
        if self.list_separator != LIST_SEPARATORS[0]:
            keys["list_separator"] = self.list_separator
        keys |= {"null_values": self.null_values} if self.null_values else {}
        labels = [(t["label"], t.get("parent"), t.get("positive")) for t in tasks]
        if labels != [("click", None, None), ("conversion", "ctr", None)]:
            keys["tasks"] = tasks
        if groups:
            keys["group"] = groups[0]
        if self.key is not None:
            keys["key"] = self.key
        if times:
            keys |= {"split": "time", "split_column": times[0]}
        return {key: value for key, value in keys.items() if value != []}

    def _tasks(self) -> list[dict[str, str]]:
        given = self.wanted.tasks
        labels = dict(given) if self.wanted.only_these else {**self._labels(), **given}
        tasks: list[dict[str, str]] = []
        for name, label in labels.items():
            if label not in self.binary:
                raise DataError(
                    f"{self.path}: {label!r} is no label of 0 and 1: it holds "
                    f"{_some(self.frame[label])}"
                )
            task = {"name": name, "label": label}
            named = "you say so" if name in given else "its name and values"
            above = (t for t in reversed(tasks) if self._breaks(t["label"], label) <= RARE)
            if (parent := next(above, None)) is not None:
                task |= {"parent": parent["name"]}
                task |= {"joint": "ctcvr"} if (parent["name"], name) == ("ctr", "cvr") else {}
                self._set(label, "label", f"{named}; 1 only where {parent['label']} is 1")
                if self._breaks(parent["label"], label) > 0:
                    self.remarks.append(
                        f"some {label} = 1 have {parent['label']} = 0: unclicked_conversions says "
                        "what is done about them"
                    )
            else:
                self._set(label, "label", f"{named}; 1 in {_share(self.binary[label])} of rows")
                if tasks:
                    self.remarks.append(
                        f"{label} is also 1 where {tasks[-1]['label']} is 0, so it is a task of "
                        "its own, not one given a click"
                    )
            spelt = _positive(self.frame[label])
            tasks.append(task | ({"positive": spelt} if spelt is not None else {}))
        return tasks

    def _labels(self) -> dict[str, str]:
        """Guess the labels: by name, else by nesting."""
        given = self.wanted.tasks
        clicks = [name for name in self.binary if _words(name) & CLICK]
        clicks = [given["ctr"]] if "ctr" in given else clicks
        conversions = [name for name in self.binary if _words(name) & CONVERSION]
        conversions = [name for name in conversions if name not in clicks]
        if not clicks and not conversions:
            pairs = [(a, b) for a in self.binary for b in self.binary if self._nested(a, b)]
            if not pairs:
                raise DataError(
                    f"{self.path} has no column that looks like a click of 0 and 1; name it: "
                    f"--click COLUMN. Its columns are {', '.join(self.frame.columns)}"
                )
            clicks, conversions = [pairs[0][0]], [pairs[0][1]]
        click = clicks[0] if clicks else conversions.pop(0)
        return {"ctr": click} | ({"cvr": conversions[0]} if conversions else {})

    def _nested(self, outer: str, inner: str) -> bool:
        n_outer, n_inner = (int(self.binary[name].sum() or 0) for name in (outer, inner))
        return FEW <= n_inner < n_outer and self._breaks(outer, inner) == 0

    def _breaks(self, outer: str, inner: str) -> float:
        """Share of the inner label's ones that are not the outer's."""
        ones = self.binary[inner].fill_null(0) == 1
        outside = ones & (self.binary[outer].fill_null(0) == 0)
        return float(outside.sum()) / max(int(ones.sum()), 1)

    def _user_and_time(self) -> None:
        free = [name for name in self.frame.columns if name not in self.roles]
        users = [name for name in free if _words(name) & USER and self._repeats(name)]
        if user := self.wanted.user or next(iter(users), None):
            said = "you say so" if self.wanted.user else "its name; values come again"
            self._set(user, "group", f"{said}; also an id, and GAUC goes by it")
        times = [name for name in free if name != user and self._is_time(name)]
        if time := self.wanted.time or next(iter(times), None):
            kind = "a time" if self.frame[time].dtype.is_temporal() else "numbers, by its name"
            said = "you say so" if self.wanted.time else kind
            self._set(time, "time", f"{said}; rows are split by it")
        for name in times:
            if name not in self.roles:
                self._set(name, "left out", "a second time")

    def _repeats(self, name: str) -> bool:
        return self.frame[name].n_unique() < 0.9 * self.frame[name].count()

    def _is_time(self, name: str) -> bool:
        values = self.frame[name]
        if values.dtype.is_temporal():
            return values.dtype != pl.Duration and values.dtype != pl.Time and not _gaps(values)
        few = name not in self.binary and values.n_unique() > FEW
        return bool(_words(name) & TIME) and values.dtype.is_numeric() and few and not _gaps(values)

    def _leaking(self, name: str, tasks: list[dict[str, str]]) -> tuple[Role, str] | None:
        """Recognise a column that is only filled in where a label is 1."""
        values = self.frame[name]
        if values.dtype in (pl.Binary, pl.Object, pl.Struct):
            return None
        for label in (task["label"] for task in tasks):
            ones = self.binary[label].fill_null(0) == 1
            inside, outside = values.filter(ones), values.filter(~ones).drop_nulls()
            if min(len(inside), len(values) - len(inside)) < FEW:
                continue
            usual = outside.mode().first() if len(outside) and not _is_list(values) else None
            filled = int(outside.ne_missing(usual).sum()) if usual is not None else len(outside)
            differing = inside.drop_nulls()
            differing = differing if usual is None else differing.filter(differing != usual)
            if filled <= RARE * (len(values) - len(inside)) and 2 * len(differing) > len(inside):
                return "left out", f"only filled in where {label} is 1: known too late"
            if name in self.binary and self._nested(label, name):
                return "left out", f"1 only where {label} is 1: an outcome, or a task of its own"
        return None

    def _feature(self, name: str) -> tuple[Role, str]:
        values = self.frame[name].drop_nulls()
        n, unique = len(values), 0 if _is_list(self.frame[name]) else values.n_unique()
        if not n:
            return "left out", "no value in the sample"
        if _is_list(values):
            inner = values.dtype.inner  # type: ignore[attr-defined]
            whole = not inner.is_float() and not inner.is_nested()
            vector = "; vectors of one length belong in vectors" if inner.is_float() else ""
            return ("list", "lists of values") if whole else ("left out", f"{values.dtype}{vector}")
        if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
            return "left out", f"{values.dtype}"
        if unique == 1:
            return "left out", f"{_some(values)} in every row"
        if values.dtype.is_temporal():
            return "left out", "a time, with gaps" if _gaps(self.frame[name]) else "a time"
        if values.dtype == pl.String and _words(name) & TIME:
            return "left out", "a time in text, by its name; --time takes it, time_format reads it"
        if values.dtype == pl.String and (found := self._list(values)):
            return found
        if unique == n > FEW and not values.dtype.is_float():
            if self.key is None and n == len(self.frame) and values.dtype != pl.Boolean:
                self.key = name
                return "key", "every row has a value of its own; kept beside predictions"
            return "left out", "every row has a value of its own: a key, or a text"
        return self._number_or_id(name, values, unique)

    def _number_or_id(self, name: str, values: pl.Series, unique: int) -> tuple[Role, str]:
        words = _words(name)
        values = values.cast(pl.Float64) if values.dtype.is_decimal() else values
        if not values.dtype.is_numeric():
            long = values.dtype == pl.String and 2 * (values.str.len_chars() > 100).sum() > len(
                values
            )
            return ("left out", "long texts") if long else ("id", f"{unique:,} different values")
        whole = not values.dtype.is_float() or bool((values == values.round()).all())
        if not whole or (words & NUMBER and not words & IDENTIFIER and unique > 2):
            return "number", "numbers with decimals" if not whole else "whole numbers, by its name"
        if words & IDENTIFIER or 2 * unique <= len(values) or words & USER:
            return "id", f"whole numbers, {unique:,} different ones that come again"
        return "number", f"whole numbers, {unique:,} different ones"

    def _list(self, values: pl.Series) -> tuple[Role, str] | None:
        """Recognise texts that are lists: of fewer parts than there are texts."""
        for separator in LIST_SEPARATORS:
            parts = values.str.split(separator)
            lengths = parts.list.len()
            several = (lengths > 1).sum() > 0.3 * len(values)
            if several and parts.explode().n_unique() < 0.5 * values.n_unique():
                used = {
                    column.why[-2:-1] for column in self.roles.values() if column.role == "list"
                }
                if used - {separator, "e"}:
                    return "left out", f"a list separated by {separator!r}; one separator a table"
                self.list_separator = separator
                return "list", f"texts of parts separated by {separator!r}"
        return None


def _binary(values: pl.Series) -> pl.Series | None:
    """Return 0 and 1 of a column that holds nothing else; None of any other."""
    if values.dtype == pl.Boolean:
        return values.cast(pl.Int8)
    if values.dtype.is_numeric():
        found = values.drop_nulls()
        is_label = bool(((found == 0) | (found == 1)).all()) and found.n_unique() > 0
        return values.cast(pl.Int8) if is_label else None
    if values.dtype == pl.String:
        words = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1} | SAID
        text = values.str.strip_chars().str.to_lowercase()
        number = text.replace_strict(words, default=None, return_dtype=pl.Int8)
        same = number.null_count() == values.null_count() and len(values) > number.null_count()
        return number if same else None
    return None


def _positive(values: pl.Series) -> str | None:
    """Return how a label of words, such as Yes and No, spells that it is 1."""
    if values.dtype != pl.String:
        return None
    text = values.str.strip_chars()
    spelt = text.filter(text.str.to_lowercase().is_in([w for w, one in SAID.items() if one]))
    return str(spelt[0]) if spelt.n_unique() == 1 else None


def _words(name: str) -> set[str]:
    """Return the words of a column's name, and all of it without what stands between them."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return {part.lower() for part in parts} | {re.sub(r"[\W_]", "", name).lower()}


def _gaps(values: pl.Series) -> bool:
    return values.null_count() > 0


def _is_list(values: pl.Series) -> bool:
    return isinstance(values.dtype, pl.List | pl.Array)


def _share(label: pl.Series) -> str:
    return f"{float(label.mean() or 0):.1%}"  # type: ignore[arg-type]


def _some(values: pl.Series) -> str:
    known = values.drop_nulls()
    return repr(known[0]) if len(known) else "nothing"


def _yaml(value: Any) -> str:
    """Return a value as yaml on one line; a text that yaml would take for another is quoted."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS_OF_YAML:
        return text
    return json.dumps(text.replace("${", r"\${"), ensure_ascii=False)
