"""What a sweep is before its first trial: its studies, named, and checked against their data."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cvrbench.config.study import Study, compose_studies
from cvrbench.config.validate import config_to_dict
from cvrbench.data.dataset import Dataset
from cvrbench.data.raw import OnRows, silent
from cvrbench.data.registry import ensure
from cvrbench.errors import ConfigError
from cvrbench.footprint import check_together
from cvrbench.planning import check_plan
from cvrbench.record import NUMBER_FREE
from cvrbench.studies import Studies, StudyFolder
from cvrbench.sweep.largest import largest_cells
from cvrbench.sweep.objectives import directions
from cvrbench.sweep.samplers import check_sampler
from cvrbench.sweep.suggest import fixed_trials
from cvrbench.training.device import resolve_device

IDENTITY = ("objectives", "sampler", "startup_trials", "pruner", "seeds", "preset")
"""Settings that a study keeps once it has begun; its budget may grow."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with its name and place."""

    study: Study
    name: str

    @property
    def folder(self) -> StudyFolder:
        """Where the study's files are."""
        return Studies(Path(self.study.base.config.results_dir)).folder(self.name)


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


def identity(study: Study) -> dict[str, Any]:
    """Give what makes two studies the same, as plain values."""
    config = config_to_dict(study.base.config)
    trainer = {k: v for k, v in config["trainer"].items() if f"trainer.{k}" not in NUMBER_FREE}
    settings = {key: value for key, value in asdict(study.settings).items() if key in IDENTITY}
    found = {
        "config": {k: v for k, v in config.items() if k not in NUMBER_FREE} | {"trainer": trainer},
        "settings": settings,
        "space": {d.key: d.text for d in study.space.always},
        "when": {c.word: {d.key: d.text for d in c.dimensions} for c in study.space.when},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def check_studies(plans: Sequence[Plan], *, at_once: int = 1, on_rows: OnRows = silent) -> None:
    """Check what must hold before the first trial, and prepare every dataset.

    Args:
        plans: The studies, which run one after another.
        at_once: How many trials of one will share this machine's memory.
        on_rows: Told of the rows that are prepared.

    Raises:
        ConfigError: An objective is no metric of its dataset, or nothing a pruner can watch.
        RunError: So many trials at the largest values of a space do not fit into memory beside
            each other, or as `planning.check_plan`.
        DataError, StoreError: As `planning.check_plan`.
    """
    check_plan([plan.study.base for plan in plans], on_rows=on_rows)
    for plan in plans:
        check_sampler(plan.study.settings)
        fixed_trials(plan.study)
        dataset = dataset_of(plan.study)
        directions(plan.study, dataset.schema.tasks)
        gauc = [n for n in plan.study.settings.objectives if n.endswith("_gauc")]
        if gauc and dataset.valid.groups is None:
            raise ConfigError(
                f"objectives: {gauc[0]} needs users, and {plan.study.base.choices['dataset']} has "
                "none; take the AUC"
            )
        if at_once > 1:
            _check_memory(plan, dataset, at_once)


def _check_memory(plan: Plan, dataset: Dataset, at_once: int) -> None:
    trainer = plan.study.base.config.trainer
    runs = [(cell.config, dataset) for cell in largest_cells(plan.study, dataset)]
    what = f"trials of {plan.name}, at the largest values that are searched,"
    check_together(runs * at_once, resolve_device(trainer.device), at_once, what)


def dataset_of(study: Study) -> Dataset:
    """Open the dataset that a study's runs train on.

    Raises:
        DataError: It is neither prepared nor to be prepared from files at hand.
    """
    config = study.base.config
    return ensure(config.dataset, study.base.choices["dataset"], Path(config.data_dir))


def _name(study: Study) -> str:
    digest = hashlib.sha256(json.dumps(identity(study), sort_keys=True).encode()).hexdigest()[:6]
    choices: Mapping[str, str] = study.base.choices
    return f"{choices['dataset']}-{choices['model']}-{study.sweep}-{digest}"
