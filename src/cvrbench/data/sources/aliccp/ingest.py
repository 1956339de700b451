"""Ali-CCP from raw files to a prepared dataset: read each pair of files once, then encode in place.

The common file of a half comes first, since skeleton rows refer to it in any order; then the
skeleton file, whose rows are written with the ids of the raw files and counted; then the bags of
the common rows, when it is known which rows of which split refer to them. When both halves are
there, the vocabularies are known, and the ids of all arrays are replaced.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.config.dataset import AliCCPConfig
from cvrbench.data.archives import RawFile, locate
from cvrbench.data.dataset import (
    SPLITS,
    Bag,
    Dataset,
    open_dataset,
    read_manifest,
    vocabulary_file,
)
from cvrbench.data.prepare import check_both_classes
from cvrbench.data.raw import OnRows, RowsProgress, Tolerance, ahead, click_conversion, silent
from cvrbench.data.schema import Categorical, MultiValued, Numeric, Schema
from cvrbench.data.sources import delimited
from cvrbench.data.sources.aliccp import (
    FIELDS,
    HALVES,
    KINDS,
    KNOWN_TOTALS,
    SINGLES,
    Half,
    Kind,
    file_name,
)
from cvrbench.data.sources.aliccp.columns import (
    DROPPED,
    TEST,
    TRAIN,
    VALID,
    Codes,
    Columns,
    DistinctIds,
    FieldCodes,
    IdCounts,
    Selection,
    of_kind,
    take,
    unclicked,
)
from cvrbench.data.sources.aliccp.lines import (
    Block,
    Fault,
    FaultLog,
    Ids,
    Ints,
    Reason,
    Words,
    to_block,
)
from cvrbench.data.writer import StoreWriter, check_space, install, staging
from cvrbench.errors import DataError
from cvrbench.system.machine import keep_freed_memory

TRUTH_FILES: dict[Half, str] = {half: f"truth_{half}.csv" for half in HALVES}
TRUTH_TYPES = {"sample_id": pl.Int64, "p_ctr": pl.Float64, "p_cvr": pl.Float64}
BLOCK_BYTES = 16 << 20
SPACE_PER_RAW_BYTE = 0.8
"""Arrays and waiting bags of common rows, per byte of raw text; 0.7 measured on generated files."""
USER, ABSENT = "101", -1
CROSSED = ("508", "509", "702", "853")
TASKS = click_conversion("click", "conversion")
PARTS = Bag._fields
UNCLICKED = "conversion = 1 with click = 0"
TREATED = {"drop": "dropped", "keep": "kept", "zero_conversion": "conversion set to 0"}


def prepare(
    config: AliCCPConfig,
    raw: Path,
    target: Path,
    *,
    name: str,
    plain: Mapping[str, Any],
    tolerance: Tolerance,
    force: bool = False,
    on_rows: OnRows = silent,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Dataset:
    """Prepare Ali-CCP into the folder `target`, replacing one that came from other files.

    `raw` has the four raw files, and maybe `truth_<half>.csv`; what came from the same files is
    prepared again if `force` is set. By default as many blocks are parsed at a time as there are
    cores, at most four.

    Raises:
        DataError: Files are missing, damaged or faulty, or the disk is too small.
    """
    keep_freed_memory()
    wanted = [file_name(k, h) for h in HALVES for k in KINDS]
    files = locate(raw, wanted, dataset="aliccp", optional=list(TRUTH_FILES.values()))
    # What tells raw files from others of the same names, without reading them.
    snapshot = {name: [file.where, file.size, file.changed] for name, file in files.items()}
    with staging(target) as work:
        if not force and _is_made_of(target, snapshot, tolerance):
            return open_dataset(target)
        size = sum(file.size for file in files.values())
        check_space(work, int(size * SPACE_PER_RAW_BYTE), "preparing aliccp")
        with StoreWriter(work / "dataset") as writer:
            preparation = _Preparation(
                name=name,
                selection=Selection(config),
                files=files,
                work=work,
                writer=writer,
                log=FaultLog(tolerance),
                on_rows=on_rows,
                threads=threads or min(os.cpu_count() or 1, 4),
                block_bytes=block_bytes,
            )
            for half in HALVES:
                preparation.read(half)
            preparation.encode()
            preparation.finish(plain, snapshot)
        install(work / "dataset", target, work)
    return open_dataset(target)


def _is_made_of(target: Path, snapshot: Mapping[str, Any], tolerance: Tolerance) -> bool:
    """Whether the dataset is there, of these files, and has no faults left out unasked."""
    try:
        manifest = read_manifest(target)
    except DataError:
        return False
    strict = tolerance.on_error == "stop"
    return manifest.get("raw") == snapshot and not (strict and manifest["faults"])


class CommonFeatures:
    """The lines of a common file, numbered as they stand there, for the rows that refer to them.

    Attributes:
        ids, weights: Their `Columns`, `[lines, ...]`.
        groups: int64 `[lines]`, the user's id; a negative number of its own for a line without.
        faults: Lines whose index an earlier line has; no row refers to them.
    """

    def __init__(self, pieces: list[tuple[Block, Columns]]) -> None:
        index = np.concatenate([block.index for block, _ in pieces])
        line = np.concatenate([block.line for block, _ in pieces])
        column = SINGLES["common"].index(USER)
        user = np.concatenate([block.singles[:, column] for block, _ in pieces]).astype(np.int64)
        self.groups: Ints = np.where(user > 0, user, -1 - np.arange(len(user)))
        self.ids = np.concatenate([columns.ids for _, columns in pieces])
        self.weights = np.concatenate([columns.weights for _, columns in pieces])
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        first = np.ones(len(index), np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        self._keys, self._lines = ordered[first], order[first].astype(np.int32)
        self.faults = [
            Fault(int(line[at]), Reason("duplicate index", f"index {int(index[at]):016x} again"))
            for at in np.sort(order[~first])
        ]

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.groups)

    def find(self, index: Words) -> Ids:
        """Return the line of each index, `ABSENT` where there is none."""
        if not len(self._keys):
            return np.full(len(index), ABSENT, np.int32)
        place = np.minimum(np.searchsorted(self._keys, index), len(self._keys) - 1)
        found: Ids = np.where(self._keys[place] == index, self._lines[place], np.int32(ABSENT))
        return found


@dataclass(kw_only=True)
class _Preparation:
    """What was counted and written so far."""

    name: str
    selection: Selection
    files: Mapping[str, RawFile]
    work: Path
    writer: StoreWriter
    log: FaultLog
    on_rows: OnRows
    threads: int
    block_bytes: int

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.counts, self.distinct = IdCounts(self.selection.fields), DistinctIds()
        # Lines, clicks and so on by name, as in `KNOWN_TOTALS`; rows with a faulty line are among
        # the rows only.
        self.totals = Counter[str]()
        self.sources: dict[str, str] = {}
        self.broken = 0  # conversions without a click of rows whose common line is known
        # `[splits, 3]`: rows, clicks, and conversions among clicks.
        self.kept: Ints = np.zeros((len(SPLITS), 3), np.int64)
        # Least and largest weight of each numeric field, over the rows of all splits.
        self.lowest = np.full(len(self.selection.numeric), np.inf, np.float32)
        self.highest = -self.lowest
        self.codes: dict[str, FieldCodes] = {}

    def read(self, half: Half) -> None:
        """Read the two files of a half, and write their rows with raw ids.

        Raises:
            DataError: A line is at fault and not tolerated, or a file is damaged.
        """
        common, spilled = self._read_common(half)
        used = self._read_skeleton(half, common)
        for f, ids in zip(of_kind(self.selection.categorical, "common"), common.ids.T, strict=True):
            self.counts.add(f, ids, used[TRAIN])
        if spilled:
            self._write_common_bags(half, spilled, used)

    def _blocks(self, kind: Kind, half: Half) -> Iterator[Block]:
        """Parse a file, some blocks ahead of their use; numpy lets go of the interpreter's lock."""
        raw = self.files[file_name(kind, half)]
        digest, sizes, done = hashlib.sha256(), deque[int](), 0

        def jobs() -> Iterator[Callable[[], Block]]:
            first_line = 1
            for text in raw.blocks(self.block_bytes):
                digest.update(text)
                sizes.append(len(text))
                yield partial(to_block, text, kind, first_line, self.log.tolerance.limit)
                first_line += text.count(b"\n")

        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for block in ahead(pool, jobs(), self.threads + 1):
                    done += sizes.popleft()
                    self.totals[f"{half} {kind} rows"] += block.n_lines
                    # How much a gzipped file holds is known at its end only.
                    share = 0.0 if raw.is_gzipped else done / max(raw.size, 1)
                    rows = self.totals[f"{half} {kind} rows"]
                    self.on_rows(RowsProgress(f"reading {raw.name}", rows, share))
                    if half == "train":
                        self.distinct.add(block)
                    yield block
            finally:
                pool.shutdown(cancel_futures=True)
        self.sources[raw.name] = digest.hexdigest()

    def _read_common(self, half: Half) -> tuple[CommonFeatures, list[Path]]:
        """Hold what has one value a line; bags go to the disk, a file per block."""
        raw = self.files[file_name("common", half)]
        no_lines = to_block(b"", "common", 1)  # a file may be empty
        pieces, spilled = [(no_lines, self.selection.columns(no_lines))], list[Path]()
        for block in self._blocks("common", half):
            self.log.add(raw.name, raw.where, block.faults)
            columns = self.selection.columns(block)
            if columns.bags:
                spilled.append(self.work / f"{half}-{len(spilled):06d}.npz")
                _save(spilled[-1], columns.bags)
            block.bags.clear()
            columns.bags.clear()
            pieces.append((block, columns))
        common = CommonFeatures(pieces)
        self.log.add(raw.name, raw.where, common.faults)
        return common, spilled

    def _read_skeleton(self, half: Half, common: CommonFeatures) -> Ints:
        """Return `[splits, common lines]`, the number of rows that refer to each line."""
        raw = self.files[file_name("skeleton", half)]
        # Half a truth would leave one split without; it is both or none.
        has_truth = all(name in self.files for name in TRUTH_FILES.values())
        truth = _Truth(self.files[TRUTH_FILES[half]]) if has_truth else None
        used = np.zeros((len(SPLITS), len(common)), np.int64)
        is_valid = np.zeros(len(common), np.bool_)
        if half == "train":
            is_valid = self.selection.validation_groups(common.groups)
        for block in self._blocks("skeleton", half):
            line = common.find(block.index)
            known = line != ABSENT
            codes = self.selection.splits(block, half, is_valid[line] & known)
            codes[~known] = DROPPED
            unknown = [_unknown_index(block, at) for at in np.flatnonzero(~known).tolist()]
            self.log.add(raw.name, raw.where, [*block.faults, *unknown])
            broken = unclicked(block)
            clicks, conversions = block.labels.sum(axis=0, dtype=np.int64).tolist()
            self.totals[f"{half} clicks"] += clicks
            self.totals[f"{half} conversions"] += conversions
            self.totals[f"{half} conversions without a click"] += int(broken.sum())
            self.broken += int((broken & known).sum())
            self._append(block, common, line, codes, truth)
            for split in range(len(SPLITS)):
                used[split] += np.bincount(line[codes == split], minlength=len(common))
        if of_kind(self.selection.multivalued, "common"):
            place = (np.cumsum(used > 0, axis=1) - 1).astype(np.int32)
            for split in np.flatnonzero(used.any(axis=1)).tolist():
                self.writer.recode(SPLITS[split], "contexts", place[split].__getitem__)
        return used

    def _append(
        self, block: Block, common: CommonFeatures, line: Ids, codes: Codes, truth: "_Truth | None"
    ) -> None:
        """Append skeleton rows to the splits that they belong to, in the order of the file."""
        own, labels = self.selection.columns(block), self.selection.labels(block)
        true = truth.take(block) if truth is not None else None
        own_fields = of_kind(self.selection.categorical, "skeleton")
        shared = bool(of_kind(self.selection.multivalued, "common"))
        for split in sorted(set(codes[codes >= 0].tolist())):
            rows = np.flatnonzero(codes == split)
            at, name = line[rows], SPLITS[split]
            weights = np.hstack([common.weights[at], own.weights[rows]])
            self.lowest = np.minimum(self.lowest, weights.min(axis=0))
            self.highest = np.maximum(self.highest, weights.max(axis=0))
            click, conversion = labels[rows].T
            self.kept[split] += (len(rows), int(click.sum()), int((click & conversion).sum()))
            self.writer.append(name, "ids", np.hstack([common.ids[at], own.ids[rows]]))
            self.writer.append(name, "numeric", weights)
            self.writer.append(name, "labels", labels[rows])
            if true is not None:
                self.writer.append(name, "truth", true[rows])
            self.writer.append(name, "groups", common.groups[at])
            if shared:
                self.writer.append(name, "contexts", at)
            for f, ids in zip(own_fields, own.ids[rows].T, strict=True) if split == TRAIN else ():
                self.counts.add(f, ids)
            for k, f in enumerate(self.selection.multivalued):
                if f.kind == "skeleton":
                    bag = take(own.bags[f.name], rows)
                    self.writer.append_bags(name, k, bag)
                    if split == TRAIN:
                        self.counts.add(f, bag.ids)

    def _write_common_bags(self, half: Half, spilled: list[Path], used: Ints) -> None:
        """Write the bags of the common lines that each split's rows refer to, once each."""
        start = 0
        for number, path in enumerate(spilled):
            bags = _load(path)
            path.unlink()
            end = start + len(next(iter(bags.values())).offsets) - 1
            for split in np.flatnonzero(used.any(axis=1)).tolist():
                times = used[split, start:end]
                rows = np.flatnonzero(times)
                for k, f in enumerate(of_kind(self.selection.multivalued, "common")):
                    bag = take(bags[f.name], rows)
                    self.writer.append_bags(SPLITS[split], k, bag)
                    if split == TRAIN:
                        self.counts.add(f, bag.ids, np.repeat(times[rows], np.diff(bag.offsets)))
            start = end
            share = (number + 1) / len(spilled)
            self.on_rows(RowsProgress(f"writing histories, {half}", start, share))

    def encode(self) -> None:
        """Replace raw ids by those of the vocabularies, and scale numbers.

        Raises:
            DataError: A split lacks rows, clicks or conversions.
        """
        self._check_rows()
        selection, writer = self.selection, self.writer
        for f in selection.fields:
            self.codes[f.name] = self.counts.learn(f, selection.config)
            path = vocabulary_file(writer.folder, f.name)
            self.codes[f.name].vocabulary.table.write_parquet(path)

        def encode_rows(ids: Ids) -> Ids:
            columns = zip(selection.categorical, ids.T, strict=True)
            return np.stack([self.codes[f.name].encode(column) for f, column in columns], axis=1)

        arrays: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
            f"bag{k}_ids": self.codes[f.name].encode for k, f in enumerate(selection.multivalued)
        }
        if selection.categorical:
            arrays["ids"] = encode_rows
        if selection.numeric:
            spread = np.where(self.highest > self.lowest, self.highest - self.lowest, np.float32(1))
            arrays["numeric"] = lambda weights: (weights - self.lowest) / spread
        jobs = [(SPLITS[k], *a) for k in np.flatnonzero(self.kept[:, 0]) for a in arrays.items()]
        rows = int(self.kept[:, 0].sum())
        with ThreadPoolExecutor(self.threads) as pool:
            for done, _ in enumerate(pool.map(lambda job: writer.recode(*job), jobs), 1):
                share = done / len(jobs)
                self.on_rows(RowsProgress("encoding", int(rows * share), share))
        if selection.config.validation == "test":
            writer.copy_split("test", "valid")

    def _check_rows(self) -> None:
        for split, (rows, clicks, conversions) in zip(SPLITS, self._kept().tolist(), strict=True):
            if not rows:
                raise DataError(
                    f"{self.name}: the {split} split is empty; change dataset.validation or "
                    "dataset.valid_fraction"
                )
            counts = np.array([[rows, clicks], [clicks, conversions]])
            check_both_classes(TASKS, counts, f"{self.name}, {split} split")

    def _kept(self) -> Ints:
        """Return `kept`, where the test's rows may validate, too."""
        kept = self.kept.copy()
        if self.selection.config.validation == "test":
            kept[VALID] = kept[TEST]
        return kept

    def finish(self, plain: Mapping[str, Any], snapshot: Mapping[str, Any]) -> None:
        """Write the manifest."""
        totals = self._compare()
        self.writer.finish(
            self._schema(),
            config=plain,
            accounting=self._account(),
            sources=self.sources,
            notes={
                "raw": snapshot,
                "totals": totals,
                "remarks": _remarks(self.selection.config, totals),
                "faults": self.log.examples,
            },
        )

    def _account(self) -> dict[str, int]:
        """Skeleton rows read, and dropped or changed by reason; `read` = kept + dropped."""
        counts = Counter(read=sum(self.totals[f"{half} skeleton rows"] for half in HALVES))
        for half in HALVES:
            for reason, n in self.log.dropped(file_name("skeleton", half)).items():
                counts[f"dropped: {reason}"] += n
        if self.broken:
            counts[f"{TREATED[self.selection.config.unclicked_conversions]}: {UNCLICKED}"] = (
                self.broken
            )
        common = [self.log.dropped(file_name("common", half)) for half in HALVES]
        if left_out := sum(sum(reasons.values()) for reasons in common):
            counts["lines of the common files left out"] = left_out
        return dict(counts)

    def _compare(self) -> dict[str, dict[str, Any]]:
        """What was found beside what the published files hold: name -> found, known."""
        known = KNOWN_TOTALS | {f"distinct {f.name}": f.distinct for f in FIELDS}
        distinct = {f"distinct {name}": n for name, n in self.distinct.counts().items()}
        found = {**self.totals, **distinct}
        return {name: {"found": n, "known": known.get(name)} for name, n in found.items()}

    def _schema(self) -> Schema:
        selection = self.selection
        rows = self._kept()[:, 0].tolist()
        sizes = {name: codes.vocabulary.size for name, codes in self.codes.items()}
        return Schema(
            name=self.name,
            categorical=tuple(
                Categorical(name=f.name, size=sizes[f.name]) for f in selection.categorical
            ),
            multivalued=tuple(
                MultiValued(
                    name=f.name,
                    size=sizes[f.name],
                    pool="sum" if f.name in CROSSED else "mean",
                    shared=f.kind == "common",
                )
                for f in selection.multivalued
            ),
            numeric=tuple(
                Numeric(name=f"D{f.name}", mean=float(low), std=float(high - low) or 1.0)
                for f, low, high in zip(selection.numeric, self.lowest, self.highest, strict=True)
            ),
            tasks=TASKS,
            group=USER,
            rows=dict(zip(SPLITS, rows, strict=True)),
            fingerprint="",
        )


