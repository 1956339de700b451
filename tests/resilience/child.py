"""What runs in a process that is going to be killed: the command, with a word on where it is."""

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scipy.stats  # noqa: F401
import torch._dynamo  # noqa: F401 -- what a step and a look load, so that the server has it

from cvrbench.cli.app import main
from cvrbench.data import registry
from cvrbench.runs import experiment
from cvrbench.runs.store import RunFolder
from cvrbench.sweep import run_study
from cvrbench.training import checkpoint, loop, session

ROOT = Path(__file__).parents[2]
PHASE_BYTES = 64
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree")
"""Audit events of Python's that change a folder."""


def clear(board: Path) -> Path:
    """Make a file in which a process says what it is doing, readable after its death."""
    board.write_bytes(bytes(PHASE_BYTES))
    return board


def read(board: Path) -> str:
    """Read what a process is doing, or was when it died; nothing before it has begun."""
    return board.read_bytes().rstrip(b"\0").decode()


def run(folder: str, arguments: Sequence[str], board: str | None, kill_at: int | None) -> None:
    """Be the command line, started in a folder.

    Args:
        folder: Where to stand; what the command prints is appended to `said` there.
        arguments: Of the command.
        board: File to say the phase in.
        kill_at: Die before the so-manieth change of a file, counted from 0; None: never. The number
            of changes is left in the file `writes` of a process that ends.
    """
    os.chdir(folder)
    os.environ["CVRBENCH_CONF"] = str(ROOT / "conf")
    os.environ["COLUMNS"] = "200"
    with Path("said").open("a") as said:
        for number in (1, 2):
            os.dup2(said.fileno(), number)
    if board is not None:
        _tell(Path(board))
    counter = _count_writes(kill_at)
    sys.argv = ["cvrbench", *arguments]
    code = main()
    Path("writes").write_text(str(counter()))
    sys.stdout.flush()
    os._exit(code)  # nothing of the server that this process was forked from is to be run


def _count_writes(kill_at: int | None) -> Callable[[], int]:
    """Count changes of files, and die before one."""
    seen = 0

    def count() -> None:
        nonlocal seen
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # until the signal is there
        seen += 1

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wxa"
        if event in WRITES or opens or (event == "open" and "+" in str(arguments[1])):
            count()

    synced = os.fsync

    def fsync(number: int) -> None:
        count()
        synced(number)

    os.fsync = fsync
    sys.addaudithook(on_event)
    return lambda: seen


def _tell(board: Path) -> None:
    """Say the phase on the board from now on."""
    with board.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), PHASE_BYTES)
    now = "start"

    def say(phase: str) -> None:
        nonlocal now
        now = phase
        memory[:] = phase.encode()[:PHASE_BYTES].ljust(PHASE_BYTES, b"\0")

    @contextmanager
    def during(phase: str) -> Iterator[None]:
        before = now
        say(phase)
        yield
        say(before)

    def watch(owner: Any, name: str, phase: str | Callable[..., str]) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with during(phase if isinstance(phase, str) else phase(*args, **kwargs)):
                return original(*args, **kwargs)

        setattr(owner, name, watched)

    say(now)
    watch(registry, "prepare", "data preparation")
    watch(session.TrainingSession, "_fit", lambda *given: _stage(given[1].callbacks.stage))
    watch(loop.TrainingState, "evaluate", "evaluation")
    watch(experiment._Cell, "_score", "evaluation")
    watch(experiment._Cell, "_save_weights", "record writing")
    watch(RunFolder, "count_test", "record writing")
    watch(RunFolder, "write_predictions", "record writing")
    watch(RunFolder, "write_history", "record writing")
    watch(RunFolder, "finish", "record writing")
    watch(checkpoint, "_write", "checkpoint writing")
    watch(run_study, "open_study", "sweep: opening")
    watch(run_study._Worker, "_do", "sweep: a trial")
    watch(run_study, "finish", "sweep: final runs")


def _stage(name: str) -> str:
    if name == "train":
        return "joint training"
    return name if name == "warm-up" else f"search {name.rpartition(' ')[2]}"
