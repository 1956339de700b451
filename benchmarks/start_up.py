"""How long until something happens: help, the first step of a run, a plan's configurations.

    python -m benchmarks.start_up [--repeats 5]

A run's first step is when its bar shows a rate, on a terminal of its own, with the dataset prepared
before: the planted one, and KuaiRand-Pure where CVRBENCH_RAW_DATA names a folder with its files.
Beside each stands what no program of these packages can do without: Python alone, `import torch`,
and Hydra composing every configuration of the plan for itself. Times are the best of several, as
what else the machine does can only add to them; the processor's own seconds are given as well.
"""

import argparse
import os
import pty
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figure, print_table
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from cvrbench.config.compose import compose, plan, product
from cvrbench.config.folder import find_conf
from cvrbench.runs import planning

COMMAND = (sys.executable, "-m", "cvrbench")
RAW_DATA = os.environ.get("CVRBENCH_RAW_DATA")
HELP_AIM, TICK_AIM, PLAN_AIM = 1 / 3, 3.0, 3.0
RATE = re.compile(rb"[\d,]+ examples/s")
WIDE = {**os.environ, "COLUMNS": "160", "TERM": "xterm"}
PLAN = ["model=mmoe,ple,ncs", "seed=range(10)", "protocol.label_share=1.0,0.3,0.1,0.03,0.01"]


class Time(NamedTuple):
    """How long a command took, and how much of a processor."""

    seconds: float
    cpu: float


def measure(*, quick: bool, repeats: int = 5) -> Iterator[Figure]:
    """Measure the help, the first step on every dataset at hand, and a plan of 150 cells."""
    repeats = 1 if quick else repeats
    yield _help(repeats)
    datasets = [["dataset=synthetic"]]
    if not quick and RAW_DATA and (Path(RAW_DATA) / "kuairand_pure").is_dir():
        datasets.append(["dataset=kuairand"])
    for words in datasets:
        yield _first_step([*words, "model=mmoe"], repeats)
    yield _plan(PLAN[:2] if quick else PLAN)


def _help(repeats: int) -> Figure:
    found, alone = [], []
    for _ in range(repeats + 1):  # the first fills the file cache
        found.append(_run(*COMMAND, "--help"))
        alone.append(_run(sys.executable, "-c", "pass"))
    return _figure("help", found, HELP_AIM, "python", alone)


def _first_step(words: list[str], repeats: int) -> Figure:
    found, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        places = [f"data_dir={folder}/data", f"results_dir={folder}/results"]
        planning.check_plan([compose([*words, *places])])
        for _ in range(repeats + 1):
            found.append(_run_to_step(*COMMAND, "run", "--force", *words, *places))
            alone.append(_run(sys.executable, "-c", "import torch"))
    name = f"first-step/{words[0].partition('=')[2]}"
    return _figure(name, found, TICK_AIM, "import torch", alone)


def _figure(
    name: str, found: Sequence[Time], at_most: float, floor: str, alone: Sequence[Time]
) -> Figure:
    ours, theirs = min(found), min(alone)
    cpu, cpu_alone = (min(one.cpu for one in times) for times in (found, alone))
    return Figure(
        name=f"start/{name}",
        value=ours.seconds,
        unit="s",
        at_most=at_most,
        detail=f"{cpu:.2f} s CPU; {floor} alone {theirs.seconds:.2f} s, {cpu_alone:.2f} s CPU",
    )


def _run(*command: str) -> Time:
    with _timed() as found:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return found[0]


def _run_to_step(*command: str) -> Time:
    """Start a run on a terminal, wait until its bar shows a rate, and end it."""
    ours, theirs = pty.openpty()
    shown = b""
    with _timed() as found:
        run = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=WIDE
        )
        os.close(theirs)
        try:
            while not RATE.search(shown):
                shown += os.read(ours, 4096)
        except OSError:  # the terminal was closed: the run ended without a step
            raise RuntimeError(shown.decode(errors="replace")) from None
        finally:
            run.kill()
            run.wait()
            os.close(ours)
    return found[0]


@contextmanager
def _timed() -> Iterator[list[Time]]:
    """Take the time, and the processor's for processes that began and ended within."""
    found: list[Time] = []
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield found
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found.append(Time(seconds, cpu))


def _plan(words: list[str]) -> Figure:
    """Compose a plan, and have Hydra compose each of its cells from the start."""
    compose()  # what is imported and built once
    begun = time.process_time()
    cells = plan(words, multirun=True)
    ours = (time.process_time() - begun) / len(cells)
    few = product(words)[:: max(len(cells) // 15, 1)]
    begun = time.process_time()
    for cell in few:
        with initialize_config_dir(str(find_conf().main.parent), version_base="1.3"):
            hydra_compose("config", cell)
    theirs = (time.process_time() - begun) / len(few)
    return Figure(
        name="start/plan/hydra",
        value=theirs / ours,
        unit="times faster",
        at_least=PLAN_AIM,
        detail=f"{ours * 1e3:.2g} ms a cell, validated; Hydra {theirs * 1e3:.0f} ms",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    print_table(list(measure(quick=False, repeats=parser.parse_args().repeats)))


if __name__ == "__main__":
    main()
