"""What a finished run is on paper: its record, and a name made of all that decides its numbers.

All JSON of a results folder is written by `write_stored`, with a checksum, and read by
`read_stored` and `parse`: of the declared types, or refused in a sentence.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge
from pydantic import AfterValidator, TypeAdapter, ValidationError

from cvrbench.config.validate import current_keys
from cvrbench.data.schema import Task
from cvrbench.errors import StoreError
from cvrbench.runs.environment import versions
from cvrbench.system.files import is_intact, read_json, sealed, write_text

RECORD_VERSION = 2
NUMBERS = 5
"""Version of the numbers that the code computes, a part of the identity of runs and of shared
trainings, so that results of other code are never read as today's. Raised whenever a result can
move, with a sentence under *Numbers changed* in the CHANGELOG; `tests/golden` fails otherwise."""
NUMBER_FREE = (
    "data_dir",
    "results_dir",
    "logger",
    "trainer.checkpoint_seconds",
    "trainer.check_memory",
    "trainer.data",
    "trainer.threads",
)
"""Keys of the config that change no number, and so are no part of any identity. The only list of
them: whatever is not here distinguishes runs, and trainings that runs share."""

SCARCITY = ("protocol.label_share", "protocol.label_share_task")
"""Keys that hide labels; without effect where all are kept."""

LATE: dict[str, Any] = {"objective.losses": {}}
"""Keys that no identity has while they say what was done before they could be chosen."""

MAY_DIFFER = (
    "seconds",
    "examples_per_second",
    "environment.begun",
    "environment.finished",
    "environment.command",
    "environment.together",
    "environment.data",
)
"""Keys of a record that may differ between a run that was stopped and resumed and one that was not:
times, the command, and whether seeds trained together or rows lay in memory, which change no
number. The only list of them: whatever is not here is equal on the same machine and commit."""

RUN_AGAIN = "run the cell again with --force"
CHANGED = (
    "cannot be read (its checksum says that it was changed or damaged since it was written); put "
    "it back from a copy, or {mend}"
)
T = TypeVar("T")
N = Annotated[int, Ge(0)]
Metrics = dict[str, float | None]


def _check_aucs(metrics: dict[str, Metrics]) -> dict[str, Metrics]:
    for split, values in metrics.items():
        for name, value in values.items():
            if name.endswith("auc") and value is not None and not 0 <= value <= 1:
                raise ValueError(f"{split} {name} is {value}")
    return metrics


def _check_tasks(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known: list[Any] = [None]
    for task in tasks:
        if task.keys() - {"kind"} != {field.name for field in fields(Task)} - {"kind"}:
            raise ValueError("a task has other keys")
        if task.get("kind", "binary") not in ("binary", "ratio"):
            raise ValueError(f"a task is of the kind {task['kind']!r}")
        if not isinstance(task["name"], str) or task["parent"] not in known:
            raise ValueError("a task has no name, or a parent that is no task before it")
        known.append(task["name"])
    return tasks


GROUPS = ("balancing", "dataset", "interaction", "model", "objective", "protocol", "trainer")


def _check_config(config: dict[str, Any]) -> dict[str, Any]:
    """Check what records and reports rely on; whoever runs a config has all of it checked."""
    for group in GROUPS:
        if not isinstance(config.get(group, {}), dict):
            raise ValueError(f"{group} is no group")
    protocol = config.get("protocol", {})
    share, task = protocol.get("label_share", 1.0), protocol.get("label_share_task")
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"protocol.label_share is {share}")
    if not isinstance(task, str | None):
        raise ValueError(f"protocol.label_share_task is {task}")
    return current_keys(config)


SavedConfig = Annotated[dict[str, Any], AfterValidator(_check_config)]
"""A run's resolved config, as plain values; keys of older ones are grouped as they are today."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything about one finished run that a table, a plot or a reviewer may ask for."""

    record_version: int
    run_id: str
    model: str
    dataset: str
    seed: int
    choices: dict[str, str]
    config: SavedConfig
    fingerprint: str
    """Fingerprint of the prepared data."""
    tasks: Annotated[list[dict[str, Any]], AfterValidator(_check_tasks)]
    """Name, label, parent and joint of each task, and the kind of one that is not binary."""
    metrics: Annotated[dict[str, Metrics], AfterValidator(_check_aucs)]
    """Split -> metric -> value; None where undefined."""
    undefined: dict[str, dict[str, str]]
    """Split -> metric -> why it is None."""
    counts: dict[str, dict[str, dict[str, N]]]
    """Split -> task or joint -> rows and positives; of `train` without hidden labels."""
    test_scored: N
    """How often this cell's test split was scored, earlier forced runs included."""
    parameters: N
    embedding_parameters: N
    multiply_adds: N
    """Multiply-adds of one example's forward pass."""
    seconds: dict[str, float]
    """`search` and `train` (optimiser steps), `total` (wall clock)."""
    examples: dict[str, int]
    """Rows that `search` and `train` computed gradients on."""
    examples_per_second: float
    best_step: N
    best_epoch: float
    diagnostics: dict[str, Any]
    environment: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    """Name -> sha256 of what lies beside the record; empty in records of before it was kept."""

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)

    @staticmethod
    def from_json(data: object, path: Path) -> "RunRecord":
        """Rebuild a record from its plain form.

        Raises:
            StoreError: It is no record, is of another version, or a key is missing or wrong.
        """
        version = data.get("record_version") if isinstance(data, Mapping) else RECORD_VERSION
        if version != RECORD_VERSION:
            raise StoreError(
                f"{path} has record version {version}, this cvrbench reads {RECORD_VERSION}; "
                f"{RUN_AGAIN}"
            )
        record = parse(data, RECORD, path, RUN_AGAIN)
        if "test" in record.metrics and not record.counts.get("test"):
            raise StoreError(f"{path} has no counts of its test rows; {RUN_AGAIN}")
        return record


