"""All runs of a results folder: what lies in one run's folder, and who works at which.

results_dir/runs/<run id>/
    config.json          resolved config, chosen options; written first
    checkpoints/         of a run under way; gone when it is finished
    failure.json         why the last try failed; gone when it is tried again
    history.jsonl        one line per look at validation, searches included
    predictions.parquet  labels and probabilities of the test rows, in their order
    best.safetensors     weights that validated best
    masks.safetensors    masks, of strategies that have some
    test-scored          how often the test split was scored
    tracked.json         what a tracker was told, if one was
    record.json          the result, with the sha256 of the files above; written last and
                         atomically, so its presence means done
    lock                 empty; held by the process that runs it
results_dir/vocabularies/<fingerprint>/
    manifest.json, vocabulary/    those of the prepared data, once for all runs on them, so that
                                  `predict` and `export` work where the data are gone

No part of these paths below `results_dir` may be a link.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import StringConstraints, TypeAdapter

from cvrbench.config.types import OPTION
from cvrbench.data.dataset import Dataset, keep_vocabularies, sha256_of
from cvrbench.errors import CellBusy, RunError, StoreError
from cvrbench.runs.record import (
    CHANGED,
    RUN_AGAIN,
    RunRecord,
    SavedConfig,
    parse,
    read_stored,
    write_stored,
)
from cvrbench.system.files import (
    TEXT_BYTES,
    atomic_write,
    check_no_links,
    explain_write,
    forget_temporaries,
    is_locked,
    lock,
    make_folder,
    read_bytes,
    remove,
    write_text,
)
from cvrbench.system.parquet import parquet_size

RESULTS = ("best.safetensors", "masks.safetensors", "history.jsonl", "predictions.parquet")
"""What a record keeps the checksums of, where the run has it."""
HISTORY_BYTES = 2**30
"""Largest history that is read."""
PER_PREDICTION = 40
"""Bytes of a prediction in memory, at most, as `parquet_size` counts them."""
Option = Annotated[str, StringConstraints(pattern=OPTION.replace(r"\Z", r"\z"))]
State = Literal["new", "unfinished", "finished"]


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What a run's `config.json` holds."""

    config: SavedConfig
    choices: dict[str, Option]
    """Group -> option."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    reason: str


SAVED_RUN, FAILURE = TypeAdapter(SavedRun), TypeAdapter(_Failure)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, locked by this process."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the stages of an unfinished run are kept."""
        return self.path / "checkpoints"

    def count_test(self) -> int:
        """Note that the test split is scored; return how often it has been, this time included.

        A run that was killed while it scored scores again when it is resumed: the same rows by the
        same weights to the same end, of which nobody has seen anything. That is one time.
        """
        file, this_try = self.path / "test-scored", self.checkpoints / "test-scored"
        before = _read_count(file) if file.exists() else 0
        known = 0
        with suppress(StoreError):  # a record that cannot be read says nothing of it
            known = read_record(self.path).test_scored
        if before < known:
            raise _wrong_count(file, f"{before}, less than the record's {known}")
        if not this_try.exists():
            write_text(this_try, str(before + 1))
        count = _read_count(this_try)
        if count - before not in (0, 1):
            raise _wrong_count(this_try, f"{count} after {before}")
        write_text(file, str(count))
        return count

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write every look at validation, one JSON object a line."""
        write_text(self.path / "history.jsonl", "".join(json.dumps(h) + "\n" for h in history))

    def write_predictions(self, frame: pl.DataFrame) -> None:
        """Write the test rows' labels and probabilities."""
        with atomic_write(self.path / "predictions.parquet") as temporary:
            frame.write_parquet(temporary)

    def note_failure(self, reason: str | None) -> None:
        """Keep why a try failed; None when it is tried again."""
        file = self.path / "failure.json"
        if reason is not None:
            write_stored(file, {"reason": reason})
            return
        with explain_write(file):
            file.unlink(missing_ok=True)

    def finish(self, record: RunRecord) -> RunRecord:
        """Write the record, which makes the run a finished one, and drop its checkpoints.

        Returns:
            The record with the checksums of what lies beside it.

        Raises:
            StoreError: The folder was removed, or emptied, while the run was under way.
        """
        if not (self.path / "config.json").is_file():
            raise StoreError(
                f"{self.path} was removed or emptied while the run was under way, and its results "
                "with it; run it again"
            )
        there = (name for name in RESULTS if (self.path / name).is_file())
        record = replace(record, files={name: sha256_of(self.path / name) for name in there})
        write_stored(self.path / "record.json", record.to_json())
        with explain_write(self.path):
            if self.checkpoints.is_dir():  # at once: half of them would be computed again
                self.checkpoints.replace(self.path / "checkpoints.tmp")
            forget_temporaries(self.path)
        return record


def read_record(folder: Path) -> RunRecord:
    """Read a run's record.

    Raises:
        StoreError: There is none, it cannot be read, or it is another run's.
    """
    file = folder / "record.json"
    record = RunRecord.from_json(read_stored(file), file)
    if record.run_id != folder.resolve().name:
        raise StoreError(
            f"{file} is the record of {record.run_id}, in a folder of another name; give the "
            "folder its name back, or remove it"
        )
    return record


