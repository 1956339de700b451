"""A raw file as parts: one per block of its lines, as arrays, on disk.

What is in a part depends on its block alone, not on the number of threads.
"""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cvrbench.data.archives import RawFile
from cvrbench.data.dataset import Bag
from cvrbench.data.raw import OnRows, RowsProgress, silent
from cvrbench.data.sources.aliccp.explain import Reason
from cvrbench.data.sources.aliccp.grammar import FIELDS, Kind, fields_of
from cvrbench.data.sources.aliccp.parse import NO_LIMIT, Fault, Lines, parse_or_explain

ONE_READER = threading.Lock()
"""numpy parses the head of an array with `ast`, which in Python 3.11 fails now and then when two
threads are at it (CPython issue 106905)."""
BLOCK_BYTES = 16 << 20
PIECE_BYTES = 2 << 20
KINDS: tuple[Kind, ...] = ("common", "skeleton")
SINGLES = {kind: tuple(f.name for f in fields_of(kind) if not f.bag) for kind in KINDS}
BAGS = {kind: tuple(f.name for f in fields_of(kind) if f.bag) for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The good lines of one block.

    Attributes:
        kind: Of which file.
        line: int64 `[rows]`, number of each row's line in the file, from 1.
        index: uint64 `[rows]`, the common feature index.
        sample_id: int64 `[rows]` of skeleton rows, else empty.
        labels: uint8 `[rows, 2]` of skeleton rows: click and conversion.
        singles: int32 `[rows, fields]`, ids of the fields with one value; 0 where it is absent.
        bags: Field -> its values, row after row, as they stand in the file.
        n_lines: Lines of the block, good or not.
        faults: Those that are none.
    """

    kind: Kind
    line: npt.NDArray[np.int64]
    index: npt.NDArray[np.uint64]
    sample_id: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint8]
    singles: npt.NDArray[np.int32]
    bags: dict[str, Bag]
    n_lines: int
    faults: tuple[Fault, ...]

    def keys(self) -> Self:
        """Give the same part without its bags: what an index of it needs."""
        return replace(self, bags={})

    def save(self, path: Path) -> None:
        """Write it."""
        arrays: dict[str, npt.NDArray[Any]] = {
            name: getattr(self, name)
            for name in ("line", "index", "sample_id", "labels", "singles")
        }
        for field, bag in self.bags.items():
            arrays |= {f"{field}.{part}": array for part, array in bag._asdict().items()}
        about = json.dumps({"kind": self.kind, "n_lines": self.n_lines, "faults": self.faults})
        arrays["about"] = np.frombuffer(about.encode(), np.uint8)
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back."""
        with ONE_READER, np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(arrays.pop("about").tobytes())
        bags = {
            key.removesuffix(".ids"): Bag(
                **{part: arrays.pop(key.replace(".ids", f".{part}")) for part in Bag._fields}
            )
            for key in list(arrays)
            if key.endswith(".ids")
        }
        about["faults"] = tuple(Fault(line, Reason(*reason)) for line, reason in about["faults"])
        return cls(**arrays, bags=bags, **about)


@dataclass(frozen=True)
class PartFile:
    """A raw file that was read: its parts in order, and what it is."""

    raw: RawFile
    paths: tuple[Path, ...]
    sha256: str

    def __iter__(self) -> Iterator[Part]:
        """Load one part after the other, the next one while this one is used."""
        with ThreadPoolExecutor(1) as pool:
            loading = (pool.submit(Part.load, path) for path in self.paths)
            ahead = next(loading, None)
            while ahead is not None:
                current, ahead = ahead, next(loading, None)
                yield current.result()


def read_parts(
    raw: RawFile,
    kind: Kind,
    folder: Path,
    *,
    on_part: Callable[[Part], None],
    on_rows: OnRows = silent,
    threads: int = 2,
    block_bytes: int = BLOCK_BYTES,
    max_faults: int = NO_LIMIT,
) -> PartFile:
    """Read a raw file into parts under `folder`.

    Args:
        raw: The file.
        kind: What it holds.
        folder: Where its parts go.
        on_part: Is shown every part, in order; may raise.
        on_rows: Told of progress.
        threads: Blocks parsed at a time; numpy lets go of the interpreter's lock.
        block_bytes: Size of a block.
        max_faults: Where one block has so many, `on_part` must raise: the rest of it is not read.

    Raises:
        DataError: The file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest, paths, first_line = hashlib.sha256(), list[Path](), 1
    progress = _Progress(raw, on_rows)
    waiting: deque[tuple[Future[Part], int]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for block in raw.blocks(block_bytes):
                digest.update(block)
                paths.append(folder / f"{len(paths):06d}.npz")
                job = pool.submit(_make, block, kind, first_line, paths[-1], max_faults)
                waiting.append((job, len(block)))
                first_line += block.count(b"\n")
                if len(waiting) > threads:
                    _finish(*waiting.popleft(), on_part, progress)
            while waiting:
                _finish(*waiting.popleft(), on_part, progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return PartFile(raw, tuple(paths), digest.hexdigest())


class _Progress:
    """Tells how much of a raw file is parsed."""

    def __init__(self, raw: RawFile, on_rows: OnRows) -> None:
        self._raw, self._on_rows = raw, on_rows
        self._rows = self._bytes = 0

    def add(self, rows: int, n_bytes: int) -> None:
        self._rows, self._bytes = self._rows + rows, self._bytes + n_bytes
        # How much a gzipped file holds is known at its end only.
        share = 0.0 if self._raw.is_gzipped else self._bytes / max(self._raw.size, 1)
        self._on_rows(RowsProgress(f"reading {self._raw.name}", self._rows, share))


def _finish(
    future: Future[Part], n_bytes: int, on_part: Callable[[Part], None], progress: _Progress
) -> None:
    part = future.result()
    on_part(part)
    progress.add(part.n_lines, n_bytes)


def _make(block: bytes, kind: Kind, first_line: int, path: Path, max_faults: int) -> Part:
    part = to_part(block, kind, first_line, max_faults)
    if len(part.faults) < max_faults:
        part.save(path)
    return part


def to_part(block: bytes, kind: Kind, first_line: int, max_faults: int = NO_LIMIT) -> Part:
    """Parse a block of lines; `first_line` is the number of its first one in the file."""
    pieces, faults, n_lines = list[Lines](), list[Fault](), 0
    for piece in _cut(block):
        found = parse_or_explain(piece, kind, first_line + n_lines, max_faults - len(faults))
        pieces, faults = pieces + found[0], faults + found[1]
        n_lines = sum(map(len, pieces)) + len(faults)
    good = np.ones(n_lines, np.bool_)
    good[[fault.line - first_line for fault in faults]] = False
    groups = [_group(lines, kind) for lines in pieces] or [_group(_NO_LINES, kind)]
    return Part(
        kind=kind,
        line=np.flatnonzero(good) + first_line,
        index=np.concatenate([lines.index for lines in pieces or [_NO_LINES]]),
        sample_id=np.concatenate([lines.sample_id for lines in pieces or [_NO_LINES]]),
        labels=np.concatenate([lines.labels for lines in pieces or [_NO_LINES]]),
        singles=np.concatenate([singles for singles, _ in groups]),
        bags={field: concatenate([bags[field] for _, bags in groups]) for field in BAGS[kind]},
        n_lines=n_lines,
        faults=tuple(faults),
    )


def _cut(block: bytes) -> Iterator[bytes]:
    """Pieces of whole lines whose arrays the processor's cache can hold."""
    start = 0
    while start < len(block):
        end = block.rfind(b"\n", start, start + PIECE_BYTES) + 1 or block.find(b"\n", start) + 1
        end = end or len(block)
        yield block[start:end]
        start = end


_NO_LINES = Lines(
    index=np.empty(0, np.uint64),
    sample_id=np.empty(0, np.int64),
    labels=np.empty((0, 2), np.uint8),
    offsets=np.zeros(1, np.int64),
    field=np.empty(0, np.uint8),
    ids=np.empty(0, np.int32),
    values=np.empty(0, np.float32),
)


def _group(lines: Lines, kind: Kind) -> tuple[npt.NDArray[np.int32], dict[str, Bag]]:
    """Features line after line -> ids field by field: single ones `[rows, fields]`, and bags."""
    n = len(lines)
    row = np.repeat(np.arange(n), np.diff(lines.offsets))
    singles = np.zeros((n, len(SINGLES[kind])), np.int32)
    single = _COLUMN[lines.field] >= 0
    singles[row[single], _COLUMN[lines.field[single]]] = lines.ids[single]
    bags = {}
    for name in BAGS[kind]:
        chosen = np.flatnonzero(lines.field == _NUMBER[name])
        lengths = np.bincount(row[chosen], minlength=n)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        bags[name] = Bag(offsets, lines.ids[chosen], lines.values[chosen])
    return singles, bags


_NUMBER = {field.name: number for number, field in enumerate(FIELDS)}
_COLUMN = np.array(
    [-1 if field.bag else SINGLES[field.kind].index(field.name) for field in FIELDS], np.int64
)


def concatenate(bags: Sequence[Bag]) -> Bag:
    """Put bags behind each other."""
    if len(bags) == 1:
        return bags[0]
    lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
    return Bag(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([bag.ids for bag in bags]),
        np.concatenate([bag.weights for bag in bags]),
    )