RECORD = TypeAdapter(RunRecord)


def write_stored(file: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON with a checksum, whole or not at all.

    Raises:
        StoreError: The disk is full or the folder not writable.
        ValueError: A number is not finite.
    """
    write_text(file, json.dumps(sealed(values), indent=1, allow_nan=False) + "\n")


def read_stored(file: Path, mend: str = RUN_AGAIN) -> Any:
    """Read plain values that `write_stored` wrote, or an older version without a checksum.

    Args:
        file: It is read whole, unless it is no regular file or far too large.
        mend: What to do about a bad file, in a message.

    Raises:
        StoreError: There is no such file, it cannot be read, or it has changed.
    """
    try:
        values = read_json(file)
        intact = is_intact(values)
    except FileNotFoundError:
        raise StoreError(f"{file.parent} holds no {file.name}; {mend}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{file} cannot be read: {error}; {mend}") from None
    if not intact:
        raise StoreError(f"{file} {CHANGED.format(mend=mend)}")
    if isinstance(values, dict):
        values.pop("checksum", None)
    return values


def parse(values: object, model: TypeAdapter[T], file: Path, mend: str = RUN_AGAIN) -> T:
    """Turn plain values into what a stored file must hold, without converting any.

    Raises:
        StoreError: A value is missing, or of another type or range.
    """
    try:
        return model.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise StoreError(f"{file} cannot be read: {place}: {first['msg']}; {mend}") from None


def run_id(config: Mapping[str, Any], choices: Mapping[str, str], fingerprint: str) -> str:
    """Name a run: `adult-mmoe-s0-4f1c...`, the end a hash of all that decides its numbers.

    A run that learns from all labels has the name that it had before labels could be hidden. The
    place of a table is no part of it: the fingerprint says what lay there.
    """
    free: tuple[str, ...] = ("dataset.path",)
    if config.get("protocol", {}).get("label_share", 1.0) == 1:
        free += SCARCITY
    identity = [decisive(config, free), fingerprint, NUMBERS, versions()["torch"]]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return f"{choices['dataset']}-{choices['model']}-s{config['seed']}-{key}"


def decisive(config: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return a config's plain values less `NUMBER_FREE`, what `LATE` has, and keys in `without`.

    Args:
        config: Plain values, groups as mappings.
        without: More keys to leave out: `group` or `group.key`.
    """
    free = {*NUMBER_FREE, *without}
    free |= {key for key, before in LATE.items() if _value(config, key) == before}
    return {
        name: {key: v for key, v in value.items() if f"{name}.{key}" not in free}
        if isinstance(value, Mapping)
        else value
        for name, value in config.items()
        if name not in free
    }


def _value(config: Mapping[str, Any], key: str) -> Any:
    group, _, name = key.partition(".")
    values = config.get(group)
    return values.get(name) if isinstance(values, Mapping) else None
