"""A storage that may be away for a while, as when its server is restarted.

Every call is tried again until the storage is back or patience ends. Where the answer was lost and
not the question, a thing is done twice; nothing here minds: a trial too many waits for ever, one
leased without our knowing is taken over as a dead worker's is, and a trial ends only once.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

from cvrbench.errors import StoreError

PATIENCE = 120.0
"""Seconds that a storage may be away."""
PAUSE = 0.5
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")
"""Answers of a gRPC proxy that is away, or whose own storage is; it knows all wrong questions."""


class Retrying:
    """Another storage, asked again where it does not answer."""

    def __init__(self, inner: BaseStorage, shown: str, patience: float = PATIENCE) -> None:
        self.inner, self.shown, self.patience = inner, shown, patience

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a method of the storage that tries until there is an answer."""
        return partial(self._call, getattr(self.inner, name))

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
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


def retrying(inner: BaseStorage, shown: str) -> BaseStorage:
    """Return a storage whose every call is tried again while `inner` is away.

    Raises, from each of its methods:
        StoreError: `inner` has been away for too long; names it as `shown`.
    """
    return cast("BaseStorage", Retrying(inner, shown))


def reason(error: BaseException) -> str:
    """Return in the storage's own words what is wrong, in one line."""
    error = _behind(error)
    details = getattr(error, "details", None)  # a method of gRPC's errors
    cause = details() if callable(details) else getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _is_away(error: BaseException) -> bool:
    """Whether an error says that a connection failed, and not that a question was wrong."""
    error = _behind(error)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    code = getattr(error, "code", None)  # a method of gRPC's errors
    return callable(code) and getattr(code(), "name", "") in AWAY


def _behind(error: BaseException) -> BaseException:
    """Return the database's error behind that of Optuna, and of a second question after it."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PendingRollbackError) and error.__context__ is not None:
        error = error.__context__
    return error
