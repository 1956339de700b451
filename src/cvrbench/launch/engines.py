"""What runs jobs: processes of this machine, a Slurm cluster through submitit, or Ray's.

A process of its own is what keeps a crash, a kill or a leak from the other jobs. Where the system
can fork from a server, that has loaded the job's modules once, and a process costs milliseconds.
Without Slurm submitit runs the same jobs in processes of this machine. Files of Slurm's jobs, their
logs among them, lie in results_dir/jobs, which every node must see. A Ray cluster is a running one,
or one that is started for the jobs here.
"""

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cvrbench.config.runtime import ProcessesConfig, RayConfig, SubmititConfig
from cvrbench.errors import ConfigError
from cvrbench.launch.job import (
    STOP_SECONDS,
    STOPPED,
    Engine,
    Failed,
    Job,
    Outcome,
    Share,
    from_json,
)
from cvrbench.system.machine import cores

PIPE_SECONDS, POLL_SECONDS = 0.2, 0.5
"""How long a Ctrl-C may go unnoticed, in processes of this machine and on a cluster."""
EXIT_SECONDS = 10.0
"""How long a process may take to end once it has sent its outcome."""


@dataclass(frozen=True)
class _Worker:
    """A process at work; its pipe brings the outcome, and takes a word that asks it to stop."""

    index: int
    """Number of its job."""
    place: int
    """Its number among the workers of this machine."""
    process: BaseProcess
    pipe: "Connection[Any, Any]"


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
            process = self.context.Process(target=_serve, args=(theirs, self.job, argument, share))
            # polars makes its pool when it is imported, which the server does as it starts.
            with share.in_environment():
                process.start()
            theirs.close()  # the pipe then ends with the process
            self.running.append(_Worker(index, place, process, ours))

    def ended(self) -> list[tuple[int, Outcome]]:
        """Wait a moment; return what the workers sent that have spoken or died."""
        ends: dict[Any, _Worker] = {worker.pipe: worker for worker in self.running}
        ends |= {worker.process.sentinel: worker for worker in self.running}
        found = dict.fromkeys(ends[end] for end in wait(list(ends), timeout=PIPE_SECONDS))
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


def _serve(pipe: "Connection[Any, Any]", job: Job, argument: Any, share: Share) -> None:
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
    return _explain_death(worker.process.exitcode) if text is None else from_json(text)


