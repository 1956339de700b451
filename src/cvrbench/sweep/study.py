"""Opening a study: making it, or finding that it is there and searches the same."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError
from cvrbench.sweep.budget import Budget
from cvrbench.sweep.objectives import directions
from cvrbench.sweep.plan import Plan, dataset_of, identity
from cvrbench.sweep.samplers import quiet
from cvrbench.sweep.storage import open_storage
from cvrbench.sweep.suggest import fixed_trials

ATTRIBUTE = "cvrbench"
"""Name of the study's attribute that says what it searches."""


class Opened(NamedTuple):
    """A study that is open."""

    study: Study
    storage: BaseStorage
    schema: Schema
    """Of the dataset that it trains on."""
    budget: Budget


def open_study(plan: Plan) -> Opened:
    """Open a study, or begin it.

    Raises:
        ConfigError: A study of that name searches something else, or its storage is no storage.
        StoreError: The storage is down, refuses us, or cannot be written.
    """
    quiet()
    settings = plan.study.settings
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
    walked = len(fixed_trials(plan.study)) if settings.sampler == "grid" else None
    return Opened(study, storage, schema, Budget.of(settings, schema.rows["train"], walked))


def _difference(theirs: Any, mine: Any, where: str = "") -> str:
    """Name the first thing in which two identities differ, and its values."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for key in [*mine, *theirs]:
            if theirs.get(key) != mine.get(key):
                return _difference(theirs.get(key), mine.get(key), f"{where}.{key}".lstrip("."))
    if theirs is None and not where:
        return "what made it: it is none of cvrbench's"
    return f"{where} ({theirs} there, {mine} here)"
