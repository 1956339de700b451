"""Jobs as tasks of a Ray cluster: a running one, or one that is started for them here."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from cvrbench.config.launcher import RayConfig
from cvrbench.errors import ConfigError, RunInterrupted
from cvrbench.launch.job import STOPPED, Failed, Job, Outcome, Results, Share, from_json
from cvrbench.training.progress import stop_on_interrupt

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
"""How long cancelled tasks may take to end."""


def load() -> ModuleType:
    """Import ray.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "launcher=ray needs a package that is not installed: pip install 'cvrbench[ray]'"
        ) from None
    return ray


def results(job: Job, arguments: Sequence[Any], config: RayConfig) -> Results:
    """Do the jobs; give each outcome with its number, as it comes.

    Raises:
        ConfigError: ray is not installed, or there is no cluster at the address.
        RunInterrupted: The user stopped them; they have ended by then, each where it can go on.
    """
    ray = load()
    waiting = list(enumerate(arguments))
    running: dict[Any, int] = {}
    with _cluster(ray, config), stop_on_interrupt() as stop_requested:
        # A crash must not start a job anew without a word: it may be the job that kills.
        task = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=0)(_work)
        try:
            while (waiting or running) and not stop_requested():
                while waiting and len(running) < config.workers:
                    index, argument = waiting.pop(0)
                    share = Share(threads=config.cpus, place=None)
                    running[task.remote(job, argument, share)] = index
                for reference in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                    yield running.pop(reference), _collect(ray, reference)
        finally:
            _cancel(ray, list(running))
    if waiting or running:
        n_done = len(arguments) - len(waiting) - len(running)
        raise RunInterrupted(f"stopped with {n_done} of {len(arguments)} jobs done")


def _work(job: Job, argument: Any, share: Share) -> str:
    return job.elsewhere(argument, share)


@contextmanager
def _cluster(ray: ModuleType, config: RayConfig) -> Iterator[None]:
    """Be connected to a cluster; one that was started here ends here."""
    mine = not ray.is_initialized()
    if mine:
        # One started here has room for all workers, whatever this machine has.
        own = {"num_cpus": config.workers * config.cpus, "include_dashboard": False}
        try:
            ray.init(
                address=config.address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if config.address is None else {}),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"launcher.address={config.address}: {str(error).splitlines()[0]}; start a cluster "
                "with `ray start --head`, or leave the address out"
            ) from None
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


def _collect(ray: ModuleType, reference: Any) -> Outcome:
    try:
        return from_json(ray.get(reference))
    except ray.exceptions.TaskCancelledError:
        return Failed(reason=STOPPED)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Failed(reason=f"its task died: {lines[0] if lines else type(error).__name__}")


def _cancel(ray: ModuleType, references: Sequence[Any]) -> None:
    """Interrupt tasks, and wait until they have ended."""
    for reference in references:
        ray.cancel(reference, force=False)
    if references:
        ray.wait(list(references), num_returns=len(references), timeout=STOP_SECONDS)
