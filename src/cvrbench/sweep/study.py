"""A study before and between its trials: its name and place, its objectives, budget and opening.

`plan_studies` reads the command line, `check_studies` checks the studies against their data,
`open_study` makes a study in its storage or finds that it is there and searches the same.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from cvrbench.config.dataset import TableConfig
from cvrbench.config.runtime import SIZES
from cvrbench.config.schema import Config, WeightedConfig
from cvrbench.config.study import Study, compose_studies
from cvrbench.config.validate import config_to_dict
from cvrbench.data.dataset import Dataset
from cvrbench.data.raw import OnRows, silent
from cvrbench.data.registry import ensure
from cvrbench.data.schema import Schema, Task
from cvrbench.data.sources.table import checksums
from cvrbench.data.sources.table_files import find_parts
from cvrbench.errors import ConfigError, RunError, did_you_mean
from cvrbench.metrics.evaluation import describe_metric, ranking_metric, selectable
from cvrbench.runs.memory import check_together
from cvrbench.runs.planning import check_plan
from cvrbench.runs.record import NUMBERS, RunRecord, decisive
from cvrbench.runs.study import Direction, Studies, StudyFolder
from cvrbench.sweep.samplers import check_sampler, fixed_trials, quiet
from cvrbench.sweep.storage import open_storage
from cvrbench.system.files import make_folder
from cvrbench.training.device import resolve_device

IDENTITY = ("objectives", "sampler", "startup_trials", "pruner", "seeds", "preset")
"""Settings that a study keeps once it has begun; its budget may grow."""
ATTRIBUTE = "cvrbench"
"""Name of the study's attribute that says what it searches."""
WATCHED = ("auc", "logloss", "xauc", "rmse")
"""Kinds of metric that every evaluation on validation rows holds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with its name and place."""

    study: Study
    name: str

    @property
    def folder(self) -> StudyFolder:
        """Folder of the study's files."""
        return Studies(Path(self.study.base.config.results_dir)).folder(self.name)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A study that is open, and what it may cost."""

    study: optuna.Study
    storage: BaseStorage
    schema: Schema
    """Schema of the dataset that the study trains on."""
    limits: dict[str, float | None]
    """Ends of the study; the first that is reached ends it. Trials under way are finished."""

    @property
    def n_trials(self) -> int | None:
        """Number of trials that there may be; None: as many as the budget lets."""
        trials = self.limits["trials"]
        return None if trials is None else int(trials)

    def spent(self, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        """Return what trials cost, searches included; `reused`: examples that sharing saved."""
        examples = sum(int(t.user_attrs.get("examples", 0)) for t in trials)
        return {
            "trials": sum(t.state.is_finished() for t in trials),
            "epochs": examples / max(self.schema.rows["train"], 1),
            "examples": examples,
            "seconds": sum(float(t.user_attrs.get("seconds", 0.0)) for t in trials),
            "reused": sum(int(t.user_attrs.get("reused", 0)) for t in trials),
        }

    def is_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the budget lets no further trial begin, whatever their number."""
        spent = self.spent(trials)
        return any(
            limit is not None and name != "trials" and spent[name] >= limit
            for name, limit in self.limits.items()
        )


def plan_studies(overrides: Sequence[str], *, multirun: bool) -> list[Plan]:
    """Turn the words of `cvrbench sweep` into studies, each under a name of its own.

    Raises:
        ConfigError: A word, a setting or a space is wrong, or two studies would have one name.
    """
    studies = compose_studies(overrides, multirun=multirun)
    plans = [Plan(study=study, name=study.settings.name or _name(study)) for study in studies]
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{len(names)} studies would be called {names[0]!r}; leave name= out, and each is "
            "named after what it searches"
        )
    if wrong := next((n for n in names if not re.fullmatch(r"\w[\w.-]*", n)), None):
        raise ConfigError(f"name={wrong!r} is no name of a folder; use letters, digits, - and _")
    return plans


