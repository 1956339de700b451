"""Storages of a study: what they refuse, in one line, and what they survive."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError, PendingRollbackError

from cvrbench.errors import ConfigError, StoreError
from cvrbench.runs.environment import without_password
from cvrbench.sweep import storage
from cvrbench.sweep.storage import Retrying, open_storage
from tests.sweep.postgres import IN_URL, PASSWORD, free_port, postgres

DIRECTIONS = [StudyDirection.MAXIMIZE]


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(autouse=True)
def connections_are_closed(monkeypatch):
    """As the end of a process closes them; within one, they warn of it."""
    opened = []

    class Kept(RDBStorage):
        def __init__(self, *arguments, **named):
            opened.append(self)
            super().__init__(*arguments, **named)

    monkeypatch.setattr(storage, "RDBStorage", Kept)
    yield
    for database in opened:
        if hasattr(database, "engine"):
            database.scoped_session.remove()
            database.engine.dispose()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("sqlite:////abs/study.db", "sqlite:////abs/study.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql://me:pw@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:p@w@host/db?sslmode=require", "postgresql://me:***@host/db?sslmode=require"),
        ("postgresql://:pw@host/db", "postgresql://:***@host/db"),
        ("postgresql://me:pw@host:port/db", "postgresql://me:***@host:port/db"),
        ("postgresql://me:pw@[::1]:5432/db", "postgresql://me:***@[::1]:5432/db"),
        ("postgresql:///db?host=/run&password=pw", "postgresql:///db?host=/run&password=***"),
        ("postgresql://me@host/db?sslpassword=p/w&x=1", "postgresql://me@host/db?sslpassword=***&x=1"),
        ("postgresql://me:p/w?@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:pw@[::1/db", "postgresql://me:***@[::1/db"),
        ("sqlite:///a:b/c@d.db", "sqlite:///a:b/c@d.db"),
        ("grpc://host:13000", "grpc://host:13000"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "study.db",
        "/abs/study.db",
        "redis://me:pw@host",
        "postgres://me:pw@host/db",
        "postgresql://me:pw@[::1/db",
        "postgresql://me:pw@127.0.0.1:port/db",
        "sqlite:file",
        "grpc://",
        "grpc://host",
        "grpc://:13000",
        "grpc://host:port",
    ],
)
def test_a_url_of_no_storage_is_refused(url, tmp_path):
    with pytest.raises(ConfigError, match="write") as refused:
        open_storage(url, tmp_path / "journal.log")
    assert "pw" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("postgresql://me@host/db", "psycopg", "postgresql"),
        ("postgresql+psycopg2://me@host/db", "psycopg", "postgresql"),
        ("mysql://me@host/db", "pymysql", "mysql"),
        ("grpc://host:13000", "grpc", "grpc"),
    ],
)
def test_a_missing_driver_is_named_with_its_extra(url, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"package {package}: pip install 'cvrbench\[{extra}\]'"):
        open_storage(url, tmp_path / "journal.log")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://me:pw@127.0.0.1:{port}/db", "refused"),
        ("postgresql://me:pw@no.such.host.invalid/db", "no.such.host.invalid"),
        ("mysql://me:pw@127.0.0.1:{port}/db", "127.0.0.1"),
        ("sqlite:////no/such/folder/study.db", "unable to open"),
        ("grpc://127.0.0.1:{port}", "no answer"),
    ],
)
def test_a_storage_that_is_down_is_told_at_once(url, why, tmp_path, monkeypatch):
    """A server that does not answer may come back; it is waited for, which a warning says."""
    monkeypatch.setattr(storage, "ANSWER", 2)
    monkeypatch.setattr(storage, "PATIENCE", 1.0)
    begun = time.monotonic()
    with pytest.raises(StoreError, match=why) as refused:
        open_storage(url.format(port=free_port()), tmp_path / "journal.log")
    assert time.monotonic() - begun < 10
    assert "pw" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_takes_no_connection_is_given_up(tmp_path, monkeypatch):
    """It listens, and is too busy to say a word: a packet filter looks the same."""
    monkeypatch.setitem(storage.CONNECT, "postgresql", {"connect_timeout": 2})
    monkeypatch.setattr(storage, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(StoreError, match="timeout"):
            open_storage(f"postgresql://me@127.0.0.1:{port}/db", tmp_path / "journal.log")
        assert time.monotonic() - begun < 10


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    file = tmp_path / "study.db"
    file.write_text("notes of mine, " * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_storage(f"sqlite:///{file}", tmp_path / "journal.log")
    assert file.read_text() == "notes of mine, " * 100


def test_tables_of_another_optuna_are_refused(tmp_path):
    file = tmp_path / "study.db"
    open_storage(f"sqlite:///{file}", tmp_path / "journal.log")
    code = f"import sqlite3; c = sqlite3.connect({str(file)!r}); c.execute("
    code += "\"update alembic_version set version_num='v99.0'\"); c.commit(); c.close()"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(StoreError, match="no longer compatible"):
        open_storage(f"sqlite:///{file}", tmp_path / "journal.log")


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*file/study/journal\.log"):
        open_storage(None, tmp_path / "file" / "study" / "journal.log")


def test_a_journal_that_is_something_else_is_refused_and_kept(tmp_path):
    file = tmp_path / "journal.log"
    file.write_text("dear diary\nnothing happened\n")
    with pytest.raises(StoreError, match=r"journal\.log is damaged"):
        open_storage(None, file)
    assert file.read_text() == "dear diary\nnothing happened\n"


def test_a_changed_digit_in_a_line_of_the_journal_is_seen_when_opened_and_later(tmp_path):
    journal = tmp_path / "journal.log"
    opened = open_storage(None, journal)
    study = opened.create_new_study([StudyDirection.MAXIMIZE], "study")
    opened.set_study_user_attr(study, "budget", 1234)
    lines = journal.read_bytes()
    journal.write_bytes(lines.replace(b"1234", b"1235"))
    with pytest.raises(StoreError, match=r"journal\.log is damaged: line 2 .*begins anew"):
        open_storage(None, journal)
    journal.write_bytes(lines)
    reader = open_storage(None, journal)
    opened.set_study_user_attr(study, "spent", 56789)
    journal.write_bytes(journal.read_bytes().replace(b"56789", b"56788"))
    with pytest.raises(StoreError, match="line 3"):
        reader.get_study_user_attrs(study)


@pytest.mark.parametrize("lost", [0, 1, 3])
@pytest.mark.parametrize("fate", ["removed", "moved"])
def test_a_line_that_is_missing_from_the_journal_is_seen(lost, fate, tmp_path):
    journal = tmp_path / "journal.log"
    opened = open_storage(None, journal)
    study = opened.create_new_study(DIRECTIONS, "study")
    trial = opened.create_new_trial(study)
    for number in range(4):
        opened.set_trial_user_attr(trial, f"n{number}", number)
    lines = journal.read_bytes().splitlines(keepends=True)
    line = lines.pop(lost)
    if fate == "moved":
        lines.insert(lost + 1, line)
    journal.write_bytes(b"".join(lines))
    with pytest.raises(StoreError, match=rf"line {lost + 1} was changed .* or one before it is"):
        open_storage(None, journal)


def test_a_journal_of_before_lines_named_the_one_before_is_read_and_gone_on_with(tmp_path):
    journal = tmp_path / "journal.log"
    theirs = JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = theirs.create_new_study(DIRECTIONS, "study")
    opened = open_storage(None, journal)
    opened.create_new_trial(study)
    theirs.create_new_trial(study)  # optuna-dashboard writes, too
    opened.create_new_trial(study)
    assert [t.number for t in open_storage(None, journal).get_all_trials(study)] == [0, 1, 2]


def test_what_a_killed_release_of_the_lock_leaves_is_removed(tmp_path):
    journal = tmp_path / "journal.log"
    open_storage(None, journal)
    (tmp_path / "journal.log.lock0a1b.rename").symlink_to(journal)
    open_storage(None, journal)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_journal_that_is_no_file_is_refused(make, tmp_path):
    make(tmp_path / "journal.log")
    with pytest.raises(StoreError, match=r"journal\.log is (a link|damaged)"):
        open_storage(None, tmp_path / "journal.log")


def test_a_storage_that_is_away_while_it_is_opened_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    errors = [refused(), internal(refused()), ConnectionError("no answer")]

    def connect():
        if errors:
            raise errors.pop(0)
        return "open"

    assert storage._patiently("x", connect) == "open"
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == "storage=x does not answer (connection refused); trying for 120 s"
    errors = [OperationalError("", {}, OSError('FATAL: database "x" does not exist')), refused()]
    with pytest.raises(OperationalError):
        storage._patiently("x", connect)
    assert len(errors) == 1


@pytest.mark.parametrize("torn", ['{"op_code": 9, "tri', '{"op_code": 4, "worker_id": "x"}', "\0"])
def test_a_torn_last_line_loses_nothing(torn, tmp_path):
    file = tmp_path / "journal.log"
    first = open_storage(None, file)
    study = first.create_new_study(DIRECTIONS, "s")
    trial = first.create_new_trial(study)
    with file.open("a") as journal:
        journal.write(torn)
    for opened in (first, open_storage(None, file)):
        opened.set_trial_user_attr(trial, "n", len(opened.get_all_trials(study)))
        opened.create_new_trial(study)
    again = open_storage(None, file)
    assert [t.number for t in again.get_all_trials(study)] == [0, 1, 2]
    assert again.get_trial(trial).user_attrs == {"n": 2}
    assert all(json.loads(line) for line in file.read_text().splitlines())
    # Optuna's own reader, which a dashboard uses, finds it whole.
    theirs = JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    assert len(theirs.get_all_trials(study)) == 3


def test_a_process_killed_with_the_journals_lock_holds_nobody_up_for_ever(tmp_path, monkeypatch):
    """Also with the usual relative path, from which Optuna's link would lead nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "GRACE", 3)
    journal = Path("results/journal.log")
    opened = open_storage(None, journal)
    study = opened.create_new_study(DIRECTIONS, "s")
    code = """
    import os, signal
    from pathlib import Path
    from cvrbench.sweep.storage import WholeLines
    WholeLines(Path("results/journal.log")).link.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert killed.returncode == -9
    assert os.path.lexists("results/journal.log.lock")
    again = open_storage(None, journal)
    begun = time.monotonic()
    assert again.create_new_trial(study) == 0
    assert time.monotonic() - begun < 6


def test_many_threads_write_one_journal(tmp_path):
    file = tmp_path / "journal.log"
    study = open_storage(None, file).create_new_study(DIRECTIONS, "s")

    def create(_number: int) -> None:
        opened = open_storage(None, file)
        for _ in range(10):
            opened.create_new_trial(study)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(4)))
    assert len(open_storage(None, file).get_all_trials(study)) == 40
    assert not os.path.lexists(f"{file}.lock")


class Flaky(InMemoryStorage):
    """Raises what it is given, once each, before it answers."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.asked = 0

    def get_all_studies(self):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().get_all_studies()


