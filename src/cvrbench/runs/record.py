"""What a finished run is on paper: its record, and a name made of all that decides its numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from cvrbench.data.schema import Task
from cvrbench.errors import StoreError
from cvrbench.runs.environment import versions

RECORD_VERSION = 2
NUMBERS = 2
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

Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything about one finished run that a table, a plot or a reviewer may ask for."""

    record_version: int
    run_id: str
    model: str
    dataset: str
    seed: int
    choices: dict[str, str]
    config: dict[str, Any]
    fingerprint: str
    """Fingerprint of the prepared data."""
    tasks: list[dict[str, Any]]
    """Name, label, parent and joint of each task."""
    metrics: dict[str, Metrics]
    """Split -> metric -> value; None where undefined."""
    undefined: dict[str, dict[str, str]]
    """Split -> metric -> why it is None."""
    counts: dict[str, dict[str, dict[str, int]]]
    """Split -> task or joint -> rows and positives; of `train` without hidden labels."""
    test_scored: int
    """How often this cell's test split was scored, earlier forced runs included."""
    parameters: int
    embedding_parameters: int
    multiply_adds: int
    """Multiply-adds of one example's forward pass."""
    seconds: dict[str, float]
    """`search` and `train` (optimiser steps), `total` (wall clock)."""
    examples: dict[str, int]
    """Rows that `search` and `train` computed gradients on."""
    examples_per_second: float
    best_step: int
    best_epoch: float
    diagnostics: dict[str, Any]
    environment: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    """Name -> sha256 of what lies beside the record; empty in records of before it was kept."""

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object, path: Path) -> Self:
        """Rebuild a record from its plain form.

        Raises:
            StoreError: It is no record, is of another version, or lacks a key.
        """
        if not isinstance(data, Mapping):
            raise StoreError(f"{path} is no record of a run but a {type(data).__name__}")
        if data.get("record_version") != RECORD_VERSION:
            raise StoreError(
                f"{path} has record version {data.get('record_version')}, this cvrbench reads "
                f"{RECORD_VERSION}; run the cell again with --force"
            )
        for name, hint in _hints().items():
            if name not in data and name in _optional():
                continue
            if name not in data:
                raise StoreError(f"{path} has no key {name!r}; run the cell again with --force")
            if not _fits(data[name], hint) or not _makes_sense(name, data[name]):
                raise StoreError(
                    f"{path}: {name} is not what a record has there; run the cell again with "
                    "--force"
                )
        if "test" in data["metrics"] and not data["counts"].get("test"):
            raise StoreError(f"{path} has no counts of its test rows; run the cell again")
        return cls(**{name: data[name] for name in _hints() if name in data})


@cache
def _hints() -> dict[str, Any]:
    """Field -> type."""
    return get_type_hints(RunRecord)


@cache
def _optional() -> frozenset[str]:
    """Fields that older records lack."""
    return frozenset(f.name for f in fields(RunRecord) if f.default_factory is not MISSING)


def _makes_sense(name: str, value: Any) -> bool:
    """Whether a key of the right type also holds what others rely on."""
    match name:
        case "tasks":
            return _are_tasks(value)
        case "config":
            return is_config(value)
        case "metrics":
            pairs = [(key, v) for of in value.values() for key, v in of.items() if v is not None]
            return all(0 <= v <= 1 for key, v in pairs if key.endswith("auc"))
    return True


def _are_tasks(values: Sequence[Mapping[str, Any]]) -> bool:
    known: list[Any] = [None]
    for task in values:
        if task.keys() != {field.name for field in fields(Task)}:
            return False
        if not isinstance(task["name"], str) or task["parent"] not in known:
            return False
        known.append(task["name"])
    return True


def is_config(values: object) -> bool:
    """Whether plain values are a config as far as records and reports rely on it."""
    if not isinstance(values, dict):
        return False
    protocol = values.get("protocol", {})
    if not isinstance(protocol, dict):
        return False
    share, task = protocol.get("label_share", 1.0), protocol.get("label_share_task")
    is_share = isinstance(share, int | float) and 0 < share <= 1
    return is_share and (task is None or isinstance(task, str))


def _fits(value: object, hint: Any) -> bool:
    """Whether a plain value is of a field's type, at any depth."""
    of = get_args(hint)
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in of)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(v, of[1]) for v in value.values())
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, of[0]) for item in value)
    return isinstance(value, int | float if hint is float else hint)


def run_id(config: Mapping[str, Any], choices: Mapping[str, str], fingerprint: str) -> str:
    """Name a run: `adult-mmoe-s0-4f1c...`, the end a hash of all that decides its numbers.

    A run that learns from all labels has the name that it had before labels could be hidden.
    """
    free: tuple[str, ...] = ()
    if config.get("protocol", {}).get("label_share", 1.0) == 1:
        free = SCARCITY
    identity = [decisive(config, free), fingerprint, NUMBERS, versions()["torch"]]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return f"{choices['dataset']}-{choices['model']}-s{config['seed']}-{key}"


def decisive(config: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return a config's plain values less `NUMBER_FREE` and the keys in `without`.

    Args:
        config: Plain values, groups as mappings.
        without: More keys to leave out: `group` or `group.key`.
    """
    free = {*NUMBER_FREE, *without}
    return {
        name: {key: v for key, v in value.items() if f"{name}.{key}" not in free}
        if isinstance(value, Mapping)
        else value
        for name, value in config.items()
        if name not in free
    }
