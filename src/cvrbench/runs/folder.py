"""One run's folder: what lies in it, written and read here alone.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from cvrbench.data.dataset import sha256_of
from cvrbench.errors import StoreError
from cvrbench.runs.record import RunRecord, is_config, is_intact, sealed
from cvrbench.system.files import atomic_write, explain_write, forget_temporaries, write_text

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