def internal(cause: Exception) -> StorageInternalError:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


def refused(kind=OperationalError) -> Exception:
    return kind("SELECT 1", {}, OSError("connection refused\nis it running?"))


def asked_on() -> Exception:
    """What Optuna's own second try finds in a session whose connection has just been lost."""
    error = PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")
    error.__context__ = refused()
    return internal(error)


def test_a_storage_that_is_away_is_asked_again(monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    inner = Flaky(refused(), internal(refused()), asked_on())
    assert Retrying(inner, "x").get_all_studies() == []
    assert inner.asked == 4


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not in the space"),
        KeyError("no such trial"),
        UpdateFinishedTrialError("ended"),
        refused(IntegrityError),
        internal(ValueError("too long")),
    ],
)
def test_an_answer_that_one_does_not_like_is_an_answer(error):
    inner = Flaky(error)
    with pytest.raises(type(error)):
        Retrying(inner, "x").get_all_studies()
    assert inner.asked == 1


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    inner = Flaky(*[refused() for _ in range(1000)])
    with pytest.raises(StoreError, match=r"storage=x has not .* \(connection refused\); start it"):
        Retrying(inner, "x").get_all_studies()


WORK = """
import sys
from pathlib import Path
from cvrbench.sweep.storage import open_storage
from optuna.study import StudyDirection
from optuna.exceptions import DuplicatedStudyError
storage = open_storage(sys.argv[1], Path("unused"))
try:
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
except DuplicatedStudyError:
    study = storage.get_study_id_from_name("s")
for _ in range(int(sys.argv[2])):
    trial = storage.create_new_trial(study)
    storage.set_trial_user_attr(trial, "me", sys.argv[3])
"""


