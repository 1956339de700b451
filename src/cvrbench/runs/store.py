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
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import polars as pl

from cvrbench.data.dataset import sha256_of
from cvrbench.errors import CellBusy, RunError, StoreError
from cvrbench.runs.record import RunRecord, is_config
from cvrbench.system.files import (
    atomic_write,
    explain_write,
    forget_temporaries,
    is_intact,
    is_locked,
    lock,
    sealed,
    write_text,
)

State = Literal["new", "unfinished", "finished"]
RESULTS = ("best.safetensors", "masks.safetensors", "history.jsonl", "predictions.parquet")
"""What a record keeps the checksums of, where the run has it."""
OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What an option of a config group may be called."""
CHANGED = (
    "cannot be read (its checksum says that it was changed or damaged since it was written); put "
    "it back from a copy, or run the cell again with --force"
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, locked by this process."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the stages of an unfinished run are kept."""
        return self.path / "checkpoints"

    def count_test(self) -> int:
        """Note that the test split is scored; give how often it has been, this time included.

        A run that was killed while it scored scores again when it is resumed: the same rows by the
        same weights to the same end, of which nobody has seen anything. That is one time.
        """
        file, this_try = self.path / "test-scored", self.checkpoints / "test-scored"
        if not this_try.is_file():
            write_text(this_try, str(1 + (_read_count(file) if file.is_file() else 0)))
        count = _read_count(this_try)
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
            write_text(file, json.dumps({"reason": reason}) + "\n")
            return
        with explain_write(file):
            file.unlink(missing_ok=True)

    def finish(self, record: RunRecord) -> RunRecord:
        """Write the record, which makes the run a finished one, and drop its checkpoints.

        Returns:
            The record with the checksums of what lies beside it.
        """
        there = (name for name in RESULTS if (self.path / name).is_file())
        record = replace(record, files={name: sha256_of(self.path / name) for name in there})
        text = json.dumps(sealed(record.to_json()), indent=1, allow_nan=False)
        write_text(self.path / "record.json", text + "\n")
        with explain_write(self.path):
            if self.checkpoints.is_dir():  # at once: half of them would be computed again
                self.checkpoints.replace(self.path / "checkpoints.tmp")
            forget_temporaries(self.path)
        return record


def read_record(folder: Path) -> RunRecord:
    """Read a run's record.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    file = folder / "record.json"
    found = _read_json(file)
    record = RunRecord.from_json(found, file)
    if not is_intact(found):
        raise StoreError(f"{file} {CHANGED}")
    return record


def read_predictions(folder: Path) -> pl.DataFrame:
    """Read a finished run's labels and probabilities on the test rows.

    Raises:
        StoreError: They are missing or damaged.
    """
    file = checked(folder, "predictions.parquet")
    try:
        return pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"{file} cannot be read ({str(error).splitlines()[0]}); run the cell again with --force"
        ) from None


def checked(folder: Path, name: str) -> Path:
    """Return a file of a run, once it is seen to be what the run's record says; or not there.

    Raises:
        StoreError: Its content is not what it was when the record was written.
    """
    file, record = folder / name, folder / "record.json"
    if file.is_file() and record.is_file():
        found = _read_json(record)
        files = found.get("files") if isinstance(found, dict) else None
        known = files.get(name) if isinstance(files, dict) else None
        now = file.stat()
        if known is not None and known != _sha256_at(
            file, now.st_ino, now.st_size, now.st_mtime_ns
        ):
            raise StoreError(f"{file} {CHANGED}")
    return file


@lru_cache(maxsize=1024)
def _sha256_at(file: Path, *_: int) -> str:
    """Hash a file's content; once, as long as it has the same number, size and time."""
    return sha256_of(file)


def read_run_config(folder: Path) -> dict[str, Any]:
    """Read config and choices of a run, finished or not.

    Raises:
        StoreError: The folder holds no run.
    """
    saved = _read_json(folder / "config.json")
    if not isinstance(saved, dict) or not (
        is_config(saved.get("config")) and _are_choices(saved.get("choices"))
    ):
        raise StoreError(f"{folder / 'config.json'} is not the config of a run")
    if not is_intact(saved):
        raise StoreError(f"{folder / 'config.json'} {CHANGED}")
    return dict(saved)


def _are_choices(values: object) -> bool:
    """Whether every group has the name of an option, which is a part of paths: and no path."""
    return isinstance(values, dict) and all(
        isinstance(name, str) and OPTION.fullmatch(name) for name in values.values()
    )


