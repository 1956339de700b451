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

from cvrbench.data.dataset import KEY_FILE, SPLITS, Dataset, open_dataset, vocabulary_file
from cvrbench.data.encode import (
    Groups,
    Scale,
    ScaleCounter,
    VectorCounter,
    VectorScale,
    Vocabulary,
    VocabularyCounter,
    encode_bags,
)
from cvrbench.data.raw import (
    Chunk,
    OnRows,
    RawStream,
    RowsProgress,
    Thinned,
    apply_policy,
    check_labels,
    silent,
)
from cvrbench.data.schema import (
    Categorical,
    MultiValued,
    Numeric,
    Schema,
    Task,
    Vector,
    chain,
    gap_name,
)
from cvrbench.data.writer import StoreWriter, install, staging
from cvrbench.errors import DataError

Array = npt.NDArray[Any]


class _Learned(NamedTuple):
    """What the first pass found: a vocabulary or a scale per field, groups, and rows per split."""

    categorical: dict[str, Vocabulary]
    multivalued: dict[str, Vocabulary]
    numeric: dict[str, Scale]
    vectors: dict[str, VectorScale]
    groups: Groups
    rows: dict[str, int]
    accounting: dict[str, int]
    remarks: list[str]


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

    With `keep`, a dataset that another process wrote while this one waited is taken.

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
    owner = {
        f.name: f.shares or f.name for f in raw.fields if f.kind in ("categorical", "multivalued")
    }
    vocabularies = {name: VocabularyCounter() for name in owner.values()}
    scales = {f.name: ScaleCounter(f.name) for f in raw.fields if f.kind == "numeric"}
    vectors = {
        f.name: VectorCounter(f.name, standardised=f.standardised)
        for f in raw.fields
        if f.kind == "vector"
    }
    rows, account = Counter[str](), Counter[str]()
    for split, frame in raw.chunks(account):
        rows[split] += len(frame)
        inspection.see(split, frame)
        if split == "train":
            for field, vocabulary in owner.items():
                vocabularies[vocabulary].add(frame[field])
            for field, numbers in (scales | vectors).items():
                numbers.add(frame[field])
        on_rows(RowsProgress("counting values", rows.total(), 0.0))
    remarks = inspection.finish()

    least = {field.name: field.min_count for field in raw.fields}
    known = {name: counter.learn(least[name]) for name, counter in vocabularies.items()}

    def learnt(kind: str) -> dict[str, Vocabulary]:
        return {f.name: known[owner[f.name]] for f in raw.fields if f.kind == kind}

    return _Learned(
        learnt("categorical"),
        learnt("multivalued"),
        {field: scale.learn() for field, scale in scales.items()},
        {field: vector.learn() for field, vector in vectors.items()},
        inspection.groups,
        {split: rows[split] for split in SPLITS},
        dict(account),
        remarks,
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
    weighted = {f.name: f.weights for f in raw.fields if f.weights is not None}
    own = {field.name for field in raw.fields if field.shares is None}
    keys: list[pl.DataFrame] = []
    with StoreWriter(folder) as writer:
        for field, vocabulary in (learned.categorical | learned.multivalued).items():
            if field in own:
                vocabulary.table.write_parquet(vocabulary_file(folder, field))
        for split, frame in _again(raw.chunks(Counter()), learned, name):
            for file, array in _arrays(raw, learned, split, frame).items():
                writer.append(split, file, array)
            for k, (field, vocabulary) in enumerate(learned.multivalued.items()):
                weights = frame[weighted[field]] if field in weighted else None
                writer.append_bags(split, k, encode_bags(vocabulary, frame[field], weights))
            if raw.key is not None and split == "test":
                keys.append(frame[raw.key_column or raw.key].alias(raw.key).to_frame())
            done += len(frame)
            on_rows(RowsProgress("writing", done, done / total))
        if keys:
            pl.concat(keys, how="vertical_relaxed").write_parquet(folder / KEY_FILE)
        writer.finish(
            _schema(raw, learned, name),
            config=config,
            accounting=learned.accounting,
            sources=raw.sources,
            notes={"remarks": learned.remarks, "split": list(raw.split)},
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


def _arrays(raw: RawStream, learned: _Learned, split: str, frame: pl.DataFrame) -> dict[str, Array]:
    """Return the arrays of some rows, without bags: name -> array."""
    n = len(frame)
    ids = [vocabulary.encode(frame[f]) for f, vocabulary in learned.categorical.items()]
    scales = (learned.numeric | learned.vectors).items()
    numbers = [scale.encode(frame[f]) for f, scale in scales]
    label_type = np.float32 if any(task.is_ratio for task in raw.tasks) else np.uint8
    arrays: dict[str, Array] = {
        "ids": np.stack(ids, axis=1) if ids else np.empty((n, 0), np.int32),
        "numeric": np.concatenate(numbers, axis=1) if numbers else np.empty((n, 0), np.float32),
        "labels": frame[[task.label for task in raw.tasks]].to_numpy().astype(label_type),
    }
    if raw.group is not None:
        arrays["groups"] = learned.groups.encode(frame[raw.group_column or raw.group])
    if raw.label_weights is not None and split == "train":
        arrays["weights"] = frame[list(raw.label_weights)].to_numpy().astype(np.float32)
    if raw.truth is not None:
        arrays["truth"] = frame.select(raw.truth).to_numpy().astype(np.float64)
    return arrays


def _schema(raw: RawStream, learned: _Learned, name: str) -> Schema:
    numeric: list[Numeric] = []
    for field, scale in learned.numeric.items():
        numeric.append(Numeric(name=field, mean=scale.mean, std=scale.std))
        if scale.has_gaps:
            numeric.append(Numeric(name=gap_name(field), mean=0.0, std=1.0))
    ids, lists = learned.categorical.items(), learned.multivalued.items()
    of = {field.name: field for field in raw.fields}
    try:
        return Schema(
            name=name,
            categorical=tuple(
                Categorical(
                    name=f, size=v.size, shares=of[f].shares, typed=of[f].typed, bounds=of[f].bounds
                )
                for f, v in ids
            ),
            multivalued=tuple(
                MultiValued(name=f, size=v.size, shares=of[f].shares, typed=of[f].typed)
                for f, v in lists
            ),
            numeric=tuple(numeric),
            vectors=tuple(
                Vector(name=f, mean=tuple(s.mean for s in each), std=tuple(s.std for s in each))
                for f, each in learned.vectors.items()
            ),
            tasks=raw.tasks,
            group=raw.group,
            rows=learned.rows,
            fingerprint="",
        )
    except ValueError as error:
        raise DataError(f"{name}: {error}; rename one of the two") from None


MAX_LEAK_VALUES = 50
"""A field with more values than this can determine a label by chance."""
MIN_LEAK_ROWS, MIN_LEAK_CLASS = 200, 5
"""Least rows, and positives and negatives among them, of which a leak is told."""
REMARKABLE_AUC, N_BINS = 0.98, 64
SAME_ORDER = 0.999
"""Rank correlation above which a number is a ratio by another name."""
SAMPLE_ROWS = 1 << 16
"""Most rows of a task's space that are held to judge single fields."""
VECTOR_ROWS = 1 << 13
"""Most of them that are held with their vectors."""


class Inspection:
    """Checks of all rows before anything is written, chunk after chunk.

    Refused are labels that are features, be it by another name, are constant or contradict their
    parent, and groups that leak. A feature that tells nearly all of a label is remarked upon.
    """

    def __init__(self, raw: RawStream, name: str) -> None:
        _check_names(raw, name)
        self._raw, self._name = raw, name
        self._rows: Counter[str] = Counter()
        self._counts = {split: np.zeros((len(raw.tasks), 2), np.int64) for split in SPLITS}
        self._ends = {split: {t.name: (1.0, 0.0) for t in raw.tasks} for split in SPLITS}
        self.groups = Groups()
        self._row_hashes: dict[str, list[pl.Series]] = {split: [] for split in SPLITS}
        self._key_hashes: list[pl.Series] = []
        spaces = [_parents(raw.tasks, index) for index in range(len(raw.tasks))]
        self._leaks = [
            _LeakGuard(raw, task, parents) for task, parents in zip(raw.tasks, spaces, strict=True)
        ]

    def see(self, split: str, frame: pl.DataFrame) -> None:
        """Check some rows of a split, and count what `finish` needs.

        Raises:
            DataError: A label is neither 0 nor 1 and no ratio, or above 0 where its parent's is 0.
        """
        where = f"{self._name}, {split} split"
        self._rows[split] += len(frame)
        check_labels(frame, self._raw.tasks, where)
        if not self._raw.unnested:
            try:
                apply_policy(frame, self._raw.tasks, "refuse")
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        self._count_labels(split, frame)
        for index, guard in enumerate(self._leaks if split == "train" else ()):
            guard.see(_learnt(self._raw, index, frame, weighed=True))
        if self._raw.files_split:
            self._row_hashes[split].append(frame.hash_rows())
        if self._raw.key is not None:
            self._key_hashes.append(frame[[self._raw.key_column or self._raw.key]].hash_rows())
        if self._raw.group is not None:
            self.groups.add(split, frame[self._raw.group_column or self._raw.group])

    def finish(self) -> list[str]:
        """Check what only all rows together show.

        Returns:
            Remarks for the user: fields that tell more of a label than one would expect.

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
        for guard in self._leaks:
            guard.refuse(self._name)
        for split in SPLITS:
            where = f"{self._name}, {split} split"
            check_both_classes(self._raw.tasks, self._counts[split], where)
            self._check_ratios(self._ends[split], where)
        self._judge_groups()
        remarks = [remark for guard in self._leaks for remark in guard.remarks()]
        if alone := self.groups.n_alone:
            remarks.append(f"{alone:,} rows have no {self._raw.group!r}: each its own group")
        return [*remarks, *self._repeated()]

    def _repeated(self) -> Iterator[str]:
        """Yield remarks about keys and rows that come again."""
        if self._key_hashes:
            keys = pl.concat(self._key_hashes)
            if again := len(keys) - keys.n_unique():
                yield f"{again:,} rows have a {self._raw.key!r} that a row before them has"
        if not self._raw.files_split:
            return
        learnt = pl.concat(self._row_hashes["train"]).implode()
        for split in ("valid", "test"):
            if both := int(pl.concat(self._row_hashes[split]).is_in(learnt).sum()):
                yield f"{both:,} rows of {split} equal a row of train in every column that is read"

    def _count_labels(self, split: str, frame: pl.DataFrame) -> None:
        for index, task in enumerate(self._raw.tasks):
            labels = _learnt(self._raw, index, frame, weighed=split == "train")[task.label]
            self._counts[split][index] += (len(labels), int((labels > 0).sum()))
            if task.is_ratio and len(labels):
                low, high = self._ends[split][task.name]
                low, high = min(low, float(labels.min())), max(high, float(labels.max()))  # type: ignore[arg-type]
                self._ends[split][task.name] = low, high

    def _check_ratios(self, ends: Mapping[str, tuple[float, float]], where: str) -> None:
        for task in self._raw.tasks:
            low, high = ends[task.name]
            if task.is_ratio and low >= high:
                raise DataError(
                    f"{where}: {task.label} is the same number ({high:g}) in all rows in which it "
                    "is defined; a constant can be neither learned nor scored: change the split or "
                    "the task"
                )

    def _judge_groups(self) -> None:
        group = self._raw.group
        if group is None or not self._raw.group_disjoint:
            return
        parts = {split: self.groups.of(split) for split in SPLITS}
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            both = parts[one].filter(parts[one].is_in(parts[other].implode()))
            if len(both):
                raise DataError(
                    f"{self._name}: {len(both):,} values of {group!r} are in {one} and in {other}, "
                    f"but this split promises none (one of them: {both.sort()[0]})"
                )


_Place = tuple[str, int | None]
"""A field, or the number of a vector at this place."""


class _LeakGuard:
    """What each feature alone tells of one label, in the training rows on which it is defined."""

    def __init__(self, raw: RawStream, task: Task, parents: list[str]) -> None:
        self._fields = [field for field in raw.fields if field.kind != "vector"]
        self._vectors = [field.name for field in raw.fields if field.kind == "vector"]
        self._label, self._parents, self._is_ratio = task.label, parents, task.is_ratio
        self._by_value: dict[_Place, pl.DataFrame | None] = {
            (f.name, None): None for f in self._fields
        }
        self._sample, self._vector_sample = Thinned(SAMPLE_ROWS), Thinned(VECTOR_ROWS)

    def see(self, rows: pl.DataFrame) -> None:
        """Count rows and positives by value of each field that has few values; keep a sample.

        The rows are of the label's space.
        """
        if not self._sample.n_rows:
            self._by_value |= {place: None for v in self._vectors for place in _places(rows[v])}
        self._sample.add(rows[[self._label, *(f.name for f in self._fields)]])
        self._vector_sample.add(rows[[self._label, *self._vectors]])
        if self._is_ratio:
            return
        sums = (pl.len().alias("rows"), pl.col("label").cast(pl.Int64).sum().alias("positives"))
        for field, before in tuple(self._by_value.items()):
            name, number = field
            value = rows[name] if number is None else rows[name].list.get(number, null_on_oob=True)
            if value.dtype == pl.List:
                value = value.cast(pl.List(pl.String)).list.join("\x1f", ignore_nulls=True)
            seen = pl.DataFrame({"label": rows[self._label], "value": value})
            seen = seen.group_by("value").agg(*sums)
            if before is not None:
                seen = pl.concat([before, seen], how="vertical_relaxed")
                seen = seen.group_by("value").agg(pl.all().sum())
            self._by_value[field] = seen
            if len(seen) > MAX_LEAK_VALUES:
                del self._by_value[field]

    def refuse(self, name: str) -> None:
        """Raise `DataError` if a field is the label by another name."""
        if self._is_ratio:
            self._refuse_ratio(name)
            return
        for (field, number), seen in self._by_value.items():
            if seen is None:
                continue
            rows, positives = int(seen["rows"].sum()), int(seen["positives"].sum())
            enough = rows >= MIN_LEAK_ROWS and min(positives, rows - positives) >= MIN_LEAK_CLASS
            if enough and ((seen["positives"] == 0) | (seen["positives"] == seen["rows"])).all():
                part = "" if number is None else f"number {number + 1} of "
                raise DataError(
                    f"{name}: each value of {part}field {field!r} goes with one value of the label "
                    f"{self._label!r} in all {rows:,} training rows{self._space()}; it is the "
                    "label by another name, take it out of the features"
                )

    def _refuse_ratio(self, name: str) -> None:
        sample = self._sample.rows()
        own = sample[self._label].rank("average")
        for field in self._fields:
            if field.kind != "numeric" or len(sample) < MIN_LEAK_ROWS:
                continue
            values = sample[field.name].cast(pl.Float64).fill_nan(None)
            ranks = values.fill_null(values.mean() or 0.0).rank("average")
            told = pl.select(pl.corr(ranks, own)).item()
            if told is not None and abs(told) > SAME_ORDER:
                raise DataError(
                    f"{name}: field {field.name!r} has the order of the label {self._label!r} "
                    f"(a rank correlation of {told:.4f}){self._space()}; it is the label by "
                    "another name, take it out of the features"
                )

    def remarks(self) -> list[str]:
        """Return a sentence about each field whose own AUC is hard to believe.

        Of a ratio it is the AUC for lying above the median.
        """
        sample = self._sample.rows()
        labels = self._binary(sample[self._label])
        # Half of the rows say what a value means, the other half are scored.
        learn, score = labels.gather_every(2), labels.gather_every(2, offset=1)
        enough = [half for half in (learn, score) if _has_both(half)]
        if len(sample) < MIN_LEAK_ROWS or len(enough) < 2:
            return []
        said = []
        for field in self._fields:
            values, auc = sample[field.name], 0.5
            if field.kind == "numeric":
                values = values.cast(pl.Float64).fill_nan(None)
                auc = _auc(values.fill_null(values.mean() or 0.0), labels)
                # Where the number is absent, or lies between others, may tell more than its size.
                values = (values.rank("average") * N_BINS / len(values)).floor()
            rate = _rates(learn, values.gather_every(2))
            told = _auc(_score(values.gather_every(2, offset=1), rate), score)
            said += self._remark(field.name, max(auc, 1 - auc, told, 1 - told))
        return said + [remark for name in self._vectors for remark in self._of_vector(name)]

    def _of_vector(self, name: str) -> list[str]:
        """Judge a vector by least squares: learnt on half of the rows, scored on the other."""
        rows = self._vector_sample.rows().drop_nulls(name)
        labels = self._binary(rows[self._label])
        learn, score = labels.gather_every(2), labels.gather_every(2, offset=1)
        if len(rows) < MIN_LEAK_ROWS or not (_has_both(learn) and _has_both(score)):
            return []
        vectors = np.stack(rows[name].to_list())
        vectors = (vectors - vectors.mean(0)) / np.maximum(
            vectors.std(0), np.finfo(np.float32).tiny
        )
        weights, *_ = np.linalg.lstsq(vectors[::2], learn.to_numpy() - learn.mean())
        return self._remark(name, _auc(pl.Series(vectors[1::2] @ weights), score))

    def _binary(self, labels: pl.Series) -> pl.Series:
        above = labels > (labels.median() or 0.0) if self._is_ratio else labels
        return above.cast(pl.Int64)

    def _remark(self, field: str, auc: float) -> list[str]:
        if auc <= REMARKABLE_AUC:
            return []
        return [
            f"field {field!r} alone has an AUC of {auc:.3f} for the label "
            f"{self._label!r}{self._space()}: is it known before the label is?"
        ]

    def _space(self) -> str:
        return f" where {self._parents[-1]} = 1" if self._parents else ""


def _places(vectors: pl.Series) -> Iterator[_Place]:
    """Yield the numbers of a vector column that have few values."""
    first = vectors.head(MIN_LEAK_ROWS)
    for number in range(int(vectors.list.len().max() or 0)):  # type: ignore[arg-type]
        if first.list.get(number, null_on_oob=True).n_unique() <= MAX_LEAK_VALUES:
            yield vectors.name, number


def _has_both(labels: pl.Series) -> bool:
    return MIN_LEAK_CLASS <= int(labels.sum()) <= len(labels) - MIN_LEAK_CLASS


def _auc(score: pl.Series, labels: pl.Series) -> float:
    """AUC by the sum of the positives' ranks (Mann and Whitney 1947)."""
    n, n_positive = len(labels), int(labels.sum())
    ranks = float((score.rank("average") * labels).sum())
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive))


