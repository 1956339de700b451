"""Where Optuna keeps a study: a journal file, or whatever database a URL names.

A database may be away for a while, as when its server is restarted: every call is tried again until
it is back or patience ends. Where the answer was lost and not the question, a thing is done twice;
nothing here minds: a trial too many waits for ever, one leased without our knowing is taken over as
a dead worker's is, and a trial ends only once.
"""

import hashlib
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from glob import escape
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    get_storage,
)
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

from cvrbench.errors import ConfigError, StoreError
from cvrbench.runs.environment import without_password
from cvrbench.system.files import (
    check_no_links,
    explain_write,
    is_intact,
    open_regular,
    sealed,
)

PATIENCE = 120.0
"""Seconds that a storage may be away."""
PAUSE = 0.5
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")
"""Answers of a gRPC proxy that is away, or whose own storage is; it knows all wrong questions."""
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql"}
"""Scheme of a URL -> package that speaks with such a database, as SQLAlchemy calls it."""
KINDS = (
    "sqlite:///FILE, postgresql://USER@HOST/DB, mysql://USER@HOST/DB or grpc://HOST:PORT; null is "
    "a file in the study's folder"
)
GRACE = 30
"""Seconds after which the journal's lock is taken from a process that died with it."""
ANSWER = 10
"""Seconds in which a server must take a connection."""
SILENCE = 60
"""Seconds after which a connection is given up whose server has vanished without a word."""
CONNECT: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 30},
    "postgresql": {
        "connect_timeout": ANSWER,
        "keepalives_idle": SILENCE // 2,
        "keepalives_interval": SILENCE // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENCE * 1000,
    },
    "mysql": {"connect_timeout": ANSWER, "read_timeout": SILENCE, "write_timeout": SILENCE},
}
"""What each driver is told beyond the URL."""
BEGIN_ANEW = "move it away, and the sweep begins anew with the runs that are done"
DENIED = re.compile(
    "authentication|does not exist|no password|pg_hba|denied|unknown database|translate host"
    "|not known|name resolution|unable to open|read-?only|disk i/o",
    re.IGNORECASE,
)
"""Answers of a database that is there, or will never be."""
BIRTHS = 10
"""How often opening is tried while another process makes the tables of a new database."""


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """Open the storage that a URL names, or the journal file.

    Raises:
        ConfigError: The URL is of no known kind, or its driver is not installed.
        StoreError: The file cannot be written, or the database is down or refuses us.
    """
    if url is None:
        return _file(journal)
    match url.partition("://")[0].partition("+")[0]:
        case "sqlite" | "postgresql" | "mysql" as scheme:
            return _database(url, scheme)
        case "grpc":
            return _proxy(url)
        case _:
            raise ConfigError(f"storage={without_password(url)} is no storage; write {KINDS}")


class WholeLines(JournalFileBackend):
    """A journal whose last line may be torn, as a process leaves it that is killed writing.

    Optuna would append to the torn line and then could read neither. Each of our lines has a
    checksum, which Optuna ignores and other writers, such as optuna-dashboard, need not add.
    """

    def __init__(self, path: Path) -> None:
        # The target of the lock's link is read for its age: from another folder a relative one
        # leads nowhere, and Optuna would wait for a dead process for ever.
        self.path = path.absolute()
        self.link = JournalFileSymlinkLock(str(self.path), grace_period=GRACE)
        # What a process leaves that is killed between the two steps of a release. The lock is free
        # by then; who is just between them finds it gone, which `append_logs` does not mind.
        for left in self.path.parent.glob(f"{escape(self.path.name)}.lock*.rename"):
            left.unlink(missing_ok=True)
        self.ends = {0: (0, NO_LINE)}
        super().__init__(str(self.path), self.link)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append in one write, after dropping a torn line, which nobody was told of."""
        with explain_write(self.path):
            self.link.acquire()
            try:
                with self.path.open("a+b", buffering=0) as file:
                    before = _digest(_last_line(file))
                    data = b""
                    for log in logs:
                        line = json.dumps(sealed({**log, "after": before}), separators=(",", ":"))
                        data += line.encode() + b"\n"
                        before = _digest(line.encode() + b"\n")
                    while data:
                        data = data[file.write(data) :]
                    os.fsync(file.fileno())
            finally:
                with suppress(RuntimeError):  # taken from us, for we were slow
                    self.link.release()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the lines from one on, each as it was written and none missing.

        Raises:
            StoreError: One was changed or removed since, or cannot be read.
        """
        number = max(n for n in self.ends if n <= log_number_from)
        place, before = self.ends[number]
        with open_regular(self.path) as file:
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written, or torn
                number, place = number + 1, place + len(line)
                log = _parse(line)
                if log is None or not is_intact(log) or log.get("after", before) != before:
                    raise StoreError(
                        f"{self.path} is damaged: line {number} was changed since it was written, "
                        f"or one before it is missing; {BEGIN_ANEW}"
                    )
                before = _digest(line)
                self.ends = {0: (0, NO_LINE), number: (place, before)}
                if number > log_number_from:
                    yield log


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        log = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return log if isinstance(log, dict) else None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


NO_LINE = _digest(b"")


