"""Commands that are killed and started again, and what must be the same when they are done."""

import hashlib
import json
import multiprocessing
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrbench.runs.record import MAY_DIFFER
from tests.resilience import child

PHASES = (
    "data preparation",
    "warm-up",
    "search 1/2",
    "search 2/2",
    "joint training",
    "checkpoint writing",
    "evaluation",
    "record writing",
)
SWEEP_PHASES = ("sweep: opening", "sweep: a trial", "sweep: final runs")
SMALL = (
    "experiment=quick_check",
    "model=ncs",
    "model.search=imp",
    "model.choice=last",
    "model.rounds=2",
    "model.warmup_epochs=1",
    "model.hidden=[16,8]",
    "model.tower=[8]",
    "dataset.rows=4000",
    "trainer.threads=1",
    "trainer.batch_size=64",
    "trainer.checkpoint_seconds=0.005",
    "data_dir=data",
    "results_dir=results",
)
"""A run that has every phase and takes a second."""
RUN = ("run", *SMALL)
SWEEP = (
    "sweep",
    *SMALL,
    "trials=3",
    "seeds=[0]",
    "final_seeds=[1]",
    "sampler=random",
    "name=study",
    "heartbeat_seconds=0.5",
    "model.density=interval(0.1,0.9)",
)
SECONDS = 120.0
"""Most that one command may take on a machine that is busy with other work."""
LOOK_SECONDS = 0.0003
"""Between two looks at what a process is doing."""
VOLATILE_OF_TRIALS = ("seconds", "attempts")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill, and what came out."""

    wanted: str
    """Where it was aimed."""
    landed: str
    """The phase that the process was in when it died; `done` where it was faster."""
    problems: tuple[str, ...]
    """Every difference from the run that nobody killed."""


class Harness:
    """Kills one command at moments of many kinds, each time in an empty folder."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.folder, self.arguments = folder, tuple(arguments)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.resilience.child"])
        folder.mkdir(parents=True, exist_ok=True)
        self.durations: Counter[str] = Counter()
        """Phase -> the seconds that the whole command is in it."""
        self.expected = self._refer()

    def kill_in(self, phase: str, dice: random.Random, *, twice: bool = False) -> Kill:
        """Kill the command at a random moment of a phase; `twice`: what goes on, too."""
        where = self._empty("killed")
        landed = self._kill(where, phase, dice.uniform(0, self.durations[phase]))
        if twice and landed != "done":
            self._kill(where, "start", dice.uniform(0, self.durations.total()))
        return Kill(wanted=phase, landed=landed, problems=self._resume(where))

    def kill_at_write(self, number: int) -> Kill:
        """Kill the command right before it changes the files for the so-manieth time."""
        where = self._empty("killed")
        process = self._start(where, kill_at=number)
        process.join(SECONDS)
        landed = child.read(where / "board") if process.exitcode == -signal.SIGKILL else "done"
        return Kill(wanted=f"write {number}", landed=landed, problems=self._resume(where))

    def _refer(self) -> dict[str, Any]:
        """Let one run end by itself; learn what comes out, and how long it is in each phase."""
        where = self._empty("reference")
        process = self._start(where)
        for phase, seconds in self._watch(process, where):
            self.durations[phase] += seconds
        process.join()
        assert process.exitcode == 0, (where / "said").read_text()
        self.n_writes = int((where / "writes").read_text())
        return outcome(where)

    def _kill(self, where: Path, phase: str, after: float) -> str:
        """Kill the command once it has been so many seconds in a phase, all stays together."""
        process, inside = self._start(where), 0.0
        for now, seconds in self._watch(process, where):
            # After the start, any moment: what is begun again may have the phase behind it.
            inside += seconds if phase in (now, "start") else 0.0
            if inside >= after and (phase == now or phase == "start"):
                break
        process.kill()
        process.join()
        return child.read(where / "board") if process.exitcode == -signal.SIGKILL else "done"

    def _watch(self, process: Any, where: Path) -> Iterator[tuple[str, float]]:
        """Give the phase that a process is in, and for how long since the last look."""
        since = time.monotonic()
        while process.is_alive():
            time.sleep(LOOK_SECONDS)
            before, since = since, time.monotonic()
            if phase := child.read(where / "board"):
                yield phase, since - before

    def _resume(self, where: Path) -> tuple[str, ...]:
        """Give the same command again; say what is not as it should be."""
        process = self._start(where)
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            return (f"the same command did not end in {SECONDS:.0f} s",)
        if process.exitcode != 0:
            return (f"exit code {process.exitcode}: {(where / 'said').read_text()[-2000:]}",)
        return differences(self.expected, outcome(where))

    def _start(self, where: Path, *, kill_at: int | None = None) -> Any:
        board = child.clear(where / "board")
        arguments = (str(where), self.arguments, str(board), kill_at)
        process = self.context.Process(target=child.run, args=arguments)
        process.start()
        return process

    def _empty(self, name: str) -> Path:
        where = self.folder / name
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        return where


def outcome(where: Path) -> dict[str, Any]:
    """Give everything that a command left: file -> content, or its hash."""
    found: dict[str, Any] = {}
    for top in ("data", "results"):
        for path in sorted((where / top).rglob("*")):
            if path.is_file() or path.is_symlink():
                found[path.relative_to(where).as_posix()] = _content(path)
    return found


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what is missing, what is too much, and what differs."""
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is left behind" for name in found if name not in expected]
    for name in sorted(expected.keys() & found.keys()):
        one, other = expected[name], found[name]
        if one != other and isinstance(one, dict):
            keys = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
            lines.append(f"{name} differs in {keys}: {[(one.get(k), other.get(k)) for k in keys]}")
        elif one != other:
            lines.append(f"{name} differs")
    return tuple(lines)


def _content(path: Path) -> Any:
    if path.name == "record.json":
        record = json.loads(path.read_text())
        record |= {f"environment.{key}": v for key, v in record.pop("environment").items()}
        return {key: v for key, v in record.items() if key not in (*MAY_DIFFER, "checksum")}
    if path.name == "study.json":
        study = json.loads(path.read_text())
        study.pop("checksum")
        study["spent"].pop("seconds")
        for trial in study["trials"]:
            for key in VOLATILE_OF_TRIALS:
                trial.pop(key)
        return study
    if path.name == "journal.log":
        return "a journal"  # of signs of life, too; study.json is what it comes to
    return hashlib.sha256(path.read_bytes()).hexdigest()
