"""The user's own exposures: one CSV or Parquet file, described column by column in a yaml."""

import io
from pathlib import Path

import polars as pl

from cvrbench.config.dataset import TableConfig
from cvrbench.data.archives import MOST_RATIO, locate
from cvrbench.data.dataset import SPLITS, sha256_of
from cvrbench.data.raw import (
    SPLIT,
    Fractions,
    RawStream,
    apply_policy,
    by_group,
    by_row,
    by_time,
    check_labels,
    feature_fields,
    table_chunks,
)
from cvrbench.data.schema import Task
from cvrbench.data.sources.delimited import check_columns
from cvrbench.errors import DataError
from cvrbench.system.machine import available_memory
from cvrbench.system.parquet import parquet_size


def load(config: TableConfig) -> RawStream:
    """Read the file, apply the label policy and split.

    Raises:
        DataError: The file or a column is missing, or a value does not fit its column.
    """
    path = Path(config.path).expanduser()
    frame = _read(path, config)
    labels = [task.label for task in config.tasks]
    check_labels(frame, labels, str(path))
    frame = frame.with_columns(pl.col(labels).cast(pl.String).cast(pl.UInt8))
    tasks = tuple(_task(config, position) for position in range(len(config.tasks)))
    accounting = {"read": len(frame)}
    frame, changed = apply_policy(frame, tasks, config.unclicked_conversions)
    return RawStream(
        chunks=table_chunks(
            frame.with_columns(_split(frame, config, path).alias(SPLIT)), accounting | changed
        ),
        fields=feature_fields(
            config.ids, lists=config.lists, numbers=config.numbers, min_count=config.min_count
        ),
        tasks=tasks,
        group=config.group,
        group_disjoint=config.split == "group",
        unnested=config.unclicked_conversions == "keep",
        sources={path.name: sha256_of(path)},
    )


def _task(config: TableConfig, position: int) -> Task:
    task = config.tasks[position]
    joint = task.joint
    if task.parent is not None and joint is None:
        joint = f"{task.parent}_{task.name}"
    return Task(
        name=task.name,
        label=task.label,
        parent=task.parent,
        joint=joint if task.parent is not None else None,
    )


def _read(path: Path, config: TableConfig) -> pl.DataFrame:
    named = [*config.ids, *config.lists, *config.numbers, *(task.label for task in config.tasks)]
    named += [column for column in (config.group, config.split_column) if column is not None]
    columns = list(dict.fromkeys(named))
    if not path.is_file():
        raise DataError(f"dataset.path names {path}, which is no file; set dataset.path=FILE")
    try:
        if path.suffix == ".parquet":
            _check_size(path)
            check_columns(list(pl.read_parquet_schema(path)), columns, str(path))
            frame = pl.read_parquet(path, columns=columns)
        elif path.name.endswith((".csv", ".csv.gz")):
            frame = _read_csv(path, columns, config)
        else:
            raise DataError(f"{path} is neither .csv, .csv.gz nor .parquet")
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return frame.with_columns(
        pl.col(column).str.split(config.list_separator)
        for column in config.lists
        if frame.schema[column] == pl.String
    )


def _check_size(path: Path) -> None:
    """Refuse a table that unpacks to more than the memory, as a small file can."""
    size, free = parquet_size(path), available_memory().n_bytes
    if size.n_bytes > max(free, MOST_RATIO * path.stat().st_size):
        raise DataError(
            f"{path} unpacks to up to {size.n_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of "
            "memory are free; if you trust it, keep the columns that you name and write it anew"
        )


def _read_csv(path: Path, columns: list[str], config: TableConfig) -> pl.DataFrame:
    (file,) = locate(path, [path.name.removesuffix(".gz")], dataset="table").values()
    content = file.read()
    header = pl.read_csv(io.BytesIO(content), n_rows=0).columns
    check_columns(header, columns, str(path))
    types: dict[str, type[pl.DataType]] = dict.fromkeys(columns, pl.String)
    types |= dict.fromkeys(config.numbers, pl.Float64)
    if config.split == "time" and config.split_column is not None:
        types.pop(config.split_column)  # numbers and dates must sort as such, not as text
    return pl.read_csv(
        io.BytesIO(content),
        columns=columns,
        schema_overrides=types,
        infer_schema_length=None,
        try_parse_dates=True,
    )


def _split(frame: pl.DataFrame, config: TableConfig, path: Path) -> pl.Series:
    fractions = Fractions.of(config)
    match config.split:
        case "time":
            assert config.split_column is not None
            return by_time(frame[config.split_column], fractions)
        case "group":
            assert config.group is not None
            return by_group(frame[config.group], fractions)
        case "random":
            return by_row(len(frame), fractions)
        case "column":
            assert config.split_column is not None
            return _by_column(frame[config.split_column], path)


def _by_column(column: pl.Series, path: Path) -> pl.Series:
    part = column.cast(pl.String)
    unknown = column.filter(part.is_null() | ~part.is_in(SPLITS))
    if len(unknown):
        raise DataError(
            f"{path}: split column {column.name!r} holds {unknown[0]!r}; expected train, valid or "
            "test in every row"
        )
    return part.replace_strict(SPLITS, range(len(SPLITS)), return_dtype=pl.Int8)