def _last_line(file: FileIO) -> bytes:
    """Return the last whole line, after dropping a torn one; leave the file at its end."""
    end = file.seek(0, os.SEEK_END)
    tail, size = b"", 4096
    while True:
        size = min(2 * size, end)
        file.seek(end - size)
        tail = file.read(size)
        whole, newline, torn = tail.rpartition(b"\n")
        if b"\n" in whole or size == end:
            break
    if torn:
        file.truncate(end - len(torn))
    return whole.rpartition(b"\n")[2] + newline


def _file(journal: Path) -> BaseStorage:
    check_no_links(journal, within=journal.parent.parent.parent)
    with explain_write(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        backend = WholeLines(journal)
    try:
        return JournalStorage(backend)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise StoreError(f"{journal} is damaged: {error}; {BEGIN_ANEW}") from None


def _database(url: str, scheme: str) -> BaseStorage:
    shown = without_password(url)
    if (driver := DRIVERS.get(scheme)) is not None:
        _need(driver, scheme)
        url = f"{scheme}+{driver}{url[url.index(':') :]}"
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(f"storage={shown} is no URL; write {KINDS}") from None
    try:
        inner = _patiently(shown, partial(_connect, url, scheme))
    except (
        SQLAlchemyError,
        StorageInternalError,  # SQLAlchemy's, in Optuna's words
        RuntimeError,  # tables of another version of Optuna
        OSError,
        ValueError,
        ImportError,
    ) as error:
        raise StoreError(f"cannot open storage={shown}: {reason(error)}") from None
    return cast("BaseStorage", Retrying(get_storage(inner), shown))


def _connect(url: str, scheme: str) -> RDBStorage:
    # A pooled connection may be one of before the server's restart.
    options = {"pool_pre_ping": True, "connect_args": CONNECT[scheme]}
    inner = RDBStorage(url, engine_kwargs=options)
    if inner.engine.name == "sqlite":
        _take_turns(inner.engine)
    inner.get_all_studies()
    return inner


def _patiently(shown: str, ask: Callable[[], Any], *, opening: bool = True) -> Any:
    """Ask a storage until it answers.

    Args:
        shown: The storage in messages.
        ask: Opens it, or asks something.
        opening: Whether its tables may just be made by another process, and a refusal is final.

    Raises:
        Exception: Of the storage, that is no sign of its being away, or comes too late.
    """
    begun, births, told = time.monotonic(), 0, not opening
    while True:
        try:
            return ask()
        except Exception as error:
            birth = opening and _is_birth(error)
            births += birth
            away = _is_away(error) or (opening and isinstance(error, ConnectionError))
            away = away and not (opening and DENIED.search(reason(error)))
            late = time.monotonic() - begun > PATIENCE
            if late or births == BIRTHS or not (away or birth):
                raise
            if away and not told:
                told = True
                words = "storage=%s does not answer (%s); trying for %.0f s"
                logging.getLogger(__name__).warning(words, shown, reason(error), PATIENCE)
            time.sleep(PAUSE)


def _is_birth(error: Exception) -> bool:
    """Whether two processes were making the same tables."""
    words = ("already exists", "duplicate key", "UNIQUE constraint", "no such table", "is locked")
    text = f"{error} {error.__cause__}"
    return any(word in text for word in words)


def _take_turns(engine: Engine) -> None:
    """Let a transaction of SQLite begin by locking the file.

    Otherwise two workers that claim a trial may both read that it waits before either writes.
    """

    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # no BEGIN of the driver's own

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()
    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _proxy(url: str) -> BaseStorage:
    _need("grpc", "grpc")
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:  # a port that is no number
        host = port = None
    if not host or not port:
        raise ConfigError(f"storage={url} lacks a host or a port; write grpc://HOST:PORT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        inner = GrpcStorageProxy(host=host, port=port)

    def connect() -> None:
        inner.wait_server_ready(timeout=ANSWER)
        inner.get_all_studies()

    try:
        _patiently(url, connect)
    except ConnectionError:
        raise StoreError(
            f"cannot open storage={url}: no answer in {PATIENCE:.0f} s; start optuna's gRPC proxy "
            "there"
        ) from None
    except Exception as error:
        if not callable(getattr(error, "code", None)):  # no error of gRPC's
            raise
        raise StoreError(f"cannot open storage={url}: {reason(error)}") from None
    return cast("BaseStorage", Retrying(inner, url))


def _need(package: str, extra: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise ConfigError(
            f"storage={extra}://... needs the package {package}: pip install 'cvrbench[{extra}]'"
        ) from None


class Retrying:
    """Another storage, asked again while it is away.

    Raises, from each of its methods:
        StoreError: It has been away for too long; names it as `shown`.
    """

    def __init__(self, inner: BaseStorage, shown: str) -> None:
        self.inner, self.shown = inner, shown

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a method of the storage that tries until there is an answer."""
        return partial(self._call, getattr(self.inner, name))

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return _patiently(self.shown, partial(function, *arguments, **named), opening=False)
        except Exception as error:
            if not _is_away(error):
                raise
            raise StoreError(
                f"storage={self.shown} has not answered for {PATIENCE:.0f} s ({reason(error)}); "
                "start it and give the same command again"
            ) from None


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
