"""What is kept of a sweep beside its runs: the only code that knows the layout of `sweeps`.

results_dir/sweeps/<name>/
    journal.log    Optuna's study, unless `storage` names a database
    searches/      trainings of mask searches that trials share, until the study is over
    study.json     a copy of everything that a table or a figure asks for
    best.yaml      the best configuration, as values and as a line for `cvrbench run`
"""

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, TypeAdapter

from cvrbench.config.types import FORBID_EXTRA, Value
from cvrbench.errors import StoreError
from cvrbench.runs.record import N, parse, read_stored, write_stored
from cvrbench.system.files import make_folder, remove

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
    number: N
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
    examples: N
    """Rows that gradients were computed on, searches included, what others had computed excluded.
    """
    reused: N
    """Rows of the trial's mask searches that another trial had computed."""
    seconds: float
    attempts: int
    reason: str | None
    """Why it was pruned or failed."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The final configuration, once it is retrained."""

    __pydantic_config__: ClassVar = FORBID_EXTRA

    trial: int
    overrides: list[str]
    runs: list[str]
    seeds: list[int] = field(default_factory=list)


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
    """Plain values of `Chosen`."""

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


def _check(study: StudySummary) -> StudySummary:
    """Check what tables and figures rely on beyond the types."""
    n = len(study.objectives)
    if n == 0 or len(study.directions) != n:
        raise ValueError(f"{len(study.directions)} directions of {n} objectives")
    complete = {trial.number for trial in study.trials if trial.state == "complete"}
    for trial in study.trials:
        if (trial.values is not None) != (trial.number in complete):
            raise ValueError(f"trial {trial.number} is {trial.state}, and its values do not fit")
        for values in (*trial.by_seed, *([trial.values] if trial.values else [])):
            if len(values) != n or not all(map(_is_possible, study.objectives, values)):
                raise ValueError(f"trial {trial.number} has the values {values}")
    if study.chosen is not None:
        CHOSEN.validate_json(json.dumps(study.chosen), strict=True)
    if len({trial.number for trial in study.trials}) < len(study.trials):
        raise ValueError("two trials have one number")
    if not complete.issuperset(study.best) or bool(study.best) != bool(complete):
        raise ValueError(f"the best trials are {study.best}, the complete ones {sorted(complete)}")
    return study


def _is_possible(objective: str, value: float) -> bool:
    return 0 <= value <= 1 if objective.endswith("auc") else math.isfinite(value)


CHOSEN = TypeAdapter(Chosen)
SUMMARY = TypeAdapter(Annotated[StudySummary, AfterValidator(_check)])
AGAIN = "run the sweep again"


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one sweep."""

    path: Path

    @property
    def within(self) -> Path:
        """The results folder."""
        return self.path.parent.parent

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
        with suppress(OSError):
            remove(self.searches, within=self.within)

    def write(self, summary: StudySummary) -> None:
        """Write the summary, whole or not at all."""
        make_folder(self.path, within=self.within)
        write_stored(self.path / "study.json", asdict(summary))

    def read(self) -> StudySummary:
        """Read the summary.

        Raises:
            StoreError: There is none, or it cannot be read.
        """
        file = self.path / "study.json"
        if not file.exists():
            raise StoreError(f"{self.path} holds no study.json; no trial has ended yet")
        summary = parse(read_stored(file, AGAIN), SUMMARY, file, AGAIN)
        if summary.name != self.path.name:
            raise StoreError(f"{file} is the summary of the sweep {summary.name}; {AGAIN}")
        return summary


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