def _where_one(frame: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """Return the rows in which all these labels are 1; a name is never read as a pattern."""
    for label in labels:
        frame = frame.filter(frame[label] == 1)
    return frame


def _learnt(raw: RawStream, task: int, frame: pl.DataFrame, *, weighed: bool) -> pl.DataFrame:
    """Return the rows of a task's space, with `weighed` without those whose label is hidden."""
    rows = _where_one(frame, _parents(raw.tasks, task))
    if raw.label_weights is None or not weighed:
        return rows
    return rows.filter(rows[raw.label_weights[task]] > 0)


def _rates(labels: pl.Series, values: pl.Series) -> pl.DataFrame:
    """Share of positives by value of a column, of a list column by what stands in the lists."""
    rows = pl.DataFrame({"rate": labels, "value": values})
    rows = rows.explode("value") if values.dtype == pl.List else rows
    return rows.group_by("value").agg(pl.col("rate").mean())


def _score(values: pl.Series, rates: pl.DataFrame) -> pl.Series:
    """Mean rate of the values of each row; a value that is not known has the mean of all."""
    rows = pl.DataFrame({"value": values}).with_row_index("row")
    told = rows.explode("value") if values.dtype == pl.List else rows
    found = (
        told.join(rates, on="value", nulls_equal=True).group_by("row").agg(pl.col("rate").mean())
    )
    return rows.join(found, on="row", how="left", maintain_order="left")["rate"].fill_null(
        rates["rate"].mean() if len(rates) else 0.5
    )


def _check_names(raw: RawStream, name: str) -> None:
    fields = [field.name for field in raw.fields]
    if repeated := sorted({f for f in fields if fields.count(f) > 1}):
        raise DataError(f"{name}: column {repeated[0]!r} is listed twice among the features")
    if truth := sorted(set(raw.truth or ()) & set(fields)):
        raise DataError(f"{name}: the true probability {truth[0]!r} is among the features")
    if leaked := [task.label for task in raw.tasks if task.label in fields]:
        raise DataError(f"{name}: the label {leaked[0]!r} is among the features; take it out")


def check_both_classes(tasks: Sequence[Task], counts: npt.NDArray[np.int64], where: str) -> None:
    """Check a split's `[tasks, 2]` rows and positives of each task's space."""
    for index, task in enumerate(tasks):
        if task.is_ratio:
            continue
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
