"""One job, as every engine runs it, and how it ends."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cvrbench.errors import CvrbenchError, RunInterrupted

OURS = "CVRBENCH_"
"""Environment variables that begin so say where things are; a job sees those of its starter."""

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
"""Environment variables that libraries read when they make their pools of threads."""

STOPPED = "stopped before its end; the same command goes on where it was"


@dataclass(frozen=True, kw_only=True)
class Done:
    """What the function gave."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no value."""

    reason: str


Outcome = Done | Failed
OnDone = Callable[[int, Outcome], None]
Results = Generator[tuple[int, Outcome], None, None]
"""Number and outcome of each job as it ends; closing it stops those under way."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a job may use of the machine it is on."""

    threads: int | None
    """Of torch, where the job sets none itself, and of polars; None leaves their own choice."""
    place: int | None
    """Number of the worker, by which workers of one machine take its GPUs in turn."""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Have processes that are started meanwhile know how many threads they may use."""
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """A function and where its starter stood: what another process needs to do the same."""

    function: Callable[[Any], Any]
    cwd: str
    command: tuple[str, ...]
    variables: dict[str, str]

    @classmethod
    def of(cls, function: Callable[[Any], Any]) -> Self:
        """Note where this process stands."""
        return cls(
            function=function,
            cwd=str(Path.cwd()),
            command=tuple(sys.argv),
            variables={k: v for k, v in os.environ.items() if k.startswith(OURS)},
        )

    def elsewhere(self, argument: Any, share: Share) -> str:
        """Do the job in a process that was made for it; give its outcome as JSON."""
        if Path(self.cwd).is_dir():  # on another machine it need not be
            os.chdir(self.cwd)
        sys.argv = list(self.command)
        for name in [name for name in os.environ if name.startswith(OURS)]:
            del os.environ[name]
        os.environ.update(self.variables)
        _take(share)
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
    """Give an outcome as text, which any engine can carry."""
    match outcome:
        case Done(value=value):
            return json.dumps({"value": value})
        case Failed(reason=reason):
            return json.dumps({"reason": reason})


def from_json(text: str) -> Outcome:
    """Read what `to_json` wrote."""
    values = json.loads(text)
    return Failed(reason=values["reason"]) if "reason" in values else Done(value=values["value"])


def _take(share: Share) -> None:
    """Keep torch and polars to the job's part of the machine."""
    if share.threads is not None:
        for name in POOLS:
            os.environ[name] = str(share.threads)
    import torch  # after the variables, which it reads when it is loaded

    if share.threads is not None:
        torch.set_num_threads(share.threads)
    if share.place is not None and (n_gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(share.place % n_gpus)
