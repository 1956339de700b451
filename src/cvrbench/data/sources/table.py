"""The user's own exposures: Parquet or delimited text, described column by column in a yaml.

The files are read three times, as streams: once to decide which rows are kept and where they are
cut, which needs the label, time and group columns alone, and twice by `prepare`. What is held are
a few bytes a row: its split, and with `split=time` its time.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import SplitPaths, TableConfig
from cvrbench.data.dataset import SPLITS, sha256_of
from cvrbench.data.raw import (
    MAX_SAMPLE,
    Chunk,
    FieldKind,
    Fractions,
    RawField,
    RawStream,
    Thinned,
    by_group,
    cut,
    judge_nesting,
    random_parts,
    time_quantiles,
    unclicked,
)
from cvrbench.data.schema import Task
from cvrbench.data.sources.table_columns import At, Columns, intervals
from cvrbench.data.sources.table_files import Part, Table, find_parts, translated, where
from cvrbench.data.times import TimeColumn
from cvrbench.errors import DataError

Codes = npt.NDArray[np.int8]
GROUP, KEY, WEIGHT = "group of a row", "key of a row", "weight of"
OPEN, DROPPED = -1, -2
"""Codes of rows whose split is to be decided, and of those that are left out."""


def load(config: TableConfig) -> RawStream:
    """Decide about every row: kept or dropped, and in which split.

    Raises:
        DataError: A file or a column is missing, or a value does not fit its column.
    """
    source = _Source(config)
    survey, sources = source.survey(), checksums(source.table.parts)
    bounds = source.find_bounds(survey)
    names, weighed = source.names, config.weight or config.missing_labels == "hide"
    kinds: dict[FieldKind, Sequence[str]] = {
        "categorical": config.ids,
        "multivalued": config.lists,
        "numeric": config.numbers,
        "vector": config.vectors,
    }
    return RawStream(
        chunks=lambda account: source.chunks(survey, account),
        fields=tuple(
            RawField(
                name=name,
                kind=kind,
                min_count=config.min_count,
                weights=names.get(name),
                shares=config.shared.get(name),
                bounds=bounds.get(name),
                typed=source.table.typed.get(name),
                standardised=config.vector_scale == "standardised",
            )
            for kind, columns in kinds.items()
            for name in columns
        ),
        tasks=source.tasks,
        group=config.group,
        key=config.key,
        group_column=names[GROUP],
        key_column=names[KEY],
        files_split=isinstance(config.path, SplitPaths),
        group_disjoint=config.split == "group" and not isinstance(config.path, SplitPaths),
        label_weights=tuple(names[WEIGHT, t.name] for t in config.tasks) if weighed else None,
        unnested=config.unclicked_conversions == "keep",
        sources=sources,
        split=[
            *survey.words,
            *_copies(source, sources),
            *_named_as_splits(source),
            *(f"buckets of {name}: {', '.join(intervals(own))}" for name, own in bounds.items()),
        ],
    )


def checksums(parts: Sequence[Part]) -> dict[str, str]:
    """Return the sha256 of every file of a table, by its place below the user's path."""
    split = {None: "", 0: "train/", 1: "valid/", 2: "test/"}
    files = dict.fromkeys((f"{split[part.split]}{part.name}", part.path) for part in parts)
    taken = set[str]()  # files of several folders may have one name
    return {_fresh(name, taken): sha256_of(path) for name, path in files}


def _named_as_splits(source: "_Source") -> list[str]:
    """Return a remark about files whose names say that they are split already."""
    parts = [part for part in source.table.parts if part.split is None]
    names = {part.name.split("/")[0].split(".")[0].lower() for part in parts}
    if source.config.split == "column" or not {"train", "test"} <= names:
        return []
    return ["train and test are cut anew; to keep them apart, dataset.path={train: ..., test: ...}"]


def _copies(source: "_Source", sources: Mapping[str, str]) -> list[str]:
    """Return a remark about files that hold the same rows.

    Raises:
        DataError: They are in two splits.
    """
    parts = {part.path: part for part in source.table.parts}
    first, twice = dict[str, tuple[Part, str]](), list[str]()
    for (name, sha), part in zip(sources.items(), parts.values(), strict=True):
        if part.path not in source.filled:
            continue
        other, other_name = first.setdefault(sha, (part, name))
        if other.split != part.split:
            raise DataError(
                f"{where(part)} has the same bytes as {where(other)}, which is another split; "
                "what is learnt from cannot be tested on"
            )
        twice += [f"{name} as {other_name}"] if other is not part else []
    more = f", and {len(twice) - 1:,} more" if twice[1:] else ""
    return [f"files of the same bytes, whose rows count twice: {twice[0]}{more}"] if twice else []


