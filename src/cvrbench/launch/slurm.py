"""Jobs of a Slurm cluster through submitit; without Slurm the same in processes of this machine.

Files of the jobs, their logs among them, lie in results_dir/jobs, which every node must see.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from cvrbench.config.launcher import SubmititConfig
from cvrbench.errors import ConfigError, RunInterrupted
from cvrbench.launch.job import Failed, Job, Outcome, Results, Share, from_json
from cvrbench.machine import cores
from cvrbench.training.progress import stop_on_interrupt

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
"""How long cancelled jobs may take to end."""


class _Again:
    """A job that Slurm may preempt: put back into the queue, it goes on from its checkpoint."""

    def __call__(self, job: Job, argument: Any, share: Share) -> str:
        """Do the job."""
        return job.elsewhere(argument, share)

    def checkpoint(self, job: Job, argument: Any, share: Share) -> Any:
        """Give what to queue again."""
        return load().helpers.DelayedSubmission(self, job, argument, share)


def load() -> ModuleType:
    """Import submitit.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            "launcher=submitit needs a package that is not installed: "
            "pip install 'cvrbench[submitit]'"
        ) from None
    return submitit


def results(job: Job, arguments: Sequence[Any], config: SubmititConfig, folder: Path) -> Results:
    """Do the jobs; give each outcome with its number, as it comes.

    Raises:
        ConfigError: submitit is not installed, or `sbatch` is not there or refuses the jobs.
        RunInterrupted: The user stopped them; they are cancelled.
    """
    executor = _executor(config, folder)
    here = executor.cluster == "local"
    threads = min(config.cpus, max(1, cores() // config.workers)) if here else config.cpus
    share = Share(threads=threads, place=None)
    # Slurm holds back what is more than its array may run at once; here it is ours to do.
    at_once = config.workers if here else len(arguments)
    waiting = list(enumerate(arguments))
    running: dict[int, Any] = {}
    with stop_on_interrupt() as stop_requested:
        try:
            while (waiting or running) and not stop_requested():
                if taken := waiting[: at_once - len(running)]:
                    del waiting[: len(taken)]
                    running |= _submit(executor, job, taken, share)
                for index in [index for index, queued in running.items() if queued.done()]:
                    yield index, _collect(running.pop(index))
                time.sleep(POLL_SECONDS)
        finally:
            _cancel(list(running.values()))
    if waiting or running:
        n_done = len(arguments) - len(waiting) - len(running)
        raise RunInterrupted(f"stopped with {n_done} of {len(arguments)} jobs done")


def _executor(config: SubmititConfig, folder: Path) -> Any:
    submitit = load()
    cluster = None if config.cluster == "auto" else config.cluster
    try:
        executor = submitit.AutoExecutor(folder=folder.absolute(), cluster=cluster)
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


def _submit(
    executor: Any, job: Job, taken: Sequence[tuple[int, Any]], share: Share
) -> dict[int, Any]:
    """Put jobs into the queue, as one array."""
    try:
        with executor.batch():
            return {i: executor.submit(_Again(), job, argument, share) for i, argument in taken}
    except load().core.utils.FailedSubmissionError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Slurm refuses the jobs: {reason}; see launcher.partition") from None


def _collect(queued: Any) -> Outcome:
    try:
        return from_json(queued.result())
    except Exception as error:  # submitit's own, or what a broken job folder raises
        said = [line for line in str(error).splitlines() if line.strip()]
        reason = f"job {queued.job_id} ended without a result ({said[0] if said else error!r})"
        return Failed(reason=f"{reason}; its log is {queued.paths.stderr}")


def _cancel(jobs: Sequence[Any]) -> None:
    """Take jobs out of the queue, and stop those that run."""
    for queued in jobs:
        with suppress(Exception):  # it has just ended
            queued.cancel(check=False)
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end and not all(queued.done() for queued in jobs):
        time.sleep(POLL_SECONDS)
