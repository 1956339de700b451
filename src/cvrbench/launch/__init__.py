"""Many jobs on one engine: this process, several, a Slurm cluster, or Ray.

    outcomes = launch(function, arguments, launcher, folder=results_dir, on_done=...)

A job is a module-level function of one plain value that returns a plain value. It may fail, or its
process may die: that is its own outcome and no other job's.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, assert_never

from cvrbench.config.runtime import (
    LauncherConfig,
    LocalConfig,
    ProcessesConfig,
    RayConfig,
    SubmititConfig,
)
from cvrbench.errors import RunInterrupted
from cvrbench.launch.engines import Processes, Ray, Slurm, load
from cvrbench.launch.job import STOPPED, Done, Failed, Job, OnDone, Outcome, Results, drive

__all__ = ["Done", "Failed", "OnDone", "Outcome", "check_installed", "launch"]


def launch(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    launcher: LauncherConfig,
    *,
    folder: Path,
    on_done: OnDone,
) -> list[Outcome]:
    """Call `function(argument)` once for each argument, on the engine that `launcher` names.

    Args:
        function: At the top of a module that other processes can import.
        arguments: Values that JSON holds, as are the results.
        launcher: The engine, and how much of it.
        folder: Where an engine may keep files of its jobs; all machines must see it.
        on_done: Told `(index, outcome)` of each job as it ends, in this process. What it raises
            stops the jobs under way, as Ctrl-C does, and is raised here.

    Returns:
        The outcomes in the order of the arguments.

    Raises:
        ConfigError: The engine's package is not installed, or its cluster is not there.
        RunInterrupted: The user stopped it; jobs under way have ended by then.
    """
    outcomes: dict[int, Outcome] = {}
    with closing(_results(Job.of(function), arguments, launcher, folder)) as results:
        for index, outcome in results:
            outcomes[index] = outcome
            on_done(index, outcome)
    return [outcomes[index] for index in range(len(arguments))]


def check_installed(launcher: LauncherConfig) -> None:
    """Make sure that the engine can be used, before anything is prepared for it.

    Raises:
        ConfigError: A package is missing; says which to install.
    """
    if isinstance(launcher, SubmititConfig | RayConfig):
        load(launcher.kind)


def _results(job: Job, arguments: Sequence[Any], launcher: LauncherConfig, folder: Path) -> Results:
    match launcher:
        case LocalConfig():
            return _one_after_another(job, arguments)
        case ProcessesConfig():
            return drive(Processes(job, launcher), arguments)
        case SubmititConfig():
            return drive(Slurm(job, launcher, folder / "jobs", len(arguments)), arguments)
        case RayConfig():
            return drive(Ray(job, launcher), arguments)
        case _:
            assert_never(launcher)


def _one_after_another(job: Job, arguments: Sequence[Any]) -> Results:
    """Do the jobs in this process; yield each outcome with its number.

    Raises:
        RunInterrupted: The user stopped one.
    """
    for index, argument in enumerate(arguments):
        outcome = job.attempt(argument)
        if outcome == Failed(reason=STOPPED):
            raise RunInterrupted(f"stopped with {index} of {len(arguments)} jobs done")
        yield index, outcome