def check_studies(plans: Sequence[Plan], *, at_once: int = 1, on_rows: OnRows = silent) -> None:
    """Check what must hold before the first trial, and prepare every dataset.

    Args:
        plans: The studies, which run one after another.
        at_once: How many trials of one study will share this machine's memory.
        on_rows: Told of the rows that are prepared.

    Raises:
        ConfigError: An objective is no metric of its dataset, or nothing a pruner can watch.
        RunError: So many trials at the borders of a space do not fit into memory beside each
            other, or as `planning.check_plan`.
        DataError, StoreError: As `planning.check_plan`.
    """
    check_plan([plan.study.base for plan in plans], on_rows=on_rows)
    for plan in plans:
        study = plan.study
        check_sampler(study.settings)
        fixed_trials(study)
        dataset = dataset_of(study)
        directions(study, dataset.schema.tasks)
        gauc = [n for n in study.settings.objectives if n.endswith("_gauc")]
        if gauc and dataset.valid.groups is None:
            raise ConfigError(
                f"objectives: {gauc[0]} needs users, and {study.base.choices['dataset']} has "
                "none; take the AUC"
            )
        if at_once > 1:
            runs = [(cell.config, dataset) for cell in study.borders()] * at_once
            what = f"trials of {plan.name}, at the largest values that are searched,"
            check_together(runs, resolve_device(study.base.config.trainer.device), at_once, what)


def dataset_of(study: Study) -> Dataset:
    """Open the dataset that a study's runs train on.

    Raises:
        DataError: It is neither prepared nor to be prepared from files at hand.
    """
    config = study.base.config
    return ensure(config.dataset, study.base.choices["dataset"], Path(config.data_dir))


def open_study(plan: Plan) -> Opened:
    """Open a study, or begin it.

    Raises:
        ConfigError: A study of that name searches something else, or its storage is no storage.
        StoreError: The storage is down, refuses us, or cannot be written.
    """
    quiet()
    settings = plan.study.settings
    make_folder(plan.folder.path, within=plan.folder.within)
    storage = open_storage(settings.storage, plan.folder.journal)
    schema = dataset_of(plan.study).schema
    try:
        study = optuna.load_study(study_name=plan.name, storage=storage)
    except KeyError:
        # Another process may make it between the two calls.
        study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            directions=list(directions(plan.study, schema.tasks)),
            load_if_exists=True,
        )
    mine = {**identity(plan.study), "fingerprint": schema.fingerprint}
    theirs = study.user_attrs.get(ATTRIBUTE)
    if theirs is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(ATTRIBUTE, mine)
    elif theirs != mine:
        raise ConfigError(
            f"there is a study {plan.name!r} already, and it differs in "
            f"{_difference(theirs, mine)}; give another name=, or leave it out"
        )
    counts = [settings.trials] if settings.trials is not None else []
    if settings.sampler == "grid":  # ends when it is walked
        counts.append(len(fixed_trials(plan.study)))
    limits = {
        "trials": min(counts, default=None),
        "epochs": settings.budget_epochs,
        "examples": settings.budget_examples,
        "seconds": settings.budget_seconds,
    }
    return Opened(study=study, storage=storage, schema=schema, limits=limits)


