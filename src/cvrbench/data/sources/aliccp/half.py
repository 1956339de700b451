"""One half of the data, train or test: read into parts, joined by index, counted, not yet encoded.

The common file comes first, since skeleton rows refer to it in any order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cvrbench.data.archives import RawFile
from cvrbench.data.dataset import SPLITS
from cvrbench.data.raw import OnRows
from cvrbench.data.sources.aliccp.common import ABSENT, CommonIndex, missing
from cvrbench.data.sources.aliccp.faults import FaultLog
from cvrbench.data.sources.aliccp.grammar import Half, Kind, file_name
from cvrbench.data.sources.aliccp.layout import DROPPED, Codes, Layout, unclicked
from cvrbench.data.sources.aliccp.parts import Part, PartFile, read_parts

Ints = npt.NDArray[np.int64]


@dataclass
class Totals:
    """What a half holds, counted while it is read; faulty lines are in `rows` only.

    Attributes:
        rows, common_rows: Lines of the two files.
        clicks, conversions, unclicked_conversions: Good rows with such labels.
        broken: Of the last, those whose index is known.
        kept: `[splits, 3]`, rows, clicks, and conversions among clicks of each split.
    """

    rows: int = 0
    clicks: int = 0
    conversions: int = 0
    unclicked_conversions: int = 0
    common_rows: int = 0
    broken: int = 0
    kept: Ints = field(default_factory=lambda: np.zeros((len(SPLITS), 3), np.int64))


@dataclass
class HalfRead:
    """A half that was read.

    Attributes:
        half: Which.
        layout: What is wanted of it.
        common: Its common rows, by index.
        common_parts, skeleton_parts: Its files.
        is_valid: `[common rows]`, whether their users were chosen for validation.
        used: `[splits, common rows]`, how many rows of each split refer to each common row.
        totals: What was counted.
    """

    half: Half
    layout: Layout
    common: CommonIndex
    common_parts: PartFile
    is_valid: npt.NDArray[np.bool_]
    used: Ints
    skeleton_parts: PartFile
    totals: Totals = field(default_factory=Totals)

    def files(self) -> tuple[PartFile, PartFile]:
        """Give both files."""
        return self.common_parts, self.skeleton_parts

    def place(self, part: Part) -> tuple[npt.NDArray[np.int32], Codes]:
        """Give each row's common row and its split; rows without either are `DROPPED`."""
        context = self.common.lookup(part.index)
        known = context != ABSENT
        codes = self.layout.splits(part, self.half, self.is_valid[context] & known)
        codes[~known] = DROPPED
        return context, codes


@dataclass(frozen=True)
class Reading:
    """How the files are read.

    Attributes:
        folder: Where parts go.
        log: Notes faulty lines, or stops at them.
        on_rows: Told of progress.
        threads: Blocks parsed at a time.
        block_bytes: Raw bytes in a part.
    """

    folder: Path
    log: FaultLog
    on_rows: OnRows
    threads: int
    block_bytes: int

    def read(self, raw: RawFile, kind: Kind, half: Half, see: Callable[[Part], None]) -> PartFile:
        """Read one file into parts, and show `see` each of them in order."""
        return read_parts(
            raw,
            kind,
            self.folder / f"{kind}_{half}",
            on_part=see,
            on_rows=self.on_rows,
            threads=self.threads,
            block_bytes=self.block_bytes,
            max_faults=self.log.tolerance.limit,
        )


def read_half(half: Half, layout: Layout, files: Mapping[str, RawFile], how: Reading) -> HalfRead:
    """Read the two files of a half into parts.

    Raises:
        DataError: A line is at fault and not tolerated, or a file damaged.
    """
    raw, skeleton = files[file_name("common", half)], files[file_name("skeleton", half)]
    pieces: list[Part] = []

    def see_common(part: Part) -> None:
        how.log.take(raw.name, raw.where, part.faults)
        pieces.append(part.keys())

    common_parts = how.read(raw, "common", half, see_common)
    common = CommonIndex(pieces)
    how.log.take(raw.name, raw.where, common.faults)
    read = HalfRead(
        half=half,
        layout=layout,
        common=common,
        common_parts=common_parts,
        is_valid=layout.valid_contexts(common) if half == "train" else np.zeros(len(common), bool),
        used=np.zeros((len(SPLITS), len(common)), np.int64),
        skeleton_parts=PartFile(skeleton, (), ""),
        totals=Totals(common_rows=sum(part.n_lines for part in pieces)),
    )
    read.skeleton_parts = how.read(
        skeleton, "skeleton", half, lambda part: _see(read, part, how.log)
    )
    return read


def _see(read: HalfRead, part: Part, log: FaultLog) -> None:
    context, codes = read.place(part)
    raw = read.skeleton_parts.raw
    log.take(raw.name, raw.where, [*part.faults, *missing(part, context)])
    clicks, conversions = part.labels.sum(axis=0, dtype=np.int64).tolist()
    totals = read.totals
    totals.rows += part.n_lines
    totals.clicks += clicks
    totals.conversions += conversions
    totals.unclicked_conversions += int(unclicked(part).sum())
    totals.broken += int((unclicked(part) & (context != ABSENT)).sum())
    labels = read.layout.labels(part)
    for split in range(len(SPLITS)):
        chosen = codes == split
        click, conversion = labels[chosen].T
        totals.kept[split] += (len(click), int(click.sum()), int((click & conversion).sum()))
        read.used[split] += np.bincount(context[chosen], minlength=len(read.common))