def read_failure(folder: Path) -> str | None:
    """Read why a run's last try failed; None where it did not.

    Raises:
        StoreError: The file is damaged.
    """
    file = folder / "failure.json"
    if not file.is_file():
        return None
    saved = _read_json(file)
    if not isinstance(saved, dict) or not isinstance(saved.get("reason"), str):
        raise StoreError(f"{file} does not tell why a run failed")
    return str(saved["reason"])


def _read_count(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{file} cannot be read ({error}); write the number into it that record.json has as "
            "test_scored, or remove it if the cell has none"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(), parse_constant=_refuse)
    except FileNotFoundError:
        raise StoreError(f"{path.parent} holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value in JSON")


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A folder whose record says nothing to us."""

    folder: Path
    why: str
    """One sentence, which names the file."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All that a results folder has of finished runs."""

    records: list[RunRecord]
    """By dataset, model and seed."""
    unreadable: list[Unreadable]
    """By folder: half-written, foreign, or of another version of cvrbench."""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that was begun and has no record."""

    folder: Path
    config: dict[str, Any]
    choices: dict[str, str]
    failure: str | None
    """Why its last try failed; None of one that was stopped or killed, or is running."""


class ResultStore:
    """All runs of one results folder."""

    def __init__(self, results_dir: Path) -> None:
        self.runs = results_dir / "runs"

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
        """Read all finished runs; what cannot be read is named, and is no reason to stop."""
        records, unreadable = [], []
        for file in sorted(self.runs.glob("*/record.json")):
            try:
                records.append(_read_own_record(file.parent))
            except StoreError as problem:
                unreadable.append(Unreadable(folder=file.parent, why=str(problem)))
        records.sort(key=lambda r: (r.dataset, r.model, r.seed, r.run_id))
        return Survey(records=records, unreadable=unreadable)

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
            return [json.loads(line) for line in file.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{file} cannot be read ({error}); run the cell again with --force"
            ) from None

    def unfinished(self) -> list[Path]:
        """Folders of runs that were begun and not finished."""
        return sorted(folder.parent for folder in self.runs.glob("*/checkpoints"))

    def begun(self) -> list[Unfinished]:
        """Read what is known of unfinished runs; nothing of a folder whose config is damaged."""
        found = []
        for folder in self.unfinished():
            with suppress(StoreError):
                saved = read_run_config(folder)
                config, choices, failure = saved["config"], saved["choices"], None
                with suppress(StoreError):
                    failure = read_failure(folder)
                found.append(
                    Unfinished(folder=folder, config=config, choices=choices, failure=failure)
                )
        return found

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

    def discard(self, run_id: str) -> None:
        """Empty the folder of an unfinished run, of which nothing is wanted any more.

        Its lock stays: another process may be waiting for that very file.
        """
        if self.state(run_id) == "unfinished":
            shutil.rmtree(self.runs / run_id / "checkpoints", ignore_errors=True)
            (self.runs / run_id / "config.json").unlink(missing_ok=True)

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
            StoreError: The folder is not writable.
            RunError: From within, once it is noted in the folder.
        """
        path = self.runs / run_id
        with explain_write(path):
            path.mkdir(parents=True, exist_ok=True)
        with lock(path / "lock") as held:
            if not held:
                raise CellBusy(f"{path}: another process is running this cell")
            folder = RunFolder(path)
            if fresh:
                shutil.rmtree(folder.checkpoints, ignore_errors=True)
            if fresh or self.state(run_id) != "finished":
                with explain_write(path):
                    folder.checkpoints.mkdir(exist_ok=True)
                forget_temporaries(path)
                forget_temporaries(folder.checkpoints)
                saved = sealed({"config": dict(config), "choices": dict(choices)})
                write_text(path / "config.json", json.dumps(saved, indent=1) + "\n")
                folder.note_failure(None)
            try:
                yield folder
            except RunError as error:
                folder.note_failure(str(error))
                raise

    def tidy(self, run_id: str) -> None:
        """Remove what a process left of a finished run that was killed in its last instant."""
        path = self.runs / run_id
        if any(path.glob("*.tmp")):
            # A folder that is read-only by now is still read.
            with suppress(StoreError, OSError), lock(path / "lock") as held:
                if held:
                    forget_temporaries(path)

    def is_busy(self, run_id: str) -> bool:
        """Return whether some process is running a run."""
        return is_locked(self.runs / run_id / "lock")


def _read_own_record(folder: Path) -> RunRecord:
    """Read a record that must be where its run was, or it would be read for another's."""
    record = read_record(folder)
    if record.run_id != folder.name:
        raise StoreError(
            f"{folder / 'record.json'} is the record of {record.run_id}, in a folder of another "
            "name; give the folder its name back, or remove it"
        )
    return record
