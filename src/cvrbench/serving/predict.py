"""A run's predictions for the rows of another table, which are encoded as its own rows were.

    table --frames--> text, numbers, lists --vocabularies, scales--> tensors --network--> columns

Memory is bounded by a frame, whatever the number of rows.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import torch
from polars.io.plugins import register_io_source

from cvrbench.config.dataset import (
    AliCCPConfig,
    DatasetConfig,
    TableConfig,
    TableTask,
)
from cvrbench.data.batches import BagTensors, SplitTensors
from cvrbench.data.dataset import vocabulary_file
from cvrbench.data.encode import Scale, VectorScale, Vocabulary, encode_bags
from cvrbench.data.raw import OnRows, RowsProgress, silent
from cvrbench.data.schema import OOV, Schema, gap_name
from cvrbench.data.sources.table_columns import At, Columns, is_typed
from cvrbench.data.sources.table_files import PARQUET, Part, Table, find_parts, where
from cvrbench.errors import DataError, StoreError
from cvrbench.objectives import build_objective
from cvrbench.runs.load import Trained
from cvrbench.system.files import atomic_write
from cvrbench.system.parquet import parquet_size
from cvrbench.training.evaluator import predict

CSV = {".csv": ",", ".tsv": "\t"}
"""Suffix of a text file -> its separator."""


def takes_rows(config: DatasetConfig) -> bool:
    """Whether rows of a dataset are a table: the user's, or as `cvrbench data sample` writes it.

    Those of Ali-CCP are lines of two files, whose values have weights.
    """
    return not isinstance(config, AliCCPConfig)


def as_table(config: DatasetConfig, schema: Schema, path: str = "rows") -> TableConfig:
    """Return how to read a table whose columns are the fields of a dataset.

    Raises:
        DataError: The rows are no table.
    """
    if isinstance(config, TableConfig):
        return replace(
            config, path=path, split="random", split_column=None, time_format=None,
            valid_from=None, test_from=None,
            buckets=config.buckets | {f.name: f.bounds for f in schema.categorical if f.bounds},
        )  # fmt: skip
    if not takes_rows(config):
        raise DataError(
            f"the rows of dataset {schema.name!r} are lines of two files with weighted values, no "
            "table; prepare rows of your own as dataset=table to predict new ones"
        )
    gaps = schema.gaps
    return TableConfig(
        kind="table",
        path=path,
        ids=tuple(field.name for field in schema.categorical),
        numbers=tuple(field.name for field in schema.numeric if field.name not in gaps),
        lists=tuple(field.name for field in schema.multivalued),
        list_separator="|",
        tasks=tuple(TableTask(name=t.name, label=t.label, kind=t.kind) for t in schema.tasks),
        group=None,
        split="random",
        split_column=None,
        valid_fraction=0.1,
        test_fraction=0.1,
        split_seed=0,
        min_count=1,
        unclicked_conversions="keep",
    )


class Encoder:
    """What became of raw columns when a run's data were prepared."""

    def __init__(self, config: TableConfig, schema: Schema, data: Path) -> None:
        """Read the vocabularies in a folder `data`."""
        self._config, self._schema = config, schema
        widths = {vector.name: vector.width for vector in schema.vectors}
        typed = {field.name for field in schema.id_fields if field.typed}
        self._columns = Columns(config, widths, typed)
        tables = {
            name: Vocabulary(pl.read_parquet(vocabulary_file(data, name), glob=False))
            for name in {field.vocabulary for field in schema.id_fields}
        }
        self._vocabularies = {field.name: tables[field.vocabulary] for field in schema.id_fields}
        gaps = schema.gaps
        self._scales = {
            number.name: Scale(number.mean, number.std, gap_name(number.name) in gaps)
            for number in schema.numeric
            if number.name not in gaps
        }
        self._vectors = {
            v.name: VectorScale(Scale(*s, has_gaps=False) for s in zip(v.mean, v.std, strict=True))
            for v in schema.vectors
        }
        self.values, self.unknown = Counter[str](), Counter[str]()
        """Values of each id field so far, and those among them that are unknown."""

    @property
    def needed(self) -> list[str]:
        """The columns that are read."""
        fields = [*self._vocabularies, *self._scales, *self._vectors]
        return list(dict.fromkeys([*fields, *self._config.weights.values()]))

    def encode(self, frame: pl.DataFrame, at: At) -> SplitTensors:
        """Return the rows of a frame as tensors; their labels are 0.

        Raises:
            DataError: A value does not fit its column.
        """
        schema, columns, starts = self._schema, self._columns, self._schema.starts
        self._refuse_types(frame, at)
        rows = np.empty((len(frame), len(schema.categorical)), np.int64)
        for place, field in enumerate(schema.categorical):
            ids = self._vocabularies[field.name].encode(columns.ids(frame[field.name], at))
            self._count(field.name, ids)
            rows[:, place] = ids.astype(np.int64) + starts[field.name]
        bags = []
        for bag in schema.multivalued:
            weight = self._config.weights.get(bag.name)
            weights = None if weight is None else columns.weights(frame[weight], at)
            lists = columns.lists(frame[bag.name], at)
            found = encode_bags(self._vocabularies[bag.name], lists, weights)
            self._count(bag.name, found.ids)
            of_table = torch.from_numpy(found.ids.astype(np.int64) + starts[bag.name])
            offsets, each = torch.from_numpy(found.offsets), torch.tensor(found.weights)
            bags.append(BagTensors(offsets, of_table, each, shared=False))
        numbers = [
            scale.encode(columns.numbers(frame[name], at)) for name, scale in self._scales.items()
        ]
        numbers += [v.encode(columns.vectors(frame[n], at)) for n, v in self._vectors.items()]
        numeric = np.concatenate([np.empty((len(frame), 0), np.float32), *numbers], axis=1)
        labels = torch.zeros(len(frame), len(schema.tasks))
        return SplitTensors(
            torch.from_numpy(rows), torch.from_numpy(numeric), labels, tuple(bags), None
        )

    def _refuse_types(self, frame: pl.DataFrame, at: At) -> None:
        """Refuse numbers and flags where text was learnt that none of them can equal."""
        for field in self._schema.id_fields:
            if field.typed is not False or field.name in self._config.buckets:
                continue
            values, known = frame[field.name], self._vocabularies[field.name].known["value"]
            dtype = getattr(values.dtype, "inner", values.dtype)
            if field.name in self._config.hash:
                fits = not (dtype.is_float() or dtype == pl.Boolean)
            elif dtype == pl.Boolean:
                fits = known.is_in(["true", "false"]).any()
            else:
                fits = not (dtype.is_numeric() and len(known)) or is_typed(known).any()
            if not fits:
                such = "" if field.name in self._config.hash else f", as {known[0]!r}"
                raise at.misfit(values, f"the run learnt text there{such}; write it as text")

    def _count(self, field: str, ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        self.values[field] += len(ids)
        self.unknown[field] += int((ids == OOV).sum())


def predict_file(
    trained: Trained, source: Path, target: Path, *, force: bool = False, on_rows: OnRows = silent
) -> tuple[int, Mapping[str, float]]:
    """Write every row of a table with its columns and the run's predictions, whole or not at all.

    Args:
        trained: The run's network.
        source: A file of rows, or a folder of such files.
        target: A `.parquet`, `.csv` or `.tsv` file.
        force: Whether to replace it.
        on_rows: Told of the progress.

    Returns:
        The number of rows, and the share of each id field's values that the run does not know.

    Raises:
        DataError: A file or a column is missing, or a value does not fit its column.
        StoreError: The target is there already, or cannot be written.
    """
    if target.suffix not in (*PARQUET, *CSV):
        raise StoreError(f"--output {target} is none of {', '.join((*PARQUET, *CSV))}")
    if target.exists() and not force:
        raise StoreError(f"{target} exists; give --force to replace it")
    if not source.exists():
        raise DataError(f"{source} is no file and no folder of rows")
    config = as_table(trained.config.dataset, trained.schema, str(source))
    encoder = Encoder(config, trained.schema, trained.data)
    parts = find_parts(config)
    if target.exists() and any(target.samefile(part.path) for part in parts):
        raise StoreError(f"{target} is read; write to another file")
    table = Table(config, parts, encoder.needed)
    sizes = [parquet_size(part.path).rows for part in parts if part.text is None]
    total = sum(sizes) if len(sizes) == len(parts) else 0
    n_rows = 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal n_rows
        for frame in _predicted(trained, encoder, Table(config, parts, table.columns)):
            n_rows += len(frame)
            yield frame
            on_rows(RowsProgress("predicting", n_rows, n_rows / total if total else 0.0))

    with atomic_write(target, key="--output") as temporary:
        if target.suffix in CSV:
            _write_text(frames(), temporary, target)
        else:
            _write_parquet(frames(), temporary)
    return n_rows, {name: encoder.unknown[name] / n for name, n in encoder.values.items() if n}


class Predictor:
    """A finished run's network, ready for rows of another table."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.record = trained.record
        """What the run recorded."""

    def predict(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with their columns and one more per task and joint probability.

        Args:
            rows: With the columns that the run learnt from; labels are not needed.

        Raises:
            DataError: A column is missing, or a value does not fit its column.
        """
        with tempfile.TemporaryDirectory(prefix="cvrbench-predict-") as folder:
            source, target = Path(folder, "rows.parquet"), Path(folder, "scores.parquet")
            rows.write_parquet(source)
            predict_file(self._trained, source, target)
            return pl.read_parquet(target, glob=False)


def _predicted(trained: Trained, encoder: Encoder, table: Table) -> Iterator[pl.DataFrame]:
    """Yield a table's frames with their predictions.

    Raises:
        DataError: A column has the name of a prediction or another type than before, or there are
            no rows.
    """
    objective = build_objective(trained.config.objective, trained.schema)
    size = trained.config.trainer.eval_batch_size
    types: pl.Schema | None = None
    for part, row, frame in table.frames(table.columns):
        found = predict(
            trained.network, encoder.encode(frame, At(where(part), row)), objective, batch_size=size
        )
        columns = {}
        for number, task in enumerate(trained.schema.tasks):
            columns[f"p_{task.name}"] = found.conditional[:, number]
            if task.joint is not None:
                columns[f"p_{task.joint}"] = found.joint[:, number]
        if both := [name for name in columns if name in frame.columns]:
            raise DataError(
                f"{where(part)} has a column {both[0]!r}, as the predictions have; rename it"
            )
        types = types or frame.schema
        frame = pl.DataFrame([_as_before(frame[name], types[name], part) for name in types])
        yield frame.hstack(pl.DataFrame(columns))
    if types is None:
        raise DataError(f"{where(table.parts[0])} holds no rows")


def _as_before(values: pl.Series, dtype: pl.DataType, part: Part) -> pl.Series:
    """Return a column of the type that it has in the files before, if no value can change."""
    if values.dtype == dtype:
        return values
    found = values
    if dtype.is_integer() and values.dtype.is_integer():
        found = values.cast(dtype, strict=False)
    elif values.dtype == pl.Null or (dtype == pl.Float64 and values.dtype == pl.Float32):
        found = values.cast(dtype)
    if found.dtype != dtype or found.null_count() > values.null_count():
        raise DataError(
            f"column {values.name!r} is {values.dtype} in {where(part)} and {dtype} in files "
            "before it; write it with one type in all files"
        )
    return found


def _write_text(frames: Iterator[pl.DataFrame], file: Path, target: Path) -> None:
    with file.open("wb") as opened:
        for number, frame in enumerate(frames):
            if nested := [name for name, dtype in frame.schema.items() if dtype.is_nested()]:
                raise StoreError(
                    f"column {nested[0]!r} holds lists, which {target.suffix} cannot; write "
                    ".parquet"
                )
            frame.write_csv(opened, include_header=number == 0, separator=CSV[target.suffix])


def _write_parquet(frames: Iterator[pl.DataFrame], file: Path) -> None:
    first = next(frames)
    failed: list[Exception] = []

    def read(*_: object) -> Iterator[pl.DataFrame]:
        try:
            yield from chain([first], frames)
        except Exception as error:  # polars would hide its type
            failed.append(error)
            raise

    try:
        register_io_source(read, schema=first.schema).sink_parquet(file, engine="streaming")
    except Exception:
        if failed:
            raise failed[0] from None
        raise
