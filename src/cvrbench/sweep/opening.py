"""Opening a study: making it, or finding that it is there and searches the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

from cvrbench.config.study import Study as StudyConfig
from cvrbench.data.dataset import Dataset
from cvrbench.data.library import ensure
from cvrbench.errors import ConfigError
from cvrbench.sweep.objectives import directions
from cvrbench.sweep.plan import Plan, identity
from cvrbench.sweep.samplers import quiet
from cvrbench.sweep.storage import open_storage

IDENTITY = "cvrbench"
"""Name of the study's attribute that says what it searches."""


def open_study(plan: Plan) -> tuple[Study, BaseStorage]:
    """Open a study, or begin it.

    Raises:
        ConfigError: A study of that name searches something else, or its storage is no storage.
        StoreError: The storage is down, refuses us, or cannot be written.
    """
    quiet()
    settings = plan.study.settings
    storage = open_storage(settings.storage, plan.folder.journal)
    tasks = dataset_of(plan.study).schema.tasks
    try:
        study = optuna.load_study(study_name=plan.name, storage=storage)
    except KeyError:
        # Another process may make it between the two calls.
        study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            directions=list(directions(plan.study, tasks)),
            load_if_exists=True,
        )
    mine = {**identity(plan.study), "fingerprint": dataset_of(plan.study).schema.fingerprint}
    theirs = study.user_attrs.get(IDENTITY)
    if theirs is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(IDENTITY, mine)
    elif theirs != mine:
        raise ConfigError(
            f"there is a study {plan.name!r} already, and it differs in "
            f"{_difference(theirs, mine)}; give another name=, or leave it out"
        )
    return study, storage


def dataset_of(study: StudyConfig) -> Dataset:
    """Open the dataset that a study's runs train on.

    Raises:
        DataError: It is neither prepared nor to be prepared from files at hand.
    """
    config = study.base.config
    return ensure(config.dataset, study.base.choices["dataset"], Path(config.data_dir))


def _difference(theirs: Any, mine: Any, where: str = "") -> str:
    """Name the first thing in which two identities differ, and its values."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for key in [*mine, *theirs]:
            if theirs.get(key) != mine.get(key):
                return _difference(theirs.get(key), mine.get(key), f"{where}.{key}".lstrip("."))
    return f"{where or 'what made it'} ({theirs} there, {mine} here)"