def _unknown_index(block: Block, row: int) -> Fault:
    words = f"index {int(block.index[row]):016x} is not in the common file"
    return Fault(int(block.line[row]), Reason("unknown index", words))


def _save(path: Path, bags: Mapping[str, Bag]) -> None:
    arrays = {
        f"{name}.{part}": a for name, bag in bags.items() for part, a in bag._asdict().items()
    }
    np.savez(path, allow_pickle=False, **arrays)


def _load(path: Path) -> dict[str, Bag]:
    with np.load(path, allow_pickle=False) as file:
        names = sorted({key.partition(".")[0] for key in file})
        return {name: Bag(*(file[f"{name}.{part}"] for part in PARTS)) for name in names}


class _Truth:
    """The true probabilities beside generated files, in the order of the skeleton file's lines."""

    def __init__(self, raw: RawFile) -> None:
        self._raw = raw
        self._frames = delimited.frames(raw, delimited.Layout(types=TRUTH_TYPES))
        self._held, self._first_line = pl.DataFrame(schema=TRUTH_TYPES), 1

    def take(self, block: Block) -> npt.NDArray[np.float64]:
        """Return `[rows, 2]`, P(click) and P(conversion | click), of a block's rows.

        Raises:
            DataError: The file is not a truth file, too short, or of other rows.
        """
        if not len(block.line):
            return np.empty((0, 2))
        last = int(block.line[-1])
        while self._first_line + len(self._held) <= last:
            more = next(self._frames, None)
            if more is None:
                raise DataError(f"{self._raw.where} ends before row {last:,} of the skeleton file")
            self._held = pl.concat([self._held, more])
        rows = self._held[block.line - self._first_line]
        self._held, self._first_line = self._held.slice(last + 1 - self._first_line), last + 1
        if not np.array_equal(rows["sample_id"].to_numpy(), block.sample_id):
            raise DataError(
                f"{self._raw.where}: sample ids differ from the skeleton file's before its line "
                f"{last:,}; the two belong to different data"
            )
        truth: npt.NDArray[np.float64] = rows.select("p_ctr", "p_cvr").to_numpy()
        return truth


def _remarks(config: AliCCPConfig, totals: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the user of the dataset should know: other files than published, unfair splits."""
    said = []
    rows = totals["train skeleton rows"]
    if rows["found"] != rows["known"]:
        said.append(
            f"not the published training file: {rows['found']:,} rows, published {rows['known']:,}"
        )
    else:
        said += [
            f"{name}: {found['found']:,}, published {found['known']:,}"
            for name, found in totals.items()
            if found["known"] is not None and found["found"] != found["known"]
        ]
    if config.validation == "random":
        said.append(
            "validation rows are drawn at random: a user and even a page view is on both sides, so "
            "validation flatters; dataset.validation=user does not"
        )
    if config.validation == "test":
        said.append(
            "the test rows validate too: epochs are chosen on the test, so its scores flatter"
        )
    if config.weights == "numeric":
        said.append("weights are scaled to [0, 1] over all splits, the test included")
    return said
