"""All runs of a results folder: which there are, and who works at which."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from cvrbench.errors import CellBusy, RunError, StoreError
from cvrbench.runs.folder import (
    RunFolder,
    checked,
    read_failure,
    read_predictions,
    read_record,
    read_run_config,
)
from cvrbench.runs.record import RunRecord, sealed
from cvrbench.system.files import explain_write, forget_temporaries, is_locked, lock, write_text

State = Literal["new", "unfinished", "finished"]


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