def at_once(url: str, processes: int, trials: int) -> None:
    """Open a new database from several processes at once, and make trials."""
    commands = [[sys.executable, "-c", WORK, url, str(trials), str(n)] for n in range(processes)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_processes_open_a_new_sqlite_file_at_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    at_once(url, processes=3, trials=10)
    trials = open_storage(url, tmp_path / "unused").get_all_trials(1)
    assert [t.number for t in trials] == list(range(30))


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@pytest.mark.slow
def test_processes_open_a_new_postgresql_database_at_once(server, tmp_path):
    at_once(server.url, processes=3, trials=10)
    opened = open_storage(server.url, tmp_path / "unused")
    trials = opened.get_all_trials(opened.get_study_id_from_name("s"))
    assert sorted(t.number for t in trials) == list(range(30))


def test_a_wrong_password_is_told_in_one_line(server, tmp_path):
    url = server.url.replace(IN_URL, "wr0ng")
    begun = time.monotonic()
    with pytest.raises(StoreError, match="password authentication failed") as refused:
        open_storage(url, tmp_path / "unused")
    assert time.monotonic() - begun < 10
    assert "\n" not in str(refused.value)
    assert "wr0ng" not in str(refused.value)


def test_a_database_that_is_not_there_is_told(server, tmp_path):
    with pytest.raises(StoreError, match='database "nosuch" does not exist') as refused:
        open_storage(server.url.removesuffix("postgres") + "nosuch", tmp_path / "unused")
    assert PASSWORD not in str(refused.value)
    assert IN_URL not in str(refused.value)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_under_a_pooled_connection_is_waited_for(server, mode, tmp_path):
    opened = open_storage(server.url, tmp_path / "unused")
    study = opened.create_new_study(DIRECTIONS, f"restart {mode}")
    trial = opened.create_new_trial(study)
    server.stop(mode)
    with pytest.raises(Exception) as lost:  # noqa: PT011 -- which one is the question
        opened.inner.get_all_studies()
    assert storage._is_away(lost.value)
    timer = threading.Timer(2, server.start)
    timer.start()
    begun = time.monotonic()
    opened.set_trial_user_attr(trial, "after", True)
    assert time.monotonic() - begun > 1
    timer.join()
    assert opened.get_trial(trial).user_attrs == {"after": True}


@pytest.mark.parametrize("at", ["INSERT", "FROM trial_values", "FROM trials"])
def test_a_connection_lost_within_a_transaction_is_waited_for(server, at, tmp_path):
    """Between two statements of one call: the ping before it found all well."""
    opened = open_storage(server.url, tmp_path / "unused")
    study = opened.create_new_study(DIRECTIONS, f"lost at {at}")
    trial = opened.create_new_trial(study)
    engine = opened.inner._backend.engine
    killed = []

    def kill(_connection, cursor, statement, *_rest):
        if at in statement and not killed:
            killed.append(cursor.connection.info.backend_pid)
            with engine.connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({killed[0]})")

    event.listen(engine, "before_cursor_execute", kill)
    opened.set_trial_user_attr(trial, "after", True)
    assert len(opened.get_all_trials(study)) == 1
    assert killed
    assert opened.get_trial(trial).user_attrs == {"after": True}


PROXY = """
import sys, warnings
warnings.simplefilter("ignore")
import optuna
optuna.storages.run_grpc_proxy_server(
    optuna.storages.get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2])
)
"""


def test_a_grpc_proxy_may_go_and_come_back(tmp_path):
    pytest.importorskip("grpc", reason="needs grpcio: pip install 'cvrbench[grpc]'")
    port = free_port()
    command = [sys.executable, "-c", PROXY, f"sqlite:///{tmp_path / 'study.db'}", str(port)]
    proxy = subprocess.Popen(command)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ExperimentalWarning)
            opened = open_storage(f"grpc://127.0.0.1:{port}", tmp_path / "unused")
        study = opened.create_new_study(DIRECTIONS, "s")
        trial = opened.create_new_trial(study)
        proxy.kill()
        proxy.wait()
        with pytest.raises(Exception) as lost:  # noqa: PT011 -- which one is the question
            opened.inner.get_all_studies()
        assert storage._is_away(lost.value)
        proxy = subprocess.Popen(command)
        opened.set_trial_user_attr(trial, "after", True)
        assert opened.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
        with pytest.raises(UpdateFinishedTrialError):
            opened.set_trial_user_attr(trial, "late", True)
        with pytest.raises(KeyError):
            opened.get_trial(99)
        assert opened.get_all_trials(study)[0].user_attrs == {"after": True}
    finally:
        proxy.kill()
        proxy.wait()