class _Survey(NamedTuple):
    """What the first reading found."""

    codes: Codes
    """`[rows]`: the number of a row's split, or `DROPPED`."""
    accounting: Mapping[str, int]
    words: list[str]
    """How the rows were cut, for the user."""


class _Source:
    """A table of the user's, and how its columns are read."""

    def __init__(self, config: TableConfig) -> None:
        self.config, self.columns = config, Columns(config)
        self.tasks = tuple(
            Task(name=t.name, label=t.label, parent=t.parent, joint=t.product, kind=t.kind)
            for t in config.tasks
        )
        self.labels = [task.label for task in config.tasks]
        self._order = config.split_column or ""
        self._survey_columns = [
            *self.labels,
            *([config.group] if config.split == "group" and config.group else []),
            *([self._order] if config.split in {"time", "column"} else []),
        ]
        features = [*config.ids, *config.lists, *config.numbers, *config.vectors]
        helpers = [
            *config.weights.values(),
            *filter(None, (config.group, config.key, config.weight)),
        ]
        self._all = [*features, *self.labels, *helpers]
        every = dict.fromkeys([*self._all, *self._survey_columns])
        self.table = Table(config, find_parts(config), list(every))
        # Columns that are no features stand beside them under names that no user's column has.
        taken = {*features, *self.labels}
        self.names: dict[Hashable, str] = {
            name: _fresh(f"weights of {name}", taken) for name in config.weights
        }
        self.filled = set[Path]()
        """Files in which there are rows, once surveyed."""
        self.names |= {role: _fresh(role, taken) for role in (GROUP, KEY)}
        self.names |= {(WEIGHT, t.name): _fresh(f"{WEIGHT} {t.name}", taken) for t in self.tasks}

    def survey(self) -> _Survey:
        """Read labels, groups and times, apply the label policy and cut the rows."""
        config, account = self.config, Counter[str]()
        times = TimeColumn(self._order, config.time_format)
        codes: list[Codes] = []
        gaps: list[npt.NDArray[np.bool_]] = []
        groups: list[pl.Series] = []
        for part, row, frame in self.table.frames(self._survey_columns):
            self.filled |= {part.path} if len(frame) else set()
            with translated(where(part)):
                at, code = At(where(part), row), np.full(len(frame), OPEN, np.int8)
                _, kept, seen = self._judge(frame, at, account)
                gaps.append(~seen.select(pl.all_horizontal(pl.all())).to_series().to_numpy())
                if part.split is not None:
                    code[:] = part.split
                elif config.split == "column":
                    code = _by_column(self.columns.text(frame[self._order], at), at)
                elif config.split == "time":
                    values = self.columns.clean(frame[self._order])
                    times.add(values, kept, *at)
                elif config.split == "group" and config.group is not None:
                    groups.append(self.columns.text(frame[config.group], at).filter(kept))
                code[~kept.to_numpy()] = DROPPED
                codes.append(code)
        if not account["read"]:
            raise DataError(f"{where(self.table.parts[0])} holds no rows")
        for words in [key for key in account if key.startswith("kept: ")]:
            if config.unclicked_conversions == "refuse":
                raise unclicked(account[words], words.removeprefix("kept: "))
        found, bounds = np.concatenate(codes), ""
        if config.split == "time":
            found[found == OPEN], bounds = self._by_time(times)
            self._refuse_empty(found, self._order, times.finish())
        elif config.split != "column":
            found[found == OPEN] = self._at_random(found, groups)
            if groups:
                self._refuse_empty(found, config.group or "", pl.concat(groups))
        hidden = np.concatenate(gaps) & (found != DROPPED)
        account["a label is absent, hidden in training"] = int((hidden & (found == 0)).sum())
        lost = hidden & (found > 0)
        account["dropped: a label is absent in validation or test"] = int(lost.sum())
        found[lost] = DROPPED
        account = +account
        return _Survey(found, dict(account), [*filter(None, [bounds]), self._shares(found)])

    def find_bounds(self, survey: _Survey) -> dict[str, tuple[float, ...]]:
        """Return the bounds of buckets of which a number is given, and cut by them from now on.

        They are quantiles of the training rows, met to one in `MAX_SAMPLE` or better.

        Raises:
            DataError: The column has one value.
        """
        wanted = {n: most for n, most in self.config.buckets.items() if isinstance(most, int)}
        if not wanted:
            return {}
        sample, start = Thinned(MAX_SAMPLE), 0
        for part, row, frame in self.table.frames([*wanted]):
            code = survey.codes[start : start + len(frame)]
            start += len(frame)
            found = [self.columns.plain_numbers(frame[n], At(where(part), row)) for n in wanted]
            sample.add(pl.DataFrame(found).filter(pl.Series(code == 0)))
        bounds: dict[str, tuple[float, ...]] = {}
        for name, most in wanted.items():
            numbers = np.sort(sample.rows()[name].drop_nulls().to_numpy())
            places = np.arange(1, most) * len(numbers) // most
            cuts = np.unique(numbers[places]) if len(numbers) else numbers
            bounds[name] = tuple(cuts[cuts > numbers[0]].tolist()) if len(cuts) else ()
            if not bounds[name]:
                raise DataError(
                    f"column {name!r} has too few different numbers in the training rows for "
                    f"{most} buckets; name their bounds, dataset.buckets={{{name}: [18, 25]}}, or "
                    "leave it an id"
                )
        self.columns = Columns(replace(self.config, buckets={**self.config.buckets, **bounds}))
        return bounds

    def chunks(self, survey: _Survey, account: Counter[str]) -> Iterator[Chunk]:
        """Yield the rows that are kept, split by split of each part."""
        account.update(survey.accounting)
        start = 0
        for part, row, frame in self.table.frames(self._all):
            code = survey.codes[start : start + len(frame)]
            start += len(frame)
            if start > len(survey.codes):
                raise DataError(f"{where(part)} changed while it was read; prepare it again")
            at = At(where(part), row)
            with translated(where(part)):
                labels, _, seen = self._judge(frame, at, Counter())
                table = pl.DataFrame([*labels.get_columns(), *self._features(frame, at, seen)])
            for number, split in enumerate(SPLITS):
                if len(rows := table.filter(pl.Series(code == number))):
                    yield Chunk(split, rows)

    def _features(self, frame: pl.DataFrame, at: At, seen: pl.DataFrame) -> Iterator[pl.Series]:
        config, columns = self.config, self.columns
        yield from columns.features(frame, at)
        for name, weight in config.weights.items():
            yield columns.weights(frame[weight], at).alias(self.names[name])
        if config.group is not None:
            yield columns.text(frame[config.group], at).alias(self.names[GROUP])
        if config.key is not None:
            yield frame[config.key].alias(self.names[KEY])
        if config.weight is not None or config.missing_labels == "hide":
            each = pl.repeat(1.0, len(frame), dtype=pl.Float32, eager=True)
            each = (
                each if config.weight is None else columns.sample_weights(frame[config.weight], at)
            )
            for task in config.tasks:
                yield (each * seen[task.label]).alias(self.names[WEIGHT, task.name])

    def _judge(
        self, frame: pl.DataFrame, at: At, account: Counter[str]
    ) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
        """Return the labels, which rows are kept, and which labels are not hidden; count changes.

        Below a hidden label all are hidden.
        """
        account["read"] += len(frame)
        found: dict[str, pl.Series] = {}
        known: dict[str, pl.Series] = {}
        kept = pl.repeat(value=True, n=len(frame), dtype=pl.Boolean, eager=True)
        of = {task.name: task.label for task in self.config.tasks}
        for task in self.config.tasks:
            label = self.columns.label(frame[task.label], task, at).alias(task.label)
            absent = label.is_null()
            above = kept
            if task.parent is not None:
                above = known[of[task.parent]]
                below = absent & kept & above & (found[of[task.parent]] == 0)
                label, absent = label.set(below, 0), absent & ~below
                if n := int(below.sum()):
                    account[f"{task.label} absent with {of[task.parent]} = 0, taken as 0"] += n
            hides = self.config.missing_labels == "hide"
            known[task.label] = (
                (~absent & above)
                if hides
                else pl.repeat(value=True, n=len(frame), dtype=pl.Boolean, eager=True)
            )
            if hides:
                label, absent = label.set(~known[task.label], 0), absent & False
            if n := int((absent & kept).sum()):
                if self.config.missing_labels == "refuse":
                    raise at.error(
                        frame[task.label],
                        absent & kept,
                        "the label is absent; set dataset.missing_labels=drop to leave such rows "
                        "out, or hide to learn their other labels",
                    )
                account[f"dropped: {task.label} absent"] += n
            kept &= ~absent
            found[task.label] = label.fill_null(0)
        policy = self.config.unclicked_conversions
        labels, kept, changed = judge_nesting(
            pl.DataFrame(found), self.tasks, "keep" if policy == "refuse" else policy, kept
        )
        account.update(changed)
        return labels, kept, pl.DataFrame(known)

    def _refuse_empty(self, codes: Codes, column: str, values: pl.Series) -> None:
        """Refuse a cut that leaves a split without rows, by the values that it cannot part."""
        empty = [split for number, split in enumerate(SPLITS) if not (codes == number).any()]
        if empty and (codes >= 0).any():
            n = values.n_unique()
            raise DataError(
                f"the {empty[0]} split would be empty: column {column!r} has {n:,} "
                f"value{'s' if n > 1 else ''}, and rows of one value stay together; choose other "
                "fractions, dataset.split=random, or by time dataset.valid_from and "
                "dataset.test_from"
            )

    def _at_random(self, codes: Codes, groups: list[pl.Series]) -> Codes:
        if self.config.split == "group" and groups:
            return by_group(pl.concat(groups), self._fractions).to_numpy()
        return random_parts(int((codes == OPEN).sum()), *self._fractions)

    @property
    def _fractions(self) -> Fractions:
        """Shares of the rows whose split the files do not tell."""
        fractions = Fractions.of(self.config)
        given = isinstance(self.config.path, SplitPaths)
        return fractions._replace(test=0.0) if given else fractions

    def _by_time(self, column: TimeColumn) -> tuple[Codes, str]:
        config, times = self.config, column.finish()
        self._fractions.check()
        ordered = times.sort()
        valid_from, test_from = time_quantiles(ordered, config.valid_fraction, self._fractions.test)
        if config.test_from is not None:
            test_from = column.boundary("test_from", config.test_from, times)
            first = int((ordered < test_from).sum()) - round(len(ordered) * config.valid_fraction)
            valid_from = ordered[min(max(first, 0), len(ordered) - 1)]
        if config.valid_from is not None:
            valid_from = column.boundary("valid_from", config.valid_from, times)
        if not self._fractions.test:
            codes = (times >= valid_from).cast(pl.Int8)
            return codes.to_numpy(), f"validation from {self._order} = {valid_from} on"
        if test_from < valid_from:
            raise DataError(
                f"the validation would begin at {valid_from}, after the test, at {test_from}; set "
                "dataset.valid_from and dataset.test_from in this order"
            )
        words = f"validation from {self._order} = {valid_from} on, test from {test_from} on"
        return cut(times, valid_from, test_from).to_numpy(), words

    def _shares(self, codes: Codes) -> str:
        """Return the share of each split, beside what was asked for."""
        config = self.config
        asked = {"valid": config.valid_fraction, "test": self._fractions.test}
        by_key = {"valid": config.valid_from, "test": config.test_from}
        given = isinstance(config.path, SplitPaths)
        n_rows, words = max(int((codes >= 0).sum()), 1), []
        for number, split in enumerate(SPLITS):
            share = f"{split} {int((codes == number).sum()) / n_rows:.1%}"
            free = config.split == "column" or given or by_key.get(split) is not None
            words.append(
                share if free or split not in asked else f"{share} ({asked[split]:.1%} asked)"
            )
        return "rows: " + ", ".join(words)


def _fresh(name: str, taken: set[str]) -> str:
    """Return a name that no column has."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _by_column(values: pl.Series, at: At) -> Codes:
    unknown = values.is_null() | ~values.is_in(SPLITS)
    if unknown.any():
        raise at.error(values, unknown, "expected train, valid or test in every row")
    return values.replace_strict(SPLITS, range(3), return_dtype=pl.Int8).to_numpy().copy()