def read_predictions(folder: Path) -> pl.DataFrame:
    """Read a finished run's labels and probabilities on the test rows.

    Raises:
        StoreError: They are missing or damaged, or unpack to more than there were test rows.
    """
    file = checked(folder, "predictions.parquet")
    try:
        size = parquet_size(file)
        if size.n_bytes > TEXT_BYTES:  # too much to be read on its own word
            counts = read_record(folder).counts.get("test", {}).values()
            rows = max((count.get("rows", 0) for count in counts), default=0)
            if size.n_bytes > TEXT_BYTES + PER_PREDICTION * rows * size.columns:
                raise ValueError(f"it says {size.rows:,} rows, and the record {rows:,}")
        return pl.read_parquet(file, glob=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        why = str(error).partition("\n")[0]
        raise StoreError(f"{file} cannot be read ({why}); {RUN_AGAIN}") from None


def checked(folder: Path, name: str) -> Path:
    """Return a file of a run, once it is seen to be what the run's record says; or not there.

    Raises:
        StoreError: Its content is not what it was when the record was written.
    """
    file = folder / name
    if file.is_file() and (folder / "record.json").is_file():
        known, now = read_record(folder).files.get(name), file.stat()
        found = known and _sha256_at(file, now.st_ino, now.st_size, now.st_mtime_ns)
        if found != known:
            raise StoreError(f"{file} {CHANGED.format(mend=RUN_AGAIN)}")
    return file


@lru_cache(maxsize=1024)
def _sha256_at(file: Path, *_: int) -> str:
    """Hash a file's content; once, as long as it has the same number, size and time."""
    return sha256_of(file)


def read_run_config(folder: Path) -> SavedRun:
    """Read config and choices of a run, finished or not.

    Raises:
        StoreError: The folder holds no run.
    """
    file = folder / "config.json"
    return parse(read_stored(file, "run the cell again"), SAVED_RUN, file, "run the cell again")


def require_finished(folder: Path) -> None:
    """Refuse a run that is not finished.

    Raises:
        RunError: It is unfinished.
    """
    if (folder / "checkpoints").is_dir() or not (folder / "record.json").is_file():
        raise RunError(f"{folder} is unfinished; end it with `cvrbench resume {folder}`")


def _read_count(file: Path) -> int:
    try:
        count = int(read_bytes(file, most=100))
    except (OSError, ValueError) as error:
        raise _wrong_count(file, str(error)) from None
    if count < 0:
        raise _wrong_count(file, str(count))
    return count


def _wrong_count(file: Path, why: str) -> StoreError:
    return StoreError(
        f"{file} cannot be read ({why}); write the number into it that record.json has as "
        "test_scored, or remove it if the cell has none"
    )


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A folder whose record, or whose config if it is unfinished, says nothing to us."""

    folder: Path
    why: str
    """One sentence, which names the file."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that was begun and has no record."""

    folder: Path
    config: dict[str, Any]
    choices: dict[str, str]
    failure: str | None
    """Why its last try failed; None of one that was stopped or killed, or is running."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All that a results folder has of runs."""

    records: list[RunRecord]
    """Of finished runs, by dataset, model and seed."""
    unreadable: list[Unreadable]
    """By folder: half-written, foreign, or of another version of cvrbench."""
    begun: list[Unfinished] = field(default_factory=list)
    """By folder."""


class ResultStore:
    """All runs of one results folder."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir
        self.runs = results_dir / "runs"
        self.vocabularies = results_dir / "vocabularies"

    def state(self, run_id: str) -> State:
        """Return whether a run is finished, begun or new."""
        folder = self.runs / run_id
        if (folder / "checkpoints").is_dir():
            return "unfinished"
        return "finished" if (folder / "record.json").is_file() else "new"

    def find(self, run_id: str) -> RunRecord | None:
        """Read the record of a finished run, None if it is not finished."""
        if self.state(run_id) != "finished":
            return None
        return read_record(self.runs / run_id)

    def survey(self) -> Survey:
        """Read all runs; what cannot be read is named, and is no reason to stop."""
        records: list[RunRecord] = []
        begun: list[Unfinished] = []
        unreadable: dict[Path, str] = {}
        for folder in sorted({f.parent for f in self.runs.glob("*/record.json")}):
            try:
                records.append(read_record(folder))
            except StoreError as problem:
                unreadable[folder] = str(problem)
        for folder in self.unfinished():
            try:
                begun.append(
                    Unfinished(
                        **vars(read_run_config(folder)), folder=folder, failure=_failure(folder)
                    )
                )
            except StoreError as problem:
                unreadable.setdefault(folder, str(problem))
        records.sort(key=lambda r: (r.dataset, r.model, r.seed, r.run_id))
        bad = [Unreadable(folder=folder, why=why) for folder, why in sorted(unreadable.items())]
        return Survey(records=records, begun=begun, unreadable=bad)

    def records(self) -> list[RunRecord]:
        """Return the records of the `survey` alone."""
        return self.survey().records

    def predictions(self, run_id: str) -> pl.DataFrame:
        """Read a finished run's labels and probabilities on the test rows.

        Raises:
            StoreError: They are missing or damaged.
        """
        return read_predictions(self.runs / run_id)

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """Read every look at validation of a finished run, searches included.

        Raises:
            StoreError: They are missing or damaged.
        """
        file = checked(self.runs / run_id, "history.jsonl")
        try:
            return [json.loads(line) for line in read_bytes(file, most=HISTORY_BYTES).splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{file} cannot be read ({error}); {RUN_AGAIN}") from None

    def unfinished(self) -> list[Path]:
        """Folders of runs that were begun and not finished."""
        return sorted(folder.parent for folder in self.runs.glob("*/checkpoints"))

    def folder(self, run: str) -> Path:
        """Find a run's folder by path, by id, or by a part of the id that fits only one.

        Raises:
            StoreError: None fits, or several do.
        """
        for path in (Path(run), self.runs / run):
            if (path / "config.json").is_file():
                return path
        fitting = sorted(p.parent for p in self.runs.glob("*/config.json") if run in p.parent.name)
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise StoreError(f"no run {run!r} in {self.runs}; `cvrbench ls` lists them")
        names = ", ".join(p.name for p in fitting[:5])
        raise StoreError(f"{run!r} fits {len(fitting)} runs: {names}; give more of the name")

    def remove(self, run_id: str) -> None:
        """Remove a run's folder with all that is in it.

        Raises:
            CellBusy: A process is running it.
            StoreError: It is a link, or the system refuses.
        """
        path = self.runs / run_id
        check_no_links(path, within=self.results_dir)
        with lock(path / "lock") as held:
            if not held:
                raise CellBusy(f"{path}: a process is running it; nothing of it is removed")
            with explain_write(path):
                remove(path, within=self.results_dir)

    def discard(self, run_id: str) -> None:
        """Empty the folder of an unfinished run, of which nothing is wanted any more.

        Its lock stays: another process may be waiting for that very file.
        """
        if self.state(run_id) == "unfinished":
            for name in ("checkpoints", "config.json"):
                with suppress(OSError):
                    remove(self.runs / run_id / name, within=self.results_dir)

    @contextmanager
    def open(
        self, run_id: str, *, config: Mapping[str, Any], choices: Mapping[str, str], fresh: bool
    ) -> Iterator[RunFolder]:
        """Make or enter a run's folder and keep other processes out of it.

        A run that another process has finished meanwhile is left as it is, unless `fresh`.

        Args:
            run_id: Name of the run.
            config: Resolved config, as plain values.
            choices: Group -> option.
            fresh: Forget an earlier run's checkpoints; its record stays until the new one is whole.

        Raises:
            CellBusy: Another process works in the folder.
            StoreError: The folder is not writable, or is or holds a link to another one.
            RunError: From within, once it is noted in the folder.
        """
        path = make_folder(self.runs / run_id, within=self.results_dir)
        with lock(path / "lock") as held:
            if not held:
                raise CellBusy(f"{path}: another process is running this cell")
            folder = RunFolder(path)
            check_no_links(folder.checkpoints, within=path)
            if fresh or self.state(run_id) != "finished":
                with explain_write(path):
                    if fresh:
                        remove(folder.checkpoints, within=path)
                    folder.checkpoints.mkdir(exist_ok=True)
                forget_temporaries(path)
                forget_temporaries(folder.checkpoints)
                write_stored(
                    path / "config.json", {"config": dict(config), "choices": dict(choices)}
                )
                folder.note_failure(None)
            try:
                yield folder
            except RunError as error:
                folder.note_failure(str(error))
                raise

    def keep_vocabularies(self, dataset: Dataset) -> None:
        """Keep what predictions for other rows need of a dataset.

        Raises:
            StoreError: The folder is not writable, or is a link.
        """
        folder = make_folder(self.vocabularies, within=self.results_dir)
        with explain_write(folder):
            keep_vocabularies(dataset, folder / dataset.schema.fingerprint)

    def tidy(self, run_id: str) -> None:
        """Remove what a process left of a finished run that was killed in its last instant."""
        path = self.runs / run_id
        if any(path.glob("*.tmp")):
            # A folder that is read-only by now is still read.
            with suppress(StoreError, OSError):
                check_no_links(path, within=self.results_dir)
                with lock(path / "lock") as held:
                    if held:
                        forget_temporaries(path)

    def is_busy(self, run_id: str) -> bool:
        """Return whether some process is running a run."""
        return is_locked(self.runs / run_id / "lock")


def _failure(folder: Path) -> str | None:
    """Return why a run's last try failed; None where it did not."""
    file, mend = folder / "failure.json", "remove it"
    if not file.exists():
        return None
    try:
        return parse(read_stored(file, mend), FAILURE, file, mend).reason
    except StoreError as problem:
        return str(problem)
