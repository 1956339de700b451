"""A storage that may be away for a while, as when its server is restarted.

Every call is tried again until the storage is back or patience ends. Where the answer was lost and
not the question, a thing is done twice; nothing here minds: a trial too many waits for ever, one
claimed without our knowing is taken over as a dead worker's is, and a trial ends only once.
"""

import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
)

from cvrbench.errors import StoreError

PATIENCE = 120.0
"""Seconds that a storage may be away."""
PAUSE = 0.5
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")
"""Answers of a gRPC proxy that is away, or whose own storage is; it knows all wrong questions."""


def _patiently(name: str) -> Callable[..., Any]:
    def method(self: "Retrying", *arguments: Any, **named: Any) -> Any:
        return self.call(getattr(self.inner, name), *arguments, **named)

    method.__name__ = name
    return method


class Retrying(BaseStorage):
    """Another storage, asked again where it does not answer."""

    def __init__(self, inner: BaseStorage, shown: str, patience: float = PATIENCE) -> None:
        self.inner, self.shown, self.patience = inner, shown, patience

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call until there is an answer.

        Raises:
            StoreError: The storage has been away for too long.
        """
        begun = time.monotonic()
        while True:
            try:
                return function(*arguments, **named)
            except Exception as error:
                if not _is_away(error):
                    raise
                if time.monotonic() - begun > self.patience:
                    raise StoreError(
                        f"storage={self.shown} has not answered for {self.patience:.0f} s "
                        f"({reason(error)}); start it and give the same command again"
                    ) from None
                time.sleep(PAUSE)

    create_new_study = _patiently("create_new_study")
    delete_study = _patiently("delete_study")
    set_study_user_attr = _patiently("set_study_user_attr")
    set_study_system_attr = _patiently("set_study_system_attr")
    get_study_id_from_name = _patiently("get_study_id_from_name")
    get_study_name_from_id = _patiently("get_study_name_from_id")
    get_study_directions = _patiently("get_study_directions")
    get_study_user_attrs = _patiently("get_study_user_attrs")
    get_study_system_attrs = _patiently("get_study_system_attrs")
    get_all_studies = _patiently("get_all_studies")
    create_new_trial = _patiently("create_new_trial")
    set_trial_param = _patiently("set_trial_param")
    get_trial_id_from_study_id_trial_number = _patiently("get_trial_id_from_study_id_trial_number")
    set_trial_state_values = _patiently("set_trial_state_values")
    set_trial_intermediate_value = _patiently("set_trial_intermediate_value")
    set_trial_user_attr = _patiently("set_trial_user_attr")
    set_trial_system_attr = _patiently("set_trial_system_attr")
    get_trial = _patiently("get_trial")
    get_all_trials = _patiently("get_all_trials")
    remove_session = _patiently("remove_session")


def reason(error: BaseException) -> str:
    """Say in the storage's own words what is wrong, in one line."""
    error = _behind(error)
    details = getattr(error, "details", None)  # of gRPC's errors, a method
    cause = details() if callable(details) else getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _is_away(error: BaseException) -> bool:
    """Whether an error says that a connection failed, and not that a question was wrong."""
    error = _behind(error)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    code = getattr(error, "code", None)  # of gRPC's errors, a method
    return callable(code) and getattr(code(), "name", "") in AWAY


def _behind(error: BaseException) -> BaseException:
    """Find the database's error behind that of Optuna, and of a second question after it."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PendingRollbackError) and error.__context__ is not None:
        error = error.__context__
    return error