def _kill(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
        process.join()


def _explain_death(exit_code: int | None) -> Failed:
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


def load(package: str) -> Any:
    """Import the package of a launcher of the same name.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module(package)
    except ImportError:
        raise ConfigError(
            f"launcher={package} needs a package that is not installed: "
            f"pip install 'cvrbench[{package}]'"
        ) from None


class PreemptibleJob:
    """A job that Slurm may preempt: put back into the queue, it goes on from its checkpoint."""

    def __call__(self, job: Job, argument: Any, share: Share) -> str:
        """Do the job."""
        return job.elsewhere(argument, share)

    def checkpoint(self, job: Job, argument: Any, share: Share) -> Any:
        """Return what to queue again."""
        return load("submitit").helpers.DelayedSubmission(self, job, argument, share)


class Slurm(Engine):
    """A Slurm cluster, or processes of this machine in its place.

    Raises:
        ConfigError: submitit is not installed, or `sbatch` is not there or refuses the jobs.
    """

    def __init__(self, job: Job, config: SubmititConfig, folder: Path, n_jobs: int) -> None:
        self.job = job
        self.executor = _executor(config, folder)
        self.running: dict[int, Any] = {}
        here = self.executor.cluster == "local"
        threads = min(config.cpus, max(1, cores() // config.workers)) if here else config.cpus
        self.share = Share(threads=threads, place=None)
        # Slurm holds back what is more than its array may run at once; here it is ours to do.
        self.at_once = config.workers if here else max(n_jobs, 1)

    def start(self, taken: Sequence[tuple[int, Any]]) -> None:
        """Put jobs into the queue, as one array."""
        try:
            with self.executor.batch():
                queued = {
                    index: self.executor.submit(PreemptibleJob(), self.job, argument, self.share)
                    for index, argument in taken
                }
        except load("submitit").core.utils.FailedSubmissionError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"Slurm refuses the jobs: {reason}; see launcher.partition") from None
        self.running |= queued

    def ended(self) -> list[tuple[int, Outcome]]:
        """Wait a moment; collect the jobs that are done."""
        time.sleep(POLL_SECONDS)
        done = [index for index, queued in self.running.items() if queued.done()]
        return [(index, _collect_slurm(self.running.pop(index))) for index in done]

    def ask_to_stop(self) -> None:
        """Take jobs out of the queue, and stop those that run."""
        for queued in self.running.values():
            with suppress(Exception):  # it has just ended
                queued.cancel(check=False)

    def close(self) -> None:
        """Cancel what still runs, and wait for its end."""
        self.ask_to_stop()
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end and not all(job.done() for job in self.running.values()):
            time.sleep(POLL_SECONDS)


def _executor(config: SubmititConfig, folder: Path) -> Any:
    cluster = None if config.cluster == "auto" else config.cluster
    try:
        executor = load("submitit").AutoExecutor(folder=folder.absolute(), cluster=cluster)
    except RuntimeError as error:
        raise ConfigError(
            f"launcher.cluster={config.cluster}: {error}; submit from a node that has sbatch, or "
            "set launcher.cluster=local"
        ) from None
    executor.update_parameters(
        name="cvrbench",
        timeout_min=config.minutes,
        mem_gb=config.memory_gb,
        cpus_per_task=config.cpus,
        gpus_per_node=config.gpus,
        slurm_partition=config.partition,
        slurm_array_parallelism=config.workers,
    )
    return executor


def _collect_slurm(queued: Any) -> Outcome:
    try:
        return from_json(queued.result())
    except Exception as error:  # submitit's own, or what a broken job folder raises
        said = [line for line in str(error).splitlines() if line.strip()]
        reason = f"job {queued.job_id} ended without a result ({said[0] if said else error!r})"
        return Failed(reason=f"{reason}; its log is {queued.paths.stderr}")


class Ray(Engine):
    """A Ray cluster; one that was started here ends when it is closed.

    Raises:
        ConfigError: ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, job: Job, config: RayConfig) -> None:
        self.ray = load("ray")
        self.job, self.at_once = job, config.workers
        self.share = Share(threads=config.cpus, place=None)
        self.running: dict[Any, int] = {}
        # A crash must not start a job anew without a word: it may be the job that kills.
        resources = {"num_cpus": config.cpus, "num_gpus": config.gpus}
        self.task = self.ray.remote(max_retries=0, **resources)(_work)
        self.is_ours = not self.ray.is_initialized()
        if not self.is_ours:
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if config.address is None:
            # One started here has room for all workers, whatever this machine has.
            options |= {"num_cpus": config.workers * config.cpus, "include_dashboard": False}
        try:
            self.ray.init(address=config.address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"launcher.address={config.address}: {str(error).splitlines()[0]}; start a cluster "
                "with `ray start --head`, or leave the address out"
            ) from None

    def start(self, taken: Sequence[tuple[int, Any]]) -> None:
        """Start a task for each job."""
        for index, argument in taken:
            self.running[self.task.remote(self.job, argument, self.share)] = index

    def ended(self) -> list[tuple[int, Outcome]]:
        """Wait a moment; collect the tasks that are done."""
        done = self.ray.wait(list(self.running), timeout=POLL_SECONDS)[0]
        return [(self.running.pop(task), self._collect(task)) for task in done]

    def _collect(self, task: Any) -> Outcome:
        try:
            return from_json(self.ray.get(task))
        except self.ray.exceptions.TaskCancelledError:
            return Failed(reason=STOPPED)
        except self.ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return Failed(reason=f"its task died: {lines[0] if lines else type(error).__name__}")

    def ask_to_stop(self) -> None:
        """Interrupt the tasks."""
        for task in self.running:
            self.ray.cancel(task, force=False)

    def close(self) -> None:
        """Interrupt what still runs, wait for its end, and end a cluster of our own."""
        self.ask_to_stop()
        if tasks := list(self.running):
            self.ray.wait(tasks, num_returns=len(tasks), timeout=STOP_SECONDS)
        if self.is_ours:
            self.ray.shutdown()


def _work(job: Job, argument: Any, share: Share) -> str:
    return job.elsewhere(argument, share)
