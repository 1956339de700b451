"""Write a prepared dataset in two passes: check and learn, then encode; in place only when whole.

Memory is bounded by a chunk and by what is learned, whatever the number of rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.dataset import SPLITS, Dataset, open_dataset
from cvrbench.data.encode import (
    GroupCodes,
    Scale,
    ScaleCounter,
    UniqueValues,
    Vocabulary,
    VocabularyCounter,
    encode_bags,
)
from cvrbench.data.raw import (
    Chunk,
    OnRows,
    RawStream,
    RowsProgress,
    apply_policy,
    check_labels,
    silent,
)
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema, Task, chain
from cvrbench.data.writer import StoreWriter, install, staging
from cvrbench.errors import DataError

Array = npt.NDArray[Any]


class _Learned(NamedTuple):
    """What the first pass found: a vocabulary or a scale per field, groups, and rows per split."""

    categorical: dict[str, Vocabulary]
    multivalued: dict[str, Vocabulary]
    numeric: dict[str, Scale]
    groups: GroupCodes
    rows: dict[str, int]
    accounting: dict[str, int]


def prepare(
    raw: RawStream,
    *,
    name: str,
    target: Path,
    config: Mapping[str, Any],
    keep: bool = False,
    on_rows: OnRows = silent,
) -> Dataset:
    """Check, encode and write a dataset into the folder `target`, replacing an older one.

    The folder appears whole or not at all.

    Args:
        raw: The rows.
        name: What the user calls the dataset.
        target: Folder to write.
        config: The dataset's configuration, kept in the manifest.
        keep: Whether to take a dataset that another process wrote while this one waited.
        on_rows: Called with the progress after every chunk.

    Raises:
        DataError: The rows fail a check, or the disk is full or not writable.
    """
    with staging(target) as work:
        if keep and target.is_dir():
            return open_dataset(target)
        learned = _learn(raw, name, on_rows)
        folder = work / "dataset"
        _write(raw, learned, folder, name=name, config=config, on_rows=on_rows)
        install(folder, target, work)
    return open_dataset(target)


def _learn(raw: RawStream, name: str, on_rows: OnRows) -> _Learned:
    inspection = Inspection(raw, name)
    vocabularies = {f.name: VocabularyCounter() for f in raw.fields if f.kind != "numeric"}
    scales = {f.name: ScaleCounter(f.name) for f in raw.fields if f.kind == "numeric"}
    groups, rows, account = GroupCodes(), Counter[str](), Counter[str]()
    for split, frame in raw.chunks(account):
        rows[split] += len(frame)
        inspection.see(split, frame)
        if raw.group is not None:
            groups.add(frame[raw.group])
        if split == "train":
            for field, counter in (vocabularies | scales).items():
                counter.add(frame[field])
        on_rows(RowsProgress("counting values", rows.total(), 0.0))
    inspection.finish()

    def learn(kind: str) -> dict[str, Vocabulary]:
        fields = [field for field in raw.fields if field.kind == kind]
        return {field.name: vocabularies[field.name].learn(field.min_count) for field in fields}

    return _Learned(
        learn("categorical"),
        learn("multivalued"),
        {field: scale.learn() for field, scale in scales.items()},
        groups,
        {split: rows[split] for split in SPLITS},
        dict(account),
    )


def _write(
    raw: RawStream,
    learned: _Learned,
    folder: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    on_rows: OnRows,
) -> None:
    done, total = 0, sum(learned.rows.values())
    with StoreWriter(folder) as writer:
        for field, vocabulary in (learned.categorical | learned.multivalued).items():
            vocabulary.table.write_parquet(folder / "vocabulary" / f"{field}.parquet")
        for split, frame in _again(raw.chunks(Counter()), learned, name):
            for file, array in _arrays(raw, learned, frame).items():
                writer.append(split, file, array)
            for k, (field, vocabulary) in enumerate(learned.multivalued.items()):
                weight = f"{field}__weight"
                weights = frame[weight] if weight in frame.columns else None
                writer.append_bags(split, k, encode_bags(vocabulary, frame[field], weights))
            done += len(frame)
            on_rows(RowsProgress("writing", done, done / total))
        writer.finish(
            _schema(raw, learned, name),
            config=config,
            accounting=learned.accounting,
            sources=raw.sources,
        )


def _again(chunks: Iterator[Chunk], learned: _Learned, name: str) -> Iterator[Chunk]:
    """Return the chunks of the second reading.

    Raises:
        DataError: It has other rows than the first: the raw files changed in between.
    """
    rows = Counter[str]()
    for chunk in chunks:
        rows[chunk.split] += len(chunk.frame)
        yield chunk
    if {split: rows[split] for split in SPLITS} != learned.rows:
        raise DataError(f"{name}: the raw files changed while they were read; prepare them again")


def _arrays(raw: RawStream, learned: _Learned, frame: pl.DataFrame) -> dict[str, Array]:
    """Return the arrays of some rows, without bags: name -> array."""
    n = len(frame)
    ids = [vocabulary.encode(frame[f]) for f, vocabulary in learned.categorical.items()]
    numbers = [scale.encode(frame[f]) for f, scale in learned.numeric.items()]
    arrays: dict[str, Array] = {
        "ids": np.stack(ids, axis=1) if ids else np.empty((n, 0), np.int32),
        "numeric": np.concatenate(numbers, axis=1) if numbers else np.empty((n, 0), np.float32),
        "labels": frame.select(task.label for task in raw.tasks).to_numpy().astype(np.uint8),
    }
    if raw.group is not None:
        arrays["groups"] = learned.groups.encode(frame[raw.group])
    if raw.truth is not None:
        arrays["truth"] = frame.select(raw.truth).to_numpy().astype(np.float64)
    return arrays


def _schema(raw: RawStream, learned: _Learned, name: str) -> Schema:
    numeric: list[Numeric] = []
    for field, scale in learned.numeric.items():
        numeric.append(Numeric(name=field, mean=scale.mean, std=scale.std))
        if scale.has_gaps:
            numeric.append(Numeric(name=f"{field} is missing", mean=0.0, std=1.0))
    return Schema(
        name=name,
        categorical=tuple(Categorical(name=f, size=v.size) for f, v in learned.categorical.items()),
        multivalued=tuple(MultiValued(name=f, size=v.size) for f, v in learned.multivalued.items()),
        numeric=tuple(numeric),
        tasks=raw.tasks,
        group=raw.group,
        rows=learned.rows,
        fingerprint="",
    )


MAX_LEAK_VALUES = 50
"""A field with more values than this can determine a label by chance."""
MIN_LEAK_ROWS = 1000


class Inspection:
    """Checks of all rows before anything is written, chunk after chunk.

    Refused are labels that are features, are constant or contradict their parent, and groups that
    leak.
    """

    def __init__(self, raw: RawStream, name: str) -> None:
        _check_names(raw, name)
        self._raw, self._name = raw, name
        self._rows: Counter[str] = Counter()
        self._labels = [task.label for task in raw.tasks]
        self._counts = {split: np.zeros((len(raw.tasks), 2), np.int64) for split in SPLITS}
        self._groups = {split: UniqueValues() for split in SPLITS}
        self._suspects = [f.name for f in raw.fields if f.kind != "multivalued"]
        self._by_value: dict[str, pl.DataFrame] = {}

    def see(self, split: str, frame: pl.DataFrame) -> None:
        """Check some rows of a split, and count what `finish` needs.

        Raises:
            DataError: A label is neither 0 nor 1, or 1 where its parent's is 0.
        """
        where = f"{self._name}, {split} split"
        self._rows[split] += len(frame)
        check_labels(frame, self._labels, where)
        if not self._raw.unnested:
            try:
                apply_policy(frame, self._raw.tasks, "refuse")
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        self._count_labels(split, frame)
        if split == "train":
            self._watch_values(frame)
        if self._raw.group is not None and self._raw.group_disjoint:
            self._groups[split].add(frame[self._raw.group])

    def finish(self) -> None:
        """Check what only all rows together show.

        Raises:
            DataError: A split is empty, a label constant or given away by a feature, or a group is
                in two splits that promise to share none.
        """
        for split in SPLITS:
            if not self._rows[split]:
                raise DataError(
                    f"{self._name}: the {split} split is empty; change the split's days or "
                    "fractions (`cvrbench config dataset=...` shows them)"
                )
        self._judge_values()
        for split in SPLITS:
            _check_both_classes(
                self._raw.tasks, self._counts[split], f"{self._name}, {split} split"
            )
        self._judge_groups()

    def _count_labels(self, split: str, frame: pl.DataFrame) -> None:
        for index, task in enumerate(self._raw.tasks):
            parents = _parents(self._raw.tasks, index)
            rows = frame.filter(pl.col(label) == 1 for label in parents) if parents else frame
            self._counts[split][index] += (len(rows), int(rows[task.label].sum()))

    def _watch_values(self, frame: pl.DataFrame) -> None:
        """Count rows and labels by value of each field that has few values."""
        sums = (pl.len().alias("rows"), *(pl.col(label).sum() for label in self._labels))
        for field in tuple(self._suspects):
            seen = frame.group_by(pl.col(field).alias("value")).agg(*sums)
            if field in self._by_value:
                seen = pl.concat([self._by_value[field], seen], how="vertical_relaxed")
                seen = seen.group_by("value").agg(pl.all().sum())
            if len(seen) > MAX_LEAK_VALUES:
                self._suspects.remove(field)
                self._by_value.pop(field, None)
            else:
                self._by_value[field] = seen

    def _judge_values(self) -> None:
        n = self._rows["train"]
        if n < MIN_LEAK_ROWS:
            return
        for field, seen in self._by_value.items():
            for label in self._labels:
                pure = bool(((seen[label] == 0) | (seen[label] == seen["rows"])).all())
                if pure and 0 < int(seen[label].sum()) < n:
                    raise DataError(
                        f"{self._name}: each value of field {field!r} goes with one value of the "
                        f"label {label!r} in all {n:,} training rows; it is the label by another "
                        "name, take it out of the features"
                    )

    def _judge_groups(self) -> None:
        group = self._raw.group
        if group is None or not self._raw.group_disjoint:
            return
        parts = {split: groups.all() for split, groups in self._groups.items()}
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            both = parts[one].filter(parts[one].is_in(parts[other].implode(), nulls_equal=True))
            if len(both):
                raise DataError(
                    f"{self._name}: {len(both):,} values of {group!r} are in {one} and in {other}, "
                    f"but this split promises none (one of them: {min(map(str, both))})"
                )


def _check_names(raw: RawStream, name: str) -> None:
    fields = [field.name for field in raw.fields]
    if repeated := sorted({f for f in fields if fields.count(f) > 1}):
        raise DataError(f"{name}: column {repeated[0]!r} is listed twice among the features")
    if truth := sorted(set(raw.truth or ()) & set(fields)):
        raise DataError(f"{name}: the true probability {truth[0]!r} is among the features")
    if leaked := [task.label for task in raw.tasks if task.label in fields]:
        raise DataError(f"{name}: the label {leaked[0]!r} is among the features; take it out")


def _check_both_classes(tasks: Sequence[Task], counts: npt.NDArray[np.int64], where: str) -> None:
    """Check a split's `[tasks, 2]` rows and positives of each task's space."""
    for index, task in enumerate(tasks):
        parents = _parents(tasks, index)
        space = f" where {parents[0]} = 1" if parents else ""
        rows, positives = counts[index].tolist()
        if positives in {0, rows}:
            only = "no row has" if positives == 0 else "every row has"
            raise DataError(
                f"{where}: {only} {task.label} = 1 among {rows:,} rows{space}; a constant "
                "label can be neither learned nor scored: change the split or the task"
            )


def _parents(tasks: Sequence[Task], index: int) -> list[str]:
    """Return the labels of the tasks above a task, from the root down."""
    return [tasks[i].label for i in chain(tasks, index)[:-1]]
