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
    record.json          the result; written last and atomically, so its presence means done
    lock                 empty; held by the process that runs it
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cvrbench.errors import StoreError
from cvrbench.files import explain_write, write_text
from cvrbench.record import RunRecord, is_config


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, locked by this process."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the stages of an unfinished run are kept."""
        return self.path / "checkpoints"

    def count_test(self) -> int:
        """Note that the test split is scored; give how often it has been, this time included."""
        file = self.path / "test-scored"
        count = 1 + (int(file.read_text()) if file.is_file() else 0)
        write_text(file, str(count))
        return count

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write every look at validation, one JSON object a line."""
        write_text(self.path / "history.jsonl", "".join(json.dumps(h) + "\n" for h in history))

    def write_predictions(self, frame: pl.DataFrame) -> None:
        """Write the test rows' labels and probabilities."""
        file = self.path / "predictions.parquet"
        with explain_write(file):
            frame.write_parquet(file.with_suffix(".tmp"))
            file.with_suffix(".tmp").replace(file)

    def note_failure(self, reason: str | None) -> None:
        """Keep why a try failed; None when it is tried again."""
        file = self.path / "failure.json"
        if reason is not None:
            write_text(file, json.dumps({"reason": reason}) + "\n")
            return
        with explain_write(file):
            file.unlink(missing_ok=True)

    def finish(self, record: RunRecord) -> None:
        """Write the record, which makes the run a finished one, and drop its checkpoints."""
        text = json.dumps(record.to_json(), indent=1, allow_nan=False)
        write_text(self.path / "record.json", text + "\n")
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def read_record(folder: Path) -> RunRecord:
    """Read a run's record.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    return RunRecord.from_json(_read_json(folder / "record.json"), folder / "record.json")


def read_predictions(folder: Path) -> pl.DataFrame:
    """Read a finished run's labels and probabilities on the test rows.

    Raises:
        StoreError: They are missing or damaged.
    """
    file = folder / "predictions.parquet"
    try:
        return pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"{file} cannot be read ({str(error).splitlines()[0]}); run the cell again with --force"
        ) from None


def read_run_config(folder: Path) -> dict[str, Any]:
    """Read config and choices of a run, finished or not.

    Raises:
        StoreError: The folder holds no run.
    """
    saved = _read_json(folder / "config.json")
    if not isinstance(saved, dict) or not (
        is_config(saved.get("config")) and isinstance(saved.get("choices"), dict)
    ):
        raise StoreError(f"{folder / 'config.json'} is not the config of a run")
    return dict(saved)


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


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(), parse_constant=_refuse)
    except FileNotFoundError:
        raise StoreError(f"{path.parent} holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value in JSON")
