"""Whole sweeps by several processes: some are killed, the server goes away, nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

from cvrbench.runs.store import ResultStore
from cvrbench.sweep.leases import ATTEMPTS, WORKER
from tests.sweep.postgres import IN_URL, postgres

CONF = Path(__file__).parents[2] / "conf"
WORKERS = 4
MINUTES = 10
"""Most that one command may take on a machine that is busy with other work."""
TRAINED_SHORTLY = ("experiment=quick_check", "model=shared_bottom", "trainer.threads=1")
SEARCH = ("sweep=equal_budget", "sampler=random", "preset=false", "final_seeds=[]", "name=study")

pytestmark = pytest.mark.slow


class Commands:
    """Starts `cvrbench sweep`, and leaves no process behind."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.running: list[subprocess.Popen] = []
        self.pids: set[int] = set()

    def start(self, *words: str, results: str = "results") -> subprocess.Popen:
        places = (f"data_dir={self.data}", f"results_dir={results}")
        command = [sys.executable, "-m", "cvrbench", "sweep", *TRAINED_SHORTLY, *SEARCH, *places]
        environment = {**os.environ, "CVRBENCH_CONF": str(CONF), "COLUMNS": "100"}
        with (self.folder / f"said-{len(self.running)}").open("w+") as said:
            process = subprocess.Popen(
                [*command, *words], cwd=self.folder, env=environment, stdout=said, stderr=said
            )
        self.running.append(process)
        return process

    def said(self, process: subprocess.Popen) -> str:
        return (self.folder / f"said-{self.running.index(process)}").read_text()

    def wait(self, process: subprocess.Popen) -> str:
        """Let a command end well; give what it said."""
        code = process.wait(timeout=60 * MINUTES)
        assert code == 0, self.said(process)
        assert "Traceback" not in self.said(process)
        return self.said(process)

    def run(self, *words: str, results: str = "results") -> str:
        return self.wait(self.start(*words, results=results))

    def kill(self) -> None:
        """End whatever is left."""
        for process in self.running:
            self.pids |= {process.pid, *descendants(process.pid)}
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()
        for pid in self.pids:
            if str(self.folder).encode() in command_line_and_folder(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def commands(tmp_path, quick_data):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = Commands(tmp_path, quick_data)
    yield started
    started.kill()


@pytest.fixture
def server():
    with postgres() as running:
        yield running


def descendants(pid: int) -> set[int]:
    """Processes that a process started, and theirs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, open_ones = set(), [pid]
    while open_ones:
        new = children.get(open_ones.pop(), [])
        found |= set(new)
        open_ones += new
    return found


def command_line_and_folder(pid: int) -> bytes:
    """What tells a process of this test from a stranger that has got its number."""
    with suppress(OSError):
        folder = os.readlink(f"/proc/{pid}/cwd").encode()  # noqa: PTH115 -- bytes are compared
        return Path(f"/proc/{pid}/cmdline").read_bytes() + folder
    return b""


def load(url: str | None, folder: Path) -> Study | None:
    """Open the study as any user of Optuna does; None where it has not begun."""
    if url is None:
        journal = folder / "results" / "sweeps" / "study" / "journal.log"
        if not journal.exists():
            return None
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    else:
        url = url.replace("postgresql:", "postgresql+psycopg:")
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    try:
        return optuna.load_study(study_name="study", storage=storage)
    except KeyError:
        return None


def until(found: Callable[[], object], process: subprocess.Popen) -> object:
    """Look until something is found, while a command runs."""
    while not (seen := found()):
        assert process.poll() is None, "the command ended too early"
        time.sleep(0.5)
    return seen


def begun(url: str | None, folder: Path, process: subprocess.Popen) -> Study:
    """Wait for the study; opening one is too much work to be done at every look."""
    study = until(lambda: load(url, folder), process)
    assert isinstance(study, Study)
    return study


def complete(study: Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def kill_one_at_work(study: Study, process: subprocess.Popen) -> int:
    """Kill a worker that is at a trial; give the trial's number."""

    def victim() -> tuple[int, int] | None:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        signed = [t for t in running if WORKER in t.user_attrs]
        return (signed[-1].user_attrs[WORKER]["pid"], signed[-1].number) if signed else None

    pid, number = until(victim, process)
    assert pid in descendants(process.pid)
    os.kill(pid, signal.SIGKILL)
    return number


def check(url: str | None, folder: Path, n_trials: int, *, results=("results",)) -> Study:
    """See that no trial is lost and none counts twice; give the study."""
    study = load(url, folder)
    trials = study.get_trials()
    assert [t.number for t in trials[:n_trials]] == list(range(n_trials))
    assert [t.state for t in trials[:n_trials]] == [TrialState.COMPLETE] * n_trials
    # One too many, where two workers asked at once or an answer was lost: nobody takes it up.
    assert {t.state for t in trials[n_trials:]} <= {TrialState.WAITING}
    runs = Counter(run for t in trials[:n_trials] for run in t.user_attrs["runs"])
    assert len(runs) == n_trials
    assert set(runs.values()) == {1}
    stored = Counter(r.run_id for name in results for r in ResultStore(folder / name).records())
    assert stored.keys() == runs.keys()
    for name in results:
        summary = json.loads((folder / name / "sweeps/study/study.json").read_text())
        assert [t["number"] for t in summary["trials"]] == list(range(n_trials))
        assert {t["state"] for t in summary["trials"]} == {"complete"}
        assert summary["spent"]["trials"] == n_trials
        assert IN_URL not in json.dumps(summary)
    return study


def test_postgresql_serves_workers_of_which_one_dies_and_restarts(commands, server, tmp_path):
    words = ("trials=20", f"workers={WORKERS}", f"storage={server.url}")
    process = commands.start(*words)
    study = begun(server.url, tmp_path, process)
    until(lambda: complete(study) >= 2, process)
    killed = kill_one_at_work(study, process)
    until(lambda: complete(study) >= 5, process)
    server.stop("immediate")
    time.sleep(2)
    assert process.poll() is None
    server.start()
    assert complete(study) < 20, "too late: nothing was under way"
    said = commands.wait(process)
    assert IN_URL not in said
    study = check(server.url, tmp_path, 20)
    assert study.trials[killed].user_attrs[ATTEMPTS] == 2
    before = [(t.number, t.datetime_complete) for t in study.trials]
    commands.run(*words)
    study = check(server.url, tmp_path, 20)
    assert [(t.number, t.datetime_complete) for t in study.trials] == before


def test_a_journal_serves_workers_of_which_one_dies(commands, tmp_path):
    words = ("trials=12", f"workers={WORKERS}")
    process = commands.start(*words)
    study = begun(None, tmp_path, process)
    until(lambda: complete(study) >= 2, process)
    killed = kill_one_at_work(study, process)
    commands.wait(process)
    study = check(None, tmp_path, 12)
    assert study.trials[killed].user_attrs[ATTEMPTS] == 2
    journal = tmp_path / "results/sweeps/study/journal.log"
    before = journal.read_bytes()
    commands.run(*words)
    assert journal.read_bytes() == before
    commands.run("trials=13", "workers=2")  # it may grow
    check(None, tmp_path, 13)


@pytest.mark.parametrize("workers_too", [False, True], ids=["alone", "with its workers"])
def test_a_command_that_was_killed_goes_on(workers_too, commands, tmp_path):
    words = ("trials=10", "workers=2")
    process = commands.start(*words)
    study = begun(None, tmp_path, process)
    until(lambda: complete(study) >= 2, process)
    commands.pids |= (children := descendants(process.pid))
    process.kill()
    process.wait()
    if workers_too:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert complete(study) < 10
    commands.run(*words)
    study = check(None, tmp_path, 10)
    assert max(t.user_attrs[ATTEMPTS] for t in study.trials) <= 2


def test_two_machines_share_one_study(commands, server, tmp_path):
    """Each with a results folder of its own, begun at the same moment."""
    words = ("trials=12", "workers=2", f"storage={server.url}")
    here, there = (commands.start(*words, results=name) for name in ("here", "there"))
    commands.wait(here)
    commands.wait(there)
    check(server.url, tmp_path, 12, results=("here", "there"))
    each = [len(list(ResultStore(tmp_path / name).records())) for name in ("here", "there")]
    assert sum(each) == 12
    assert min(each) > 0


def test_a_study_of_another_space_is_refused_and_not_harmed(commands, server, tmp_path):
    words = ("workers=1", f"storage={server.url}")
    commands.run("trials=2", *words)
    process = commands.start("trials=4", *words, "model.dropout=interval(0,0.3)")
    assert process.wait(timeout=60 * MINUTES) == 2
    said = commands.said(process)
    assert "there is a study 'study' already, and it differs in space.model.dropout" in said
    assert len(said.strip().splitlines()) == 1
    check(server.url, tmp_path, 2)


def test_a_server_that_refuses_ends_the_command_with_one_line(commands, server, tmp_path):
    words = ("trials=2", "workers=2", f"storage={server.url.replace(IN_URL, 'wr0ng')}")
    process = commands.start(*words)
    assert process.wait(timeout=60) != 0
    said = commands.said(process).strip()
    assert "password authentication failed" in said
    assert len(said.splitlines()) == 1
    assert "wr0ng" not in said
    assert list(ResultStore(tmp_path / "results").records()) == []
