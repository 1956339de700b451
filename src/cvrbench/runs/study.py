"""What is kept of a sweep beside its runs: the only code that knows the layout of `sweeps`.

results_dir/sweeps/<name>/
    journal.log    Optuna's study, unless `storage` names a database
    searches/      trainings of mask searches that trials share, until the study is over
    study.json     a copy of everything that a table or a figure asks for
    best.yaml      the best configuration, as values and as a line for `cvrbench run`
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from cvrbench.config.types import FORBID_EXTRA, Value
from cvrbench.errors import StoreError
from cvrbench.system.files import explain_write, write_text

STUDY_VERSION: Literal[1] = 1
TrialState = Literal["waiting", "running", "complete", "pruned", "failed"]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One dimension of a search space, as a figure needs it."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    kind: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One configuration that was tried."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    number: int
    state: TrialState
    params: dict[str, Value]
    """Key of the config -> value; only the keys that this trial has."""
    words: tuple[str, ...] = ()
    """The same as overrides of a run."""
    values: tuple[float, ...] | None
    """One per objective, the mean over the tuning seeds; None unless complete."""
    by_seed: tuple[tuple[float, ...], ...]
    """Per tuning seed, one per objective; of pruned trials, the seeds that were finished."""
    looks: tuple[tuple[int, float], ...]
    """Step of the study's pruning clock and the first objective there."""
    preset: bool
    """Whether this is the configuration as it was before tuning."""
    runs: tuple[str, ...]
    examples: int
    """Rows that gradients were computed on, searches included, what others had computed excluded.
    """
    reused: int
    """Rows of the trial's mask searches that another trial had computed."""
    seconds: float
    attempts: int
    reason: str | None
    """Why it was pruned or failed."""


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """A whole study."""

    __pydantic_config__: ClassVar = FORBID_EXTRA
    version: Literal[1]
    name: str
    sweep: str
    """The option of `sweep=`."""
    storage: str
    """Where Optuna keeps it, without a password."""
    model: str
    dataset: str
    fingerprint: str
    """Fingerprint of the prepared data."""
    overrides: tuple[str, ...]
    """What all trials have in common."""
    objectives: tuple[str, ...]
    """Validation metrics, or `density`, `multiply_adds`, `parameters`."""
    directions: tuple[Direction, ...]
    sampler: str
    pruner: str
    seeds: tuple[int, ...]
    axes: dict[str, Axis]
    limits: dict[str, int | float | None]
    """`trials`, `epochs`, `examples`, `seconds`: the budget; None where not limited."""
    spent: dict[str, int | float]
    """The same, and `reused`, the examples that sharing searches saved."""
    trials: tuple[TrialSummary, ...]
    best: tuple[int, ...]
    """Number of the best trial; with several objectives, numbers of the Pareto front."""
    importances: dict[str, float] = field(default_factory=dict)
    """Shares of the first objective's variance (PED-ANOVA), where enough trials are complete."""
    chosen: dict[str, Any] | None = None
    """`trial`, `overrides`, `seeds` and `runs` of the final configuration, once it is retrained."""

    def best_words(self) -> list[str]:
        """Return the overrides of the best configuration so far; none without a complete trial.

        With several objectives it is the member of the Pareto front that is best in the first.
        """
        sign = 1 if self.directions[0] == "maximize" else -1
        front = [t for t in self.trials if t.number in self.best and t.values is not None]
        if not front:
            return []
        best = max(front, key=lambda t: (sign * t.values[0] if t.values else 0.0, -t.number))
        return [*self.overrides, *best.words]


SUMMARY = TypeAdapter(StudySummary)


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one sweep."""

    path: Path

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "journal.log"

    @property
    def searches(self) -> Path:
        """Trainings of mask searches that trials share."""
        return self.path / "searches"

    @property
    def best(self) -> Path:
        """The best configuration."""
        return self.path / "best.yaml"

    def forget_searches(self) -> None:
        """Remove what trials shared, once there are no more trials to come."""
        shutil.rmtree(self.searches, ignore_errors=True)

    def write(self, summary: StudySummary) -> None:
        """Write the summary, whole or not at all."""
        text = json.dumps(asdict(summary), indent=1, allow_nan=False)
        with explain_write(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "study.json", text + "\n")

    def read(self) -> StudySummary:
        """Read the summary.

        Raises:
            StoreError: There is none, or it cannot be read.
        """
        file = self.path / "study.json"
        try:
            return SUMMARY.validate_json(file.read_text())
        except FileNotFoundError:
            raise StoreError(f"{self.path} holds no study.json; no trial has ended yet") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "it"
            why = f"{place}: {first['msg']}"
            raise StoreError(f"{file} cannot be read: {why}; run the sweep again") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{file} cannot be read: {error}; run the sweep again") from None


class Studies:
    """All sweeps of one results folder."""

    def __init__(self, results_dir: Path) -> None:
        self.path = results_dir / "sweeps"

    def folder(self, name: str) -> StudyFolder:
        """Return the folder of a study, there or not."""
        return StudyFolder(self.path / name)

    def names(self) -> list[str]:
        """Names of all studies, sorted."""
        return sorted(folder.name for folder in self.path.glob("*") if folder.is_dir())

    def find(self, name: str) -> StudyFolder:
        """Find a study by its name, or by a part that fits only one.

        Raises:
            StoreError: None fits, or several do.
        """
        names = self.names()
        fitting = [name] if name in names else [n for n in names if name in n]
        if len(fitting) == 1:
            return self.folder(fitting[0])
        if not fitting:
            there = f" There are: {', '.join(names)}" if names else " There is none."
            raise StoreError(f"no sweep {name!r} in {self.path}.{there}")
        raise StoreError(f"{name!r} fits {len(fitting)} sweeps: {', '.join(fitting[:5])}")
