"""Datasets as three tables in memory, and the checks that `prepare` runs on a dataset."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import polars as pl

from cvrbench.data.dataset import SPLITS
from cvrbench.data.prepare import Inspection
from cvrbench.data.raw import Chunk, RawField, RawStream
from cvrbench.data.schema import Task


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What a `RawStream` holds, read to its end."""

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    fields: tuple[RawField, ...]
    tasks: tuple[Task, ...]
    group: str | None = None
    group_column: str | None = None
    key: str | None = None
    key_column: str | None = None
    group_disjoint: bool = False
    files_split: bool = False
    unnested: bool = False
    truth: tuple[str, ...] | None = None
    label_weights: tuple[str, ...] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    split: Sequence[str] = ()
    accounting: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: RawStream) -> Self:
        account = Counter[str]()
        parts: dict[str, list[pl.DataFrame]] = {split: [] for split in SPLITS}
        for split, frame in raw.chunks(account):
            parts[split].append(frame)
        tables = {split: pl.concat(frames) for split, frames in parts.items()}
        meaning = {name: value for name, value in vars(raw).items() if name != "chunks"}
        return cls(**tables, **meaning, accounting=dict(account))

    def splits(self) -> dict[str, pl.DataFrame]:
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def stream(self) -> RawStream:
        def chunks(account: Counter[str]) -> Iterator[Chunk]:
            account.update(self.accounting)
            return (Chunk(name, frame) for name, frame in self.splits().items())

        own = {*SPLITS, "accounting"}
        return RawStream(chunks=chunks, **{n: v for n, v in vars(self).items() if n not in own})


def check(raw: Tables, name: str, pieces: int = 1) -> list[str]:
    """Show every split to the checks in so many pieces."""
    inspection = Inspection(raw.stream(), name)
    for split, whole in raw.splits().items():
        size = max(1, -(-len(whole) // pieces))
        for start in range(0, max(len(whole), 1), size):
            inspection.see(split, whole.slice(start, size))
    return inspection.finish()
