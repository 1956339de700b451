"""One job, as every engine runs it, how it ends, and the loop that keeps an engine busy."""

import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cvrbench.errors import CvrbenchError, RunInterrupted
from cvrbench.training.callbacks import stop_on_interrupt

OURS = "CVRBENCH_"
"""Prefix of environment variables that say where things are; a job sees those of its starter."""

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
"""Environment variables that libraries read when they make their pools of threads."""

STOP_SECONDS = 60.0
"""How long jobs may take to end once they are asked to."""
STOPPED = "stopped before its end; the same command goes on where it was"


@dataclass(frozen=True, kw_only=True)
class Done:
    """The function's result."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no result."""

    reason: str


Outcome = Done | Failed
OnDone = Callable[[int, Outcome], None]
Results = Generator[tuple[int, Outcome], None, None]
"""Number and outcome of each job as it ends; closing it stops those under way."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Part of its machine that a job may use."""

    threads: int | None
    """Threads of torch, where the job sets none itself, and of polars; None: their own choice."""
    place: int | None
    """Number of the worker, by which workers of one machine take its GPUs in turn."""

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """Limit the threads of processes that are started meanwhile."""
        before = {name: os.environ.get(name) for name in POOLS}
        if self.threads is not None:
            os.environ.update(dict.fromkeys(POOLS, str(self.threads)))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def take(self) -> None:
        """Keep torch and polars of this process to it."""
        if self.threads is not None:
            os.environ.update(dict.fromkeys(POOLS, str(self.threads)))
        import torch  # after the variables, which it reads when it is loaded

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.place is not None and (n_gpus := torch.cuda.device_count()) > 1:
            torch.cuda.set_device(self.place % n_gpus)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A function and where its starter stood: what another process needs to do the same."""

    function: Callable[[Any], Any]
    cwd: str
    command: tuple[str, ...]
    variables: dict[str, str]

    @classmethod
    def of(cls, function: Callable[[Any], Any]) -> Self:
        """Return a job of a function, as it would run in this process."""
        return cls(
            function=function,
            cwd=str(Path.cwd()),
            command=tuple(sys.argv),
            variables={k: v for k, v in os.environ.items() if k.startswith(OURS)},
        )

    def elsewhere(self, argument: Any, share: Share) -> str:
        """Do the job in a process that was made for it; return its outcome as JSON."""
        if Path(self.cwd).is_dir():  # on another machine it need not be
            os.chdir(self.cwd)
        sys.argv = list(self.command)
        for name in [name for name in os.environ if name.startswith(OURS)]:
            del os.environ[name]
        os.environ.update(self.variables)
        share.take()
        return to_json(self.attempt(argument))

    def attempt(self, argument: Any) -> Outcome:
        """Do the job here; an exception is its outcome."""
        try:
            return Done(value=json.loads(json.dumps(self.function(argument))))
        except (RunInterrupted, KeyboardInterrupt):
            return Failed(reason=STOPPED)
        except CvrbenchError as error:
            return Failed(reason=str(error))
        except Exception as error:
            traceback.print_exc()
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}, line {frame.lineno}"
            return Failed(reason=f"{type(error).__name__} in {where}: {error}")


def to_json(outcome: Outcome) -> str:
    """Return an outcome as text, which any engine can carry."""
    return json.dumps(asdict(outcome))


def from_json(text: str) -> Outcome:
    """Read what `to_json` wrote."""
    values = json.loads(text)
    return Failed(reason=values["reason"]) if "reason" in values else Done(value=values["value"])


class Engine(ABC):
    """Something that runs jobs, some at once."""

    at_once: int
    """Most jobs that may run or wait in the engine's own queue."""
    running: Sized
    """Jobs that have not ended."""
    patience: float = STOP_SECONDS
    """Seconds that jobs may take to end after a Ctrl-C."""

    @abstractmethod
    def start(self, taken: Sequence[tuple[int, Any]]) -> None:
        """Start jobs: numbers and arguments."""

    @abstractmethod
    def ended(self) -> list[tuple[int, Outcome]]:
        """Wait a moment; return number and outcome of the jobs that have ended."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Ask all running jobs to end where they can go on."""

    @abstractmethod
    def close(self) -> None:
        """Stop what still runs: each job can go on later, unless it takes too long."""

    def kill(self) -> None:  # noqa: B027 -- not every engine can
        """End all running jobs at once, where the engine can."""


def drive(engine: Engine, arguments: Sequence[Any]) -> Results:
    """Do a job for each argument; yield each outcome with its number, as it comes.

    Raises:
        RunInterrupted: The user stopped them; they have ended by then, each where it can go on. A
            second Ctrl-C ends them at once.
    """
    waiting = list(enumerate(arguments))
    n_done, deadline = 0, None
    with stop_on_interrupt() as stop_requested:
        try:
            while waiting or engine.running:
                if deadline is None and stop_requested():
                    deadline = time.monotonic() + engine.patience
                    waiting.clear()
                    engine.ask_to_stop()
                if taken := waiting[: engine.at_once - len(engine.running)]:
                    del waiting[: len(taken)]
                    engine.start(taken)
                for index, outcome in engine.ended():
                    if isinstance(outcome, Done) or deadline is None:
                        n_done += 1
                        yield index, outcome
                if deadline is not None and time.monotonic() > deadline:
                    break
        except KeyboardInterrupt:
            engine.kill()
            raise
        finally:
            engine.close()
    if n_done < len(arguments):
        raise RunInterrupted(f"stopped with {n_done} of {len(arguments)} jobs done")