def identity(study: Study) -> dict[str, Any]:
    """Return what makes two studies the same, as plain values."""
    settings = {key: value for key, value in asdict(study.settings).items() if key in IDENTITY}
    config, dataset = decisive(config_to_dict(study.base.config)), study.base.config.dataset
    if isinstance(dataset, TableConfig):  # the same bytes elsewhere are the same study
        config["dataset"]["path"] = sorted(checksums(find_parts(dataset)).values())
    found = {
        "numbers": NUMBERS,
        "config": config,
        "settings": settings,
        "space": {d.key: d.text for d in study.space.always},
        "when": {c.word: {d.key: d.text for d in c.dimensions} for c in study.space.when},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _name(study: Study) -> str:
    digest = hashlib.sha256(json.dumps(identity(study), sort_keys=True).encode()).hexdigest()[:6]
    choices: Mapping[str, str] = study.base.choices
    return f"{choices['dataset']}-{choices['model']}-{study.sweep}-{digest}"


def _difference(theirs: Any, mine: Any, where: str = "") -> str:
    """Return the first key in which two identities differ, and its values."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for key in [*mine, *theirs]:
            if theirs.get(key) != mine.get(key):
                return _difference(theirs.get(key), mine.get(key), f"{where}.{key}".lstrip("."))
    if theirs is None and not where:
        return "what made it: it is none of cvrbench's"
    return f"{where} ({theirs} there, {mine} here)"


def directions(study: Study, tasks: Sequence[Task]) -> tuple[Direction, ...]:
    """Return of each objective whether more or less of it is better.

    Raises:
        ConfigError: It is no metric of the dataset, or nothing a pruner can watch.
    """
    known = ["mean_auc", *selectable(tasks), *SIZES]
    found: list[Direction] = []
    for name in study.settings.objectives:
        if name not in known:
            raise ConfigError(
                f"objectives: {name!r} is no metric of {study.base.choices['dataset']}."
                f"{did_you_mean(name, known)} Write 'objectives=["
                f"{ranking_metric(tasks[-1].name, tasks)}]', or any of: {', '.join(known)}"
            )
        if name == "density" and study.base.config.model.kind != "ncs":
            raise ConfigError("objectives: density is a matter of model=ncs; take multiply_adds")
        if name in SIZES or name == "mean_auc":
            found.append("minimize" if name in SIZES else "maximize")
            continue
        direction = describe_metric(name, tasks).direction
        if direction == "one":
            owner = name.rsplit("_", 1)[0]
            other = next(f"{owner}_{k}" for k in ("logloss", "rmse") if f"{owner}_{k}" in known)
            raise ConfigError(
                f"objectives: {name} is best at 1, neither high nor low; take {other}"
            )
        found.append("maximize" if direction == "higher" else "minimize")
    first = study.settings.objectives[0]
    by_looks = study.settings.pruner in ("hyperband", "median")
    if by_looks and first.rsplit("_", 1)[-1] not in WATCHED:
        raise ConfigError(
            f"pruner={study.settings.pruner} watches every look at validation, which has AUC and "
            f"log loss (of a ratio XAUC and RMSE) but no {first}; set pruner=none or another first "
            "objective"
        )
    return tuple(found)


def measure(
    name: str, metrics: Mapping[str, float | None], tasks: Sequence[str], why: Mapping[str, str]
) -> float:
    """Read an objective off validation metrics.

    Args:
        name: Name of the objective; no size.
        metrics: Metrics by name.
        tasks: Tasks whose AUC `mean_auc` is the mean of.
        why: Reasons for metrics that are None.

    Raises:
        RunError: It is undefined on these rows.
    """
    ranking = [f"{t}_xauc" if f"{t}_xauc" in metrics else f"{t}_auc" for t in tasks]
    names = ranking if name == "mean_auc" else [name]
    total = 0.0
    for one in names:
        value = metrics.get(one)
        if value is None:
            raise RunError(f"{one} is undefined on validation: {why.get(one, 'no reason given')}")
        total += value
    return total / len(names)


def of_record(study: Study, record: RunRecord) -> tuple[float, ...]:
    """Every objective of one finished run.

    Raises:
        RunError: One is undefined.
    """
    tasks = trained(study.base.config, [task["name"] for task in record.tasks])
    valid, why = record.metrics["valid"], record.undefined["valid"]
    return tuple(
        _size(record, name) if name in SIZES else measure(name, valid, tasks, why)
        for name in study.settings.objectives
    )


def trained(config: Config, tasks: Sequence[str]) -> list[str]:
    """Return the tasks that a run trains, those whose loss weighs something."""
    if not isinstance(config.balancing, WeightedConfig):
        return list(tasks)
    return [name for name in tasks if config.balancing.weights.get(name, 1) > 0]


def _size(record: RunRecord, name: str) -> float:
    if name == "density":
        densities: dict[str, Any] = record.diagnostics.get("density", {"all": 1.0})
        return float(sum(densities.values()) / len(densities))
    return float(getattr(record, name))
