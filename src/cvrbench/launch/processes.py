"""Jobs in processes of this machine: a fresh one for each, at most so many at once.

A process of its own is what keeps a crash, a kill or a leak from the other jobs. Where the system
can fork from a server, that has loaded the job's modules once, and a process costs milliseconds.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from cvrbench.config.runtime import ProcessesConfig
from cvrbench.launch.job import STOP_SECONDS, Engine, Failed, Job, Outcome, Share, from_json
from cvrbench.system.machine import cores

POLL_SECONDS = 0.2
"""How long a Ctrl-C may go unnoticed."""
EXIT_SECONDS = 10.0
"""How long a process may take to end once it has sent its outcome."""


@dataclass(frozen=True)
class _Worker:
    """A process at work."""

    index: int
    """Number of its job."""
    place: int
    """Its number among the workers of this machine."""
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    """Brings the outcome; what is sent into it asks the job to stop."""


class Processes(Engine):
    """Processes of this machine."""

    patience = math.inf

    def __init__(self, job: Job, config: ProcessesConfig) -> None:
        self.job, self.at_once, self.context = job, config.workers, _context(job)
        self.running: list[_Worker] = []

    def start(self, taken: Sequence[tuple[int, Any]]) -> None:
        """Start a process for each job."""
        for index, argument in taken:
            place = min(set(range(self.at_once)) - {w.place for w in self.running})
            share = Share(threads=max(1, cores() // self.at_once), place=place)
            ours, theirs = self.context.Pipe()
            process = self.context.Process(target=_work, args=(theirs, self.job, argument, share))
            # polars makes its pool when it is imported, which the server does as it starts.
            with share.in_environment():
                process.start()
            theirs.close()  # the pipe then ends with the process
            self.running.append(_Worker(index, place, process, ours))

    def ended(self) -> list[tuple[int, Outcome]]:
        """Wait a moment; return what the workers sent that have spoken or died."""
        ends: dict[Any, _Worker] = {worker.pipe: worker for worker in self.running}
        ends |= {worker.process.sentinel: worker for worker in self.running}
        found = dict.fromkeys(ends[end] for end in wait(list(ends), timeout=POLL_SECONDS))
        self.running = [worker for worker in self.running if worker not in found]
        return [(worker.index, _collect(worker)) for worker in found]

    def ask_to_stop(self) -> None:
        """Send every job a word."""
        for worker in self.running:
            with suppress(OSError):  # it has just ended
                worker.pipe.send_bytes(b"stop")

    def close(self) -> None:
        """Stop what still runs."""
        self.ask_to_stop()
        try:
            for worker in self.running:
                worker.process.join(STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill what still runs."""
        for worker in self.running:
            _kill(worker.process)


def _context(job: Job) -> ForkServerContext | SpawnContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cvrbench.runs.experiment", job.function.__module__])
    return context


def _work(pipe: "Connection[Any, Any]", job: Job, argument: Any, share: Share) -> None:
    """Do a job in a process of its own, and send its outcome into the pipe."""
    with suppress(KeyboardInterrupt, BrokenPipeError):
        if hasattr(os, "setpgrp"):
            os.setpgrp()  # a terminal's Ctrl-C reaches the parent alone, who asks us once
        threading.Thread(target=_listen, args=(pipe,), daemon=True).start()
        pipe.send_bytes(job.elsewhere(argument, share).encode())


def _listen(pipe: "Connection[Any, Any]") -> None:
    """Interrupt the job when the parent asks for it, or has died and nobody wants the rest."""
    parent = multiprocessing.parent_process()
    wait([pipe, *([] if parent is None else [parent.sentinel])])
    os.kill(os.getpid(), signal.SIGINT)


def _collect(worker: _Worker) -> Outcome:
    text = None
    with suppress(EOFError, OSError):
        if worker.pipe.poll():
            text = worker.pipe.recv_bytes().decode()
    worker.pipe.close()
    worker.process.join(EXIT_SECONDS)
    _kill(worker.process)
    return _explain(worker.process.exitcode) if text is None else from_json(text)


def _kill(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
        process.join()


def _explain(exit_code: int | None) -> Failed:
    """Return how a process ended that sent no outcome."""
    if exit_code is None or exit_code >= 0:
        return Failed(reason=f"its process ended with exit code {exit_code} and without a result")
    name = signal.Signals(-exit_code).name
    if name == "SIGKILL":
        return Failed(
            reason="its process was killed (SIGKILL), as the system does when memory runs out; "
            "try fewer workers, or a smaller trainer.eval_batch_size"
        )
    return Failed(reason=f"its process died of {name}")
