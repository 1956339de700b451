"""Jobs in processes of this machine: a fresh one for each, at most so many at once.

A process of its own is what keeps a crash, a kill or a leak from the other jobs. Where the system
can fork from a server, that has loaded the job's modules once, and a process costs milliseconds.
"""

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

from cvrbench.config.launcher import ProcessesConfig
from cvrbench.errors import RunInterrupted
from cvrbench.launch.job import Done, Failed, Job, Outcome, Results, Share, from_json
from cvrbench.machine import cores
from cvrbench.training.progress import stop_on_interrupt

POLL_SECONDS = 0.2
"""How long a Ctrl-C may go unnoticed."""
EXIT_SECONDS = 10.0
"""How long a process may take to end once it has given its outcome."""
STOP_SECONDS = 60.0
"""How long a job may take to end once it is asked to, when another has ended the plan."""


@dataclass(frozen=True)
class _Worker:
    """A process at work."""

    index: int
    """Of its job."""
    place: int
    """Among the workers of this machine."""
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    """Brings the outcome; what is sent into it asks the job to stop."""


def results(job: Job, arguments: Sequence[Any], config: ProcessesConfig) -> Results:
    """Do the jobs; give each outcome with its number, as it comes.

    Raises:
        RunInterrupted: The user stopped them; they have ended by then, each where it can go on. A
            second Ctrl-C ends them at once.
    """
    context = _context(job)
    waiting = list(enumerate(arguments))
    running: list[_Worker] = []
    n_done, stopping = 0, False
    with stop_on_interrupt() as stop_requested:
        try:
            while waiting or running:
                if stop_requested() and not stopping:
                    stopping = True
                    waiting.clear()
                    _ask_to_stop(running)
                while waiting and len(running) < config.workers:
                    place = min(set(range(config.workers)) - {w.place for w in running})
                    running.append(_start(context, job, *waiting.pop(0), place, config.workers))
                for worker in _ended(running):
                    running.remove(worker)
                    outcome = _collect(worker)
                    if isinstance(outcome, Done) or not stopping:
                        n_done += 1
                        yield worker.index, outcome
        except KeyboardInterrupt:
            _kill(running)
            raise
        finally:
            _stop(running)
    if n_done < len(arguments):
        raise RunInterrupted(f"stopped with {n_done} of {len(arguments)} jobs done")


def _context(job: Job) -> ForkServerContext | SpawnContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cvrbench.experiment", job.function.__module__])
    return context


def _start(
    context: ForkServerContext | SpawnContext,
    job: Job,
    index: int,
    argument: Any,
    place: int,
    workers: int,
) -> _Worker:
    share = Share(threads=max(1, cores() // workers), place=place)
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, job, argument, share))
    # polars makes its pool when it is imported, which the server does as it starts.
    with share.told():
        process.start()
    theirs.close()  # the pipe then ends with the process
    return _Worker(index, place, process, ours)


def _work(pipe: "Connection[Any, Any]", job: Job, argument: Any, share: Share) -> None:
    """What a process does: the job, and its outcome into the pipe."""
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


def _ended(running: Sequence[_Worker]) -> list[_Worker]:
    """Wait a moment; give the workers that have spoken or died."""
    ends: dict[Any, _Worker] = {worker.pipe: worker for worker in running}
    ends |= {worker.process.sentinel: worker for worker in running}
    return list(dict.fromkeys(ends[end] for end in wait(list(ends), timeout=POLL_SECONDS)))


def _collect(worker: _Worker) -> Outcome:
    text = None
    with suppress(EOFError, OSError):
        if worker.pipe.poll():
            text = worker.pipe.recv_bytes().decode()
    worker.pipe.close()
    worker.process.join(EXIT_SECONDS)
    if worker.process.is_alive():
        _kill([worker])
    return _explain(worker.process.exitcode) if text is None else from_json(text)


def _explain(exit_code: int | None) -> Failed:
    """Say how a process ended that gave no outcome."""
    if exit_code is None or exit_code >= 0:
        return Failed(reason=f"its process ended with exit code {exit_code} and without a result")
    name = signal.Signals(-exit_code).name
    if name == "SIGKILL":
        return Failed(
            reason="its process was killed (SIGKILL), as the system does when memory runs out; "
            "try fewer workers, or a smaller trainer.eval_batch_size"
        )
    return Failed(reason=f"its process died of {name}")


def _ask_to_stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        with suppress(OSError):  # it has just ended
            worker.pipe.send_bytes(b"stop")


def _stop(workers: Sequence[_Worker]) -> None:
    """Stop what still runs: each can go on later, unless it takes too long."""
    _ask_to_stop(workers)
    try:
        for worker in workers:
            worker.process.join(STOP_SECONDS)
    finally:
        _kill(workers)


def _kill(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
