"""Jobs on an engine: each ends in its own way, and takes no other with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cvrbench.config.runtime import LocalConfig, ProcessesConfig, RayConfig, SubmititConfig
from cvrbench.errors import ConfigError, RunInterrupted
from cvrbench.launch import Done, Failed, check_installed, engines, job, launch
from tests.launch import jobs

ROOT = Path(__file__).parents[2]
LOCAL = LocalConfig(kind="local", together="auto")
TWO = ProcessesConfig(kind="processes", workers=2)
THREE = ProcessesConfig(kind="processes", workers=3)
SLURM = SubmititConfig(
    kind="submitit",
    workers=2,
    cluster="local",
    partition=None,
    minutes=5,
    memory_gb=1,
    cpus=1,
    gpus=0,
)
RAY = RayConfig(kind="ray", workers=2, address=None, cpus=1, gpus=0)

here_and_there = pytest.mark.parametrize("launcher", [LOCAL, TWO], ids=["local", "processes"])


def ignore(index, outcome):
    pass


@here_and_there
def test_every_job_is_done_once_and_told_once(launcher, tmp_path):
    told = {}
    outcomes = launch(jobs.double, [3, 1, 2], launcher, folder=tmp_path, on_done=told.__setitem__)
    assert outcomes == [Done(value=6), Done(value=2), Done(value=4)]
    assert [told[index] for index in range(3)] == outcomes
    assert launch(jobs.double, [], launcher, folder=tmp_path, on_done=ignore) == []


def test_results_come_as_they_are_ready_and_are_given_back_in_order(tmp_path):
    told = []
    arguments = [(str(tmp_path), number) for number in range(3)]
    outcomes = launch(
        jobs.after_the_next, arguments, THREE, folder=tmp_path, on_done=lambda i, _: told.append(i)
    )
    assert told == [2, 1, 0]
    assert outcomes == [Done(value=0), Done(value=1), Done(value=2)]


@here_and_there
def test_an_exception_is_the_outcome_of_its_job_alone(launcher, tmp_path):
    orders = ["refuse", "bug", "unplain", "well"]
    outcomes = launch(jobs.obey, orders, launcher, folder=tmp_path, on_done=ignore)
    assert outcomes[0] == Failed(reason="the loss is not finite")
    assert outcomes[1].reason.startswith("KeyError in jobs.py, line ")
    assert outcomes[2].reason.startswith("TypeError")
    assert outcomes[3] == Done(value="well")


def test_a_death_is_explained_and_takes_no_other_job_with_it(tmp_path):
    orders = ["kill", "well", "exit", "fine"]
    outcomes = launch(jobs.obey, orders, TWO, folder=tmp_path, on_done=ignore)
    assert "killed (SIGKILL)" in outcomes[0].reason
    assert "memory" in outcomes[0].reason
    assert "exit code 3" in outcomes[2].reason
    assert [outcomes[1], outcomes[3]] == [Done(value="well"), Done(value="fine")]


def test_no_more_jobs_than_workers_run_at_once(tmp_path):
    places = [str(tmp_path)] * 5
    outcomes = launch(jobs.count_neighbours, places, TWO, folder=tmp_path, on_done=ignore)
    assert 1 <= max(outcome.value for outcome in outcomes) <= 2


def test_a_job_stands_where_its_starter_stands(tmp_path, monkeypatch):
    for value in ("here", "there"):  # the second finds a server that began before it was set
        folder = tmp_path / value
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("CVRBENCH_TRIED", value)
        names = ["CVRBENCH_TRIED"] * 2
        outcomes = launch(jobs.surroundings, names, TWO, folder=folder, on_done=ignore)
        assert {outcome.value["cwd"] for outcome in outcomes} == {str(folder)}
        assert {outcome.value["variable"] for outcome in outcomes} == {value}
        assert len({outcome.value["pid"] for outcome in outcomes} | {os.getpid()}) == 3


@pytest.mark.parametrize(("n_cores", "workers", "threads"), [(8, 2, 4), (8, 3, 2), (2, 5, 1)])
def test_workers_share_the_cores(n_cores, workers, threads, tmp_path, monkeypatch):
    monkeypatch.setattr("cvrbench.launch.engines.cores", lambda: n_cores)
    launcher = ProcessesConfig(kind="processes", workers=workers)
    (outcome,) = launch(jobs.surroundings, ["X"], launcher, folder=tmp_path, on_done=ignore)
    assert outcome.value["threads"] == threads


BESIDE = """
import json
from pathlib import Path
from cvrbench.config.runtime import ProcessesConfig
from cvrbench.launch import engines, launch
from tests.launch import jobs

engines.cores = lambda: 2
two = ProcessesConfig(kind="processes", workers=2)
outcomes = launch(jobs.pools, [0, 1], two, folder=Path(), on_done=lambda *_: None)
print(json.dumps([outcome.value for outcome in outcomes]))
"""


def test_workers_together_keep_no_more_threads_than_there_are_cores(tmp_path):
    free = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    told = subprocess.run(
        [sys.executable, "-c", BESIDE],
        cwd=tmp_path,
        env={**free, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = json.loads(told)
    assert [(f["torch"], f["polars"]) for f in found] == [(1, 1), (1, 1)]
    # One core each: two would show in processor time, whatever else the machine is doing.
    assert max(f["busy"] for f in found) < 1.3


@pytest.mark.parametrize(("n_gpus", "chosen"), [(0, []), (1, []), (2, [0, 1, 0])])
def test_workers_take_the_gpus_of_a_machine_in_turn(n_gpus, chosen, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for place in range(3):
        job.Share(threads=None, place=place).take()
    assert taken == chosen


def test_an_exception_of_the_starter_stops_the_jobs_under_way(tmp_path):
    def stop(index, outcome):
        raise RuntimeError("enough")

    begun = time.monotonic()
    arguments = [str(tmp_path), str(tmp_path / "no such folder")]
    with pytest.raises(RuntimeError, match="enough"):
        launch(jobs.wait_for_ever, arguments, TWO, folder=tmp_path, on_done=stop)
    assert time.monotonic() - begun < 30
    assert list(tmp_path.glob("running-*")) == []


STARTER = """
import sys
from pathlib import Path
from cvrbench.config.runtime import ProcessesConfig
from cvrbench.launch import launch
from tests.launch import jobs

launch(jobs.wait_for_ever, [sys.argv[1]] * 3, ProcessesConfig(kind="processes", workers=2),
       folder=Path(sys.argv[1]), on_done=print)
"""


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start jobs from a process of their own, and wait until two run."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list(folder.glob("running-*"))) == 2 or starter.poll() is not None)
    return starter


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_ctrl_c_lets_the_jobs_end_and_is_reported_once(tmp_path):
    starter = start(tmp_path)
    starter.send_signal(signal.SIGINT)
    _, err = starter.communicate(timeout=60)
    assert err.splitlines()[-1].endswith("RunInterrupted: stopped with 0 of 3 jobs done")
    assert err.count("Traceback") == 1  # the starter's, which does not catch it
    assert len(list(tmp_path.glob("asked-*"))) == 2
    assert list(tmp_path.glob("running-*")) == []


def test_jobs_end_when_their_starter_is_killed(tmp_path):
    starter = start(tmp_path)
    starter.kill()
    starter.communicate(timeout=60)
    wait_until(lambda: len(list(tmp_path.glob("asked-*"))) == 2)


def test_an_interrupt_of_a_job_here_is_the_users(tmp_path):
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(RunInterrupted, match="stopped with 0 of 2 jobs done"):
        launch(interrupted, [1, 2], LOCAL, folder=tmp_path, on_done=ignore)


@pytest.mark.parametrize(("launcher", "package"), [(SLURM, "submitit"), (RAY, "ray")])
def test_a_missing_package_is_named_with_what_installs_it(launcher, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    for ask in (
        lambda: check_installed(launcher),
        lambda: launch(jobs.double, [1], launcher, folder=tmp_path, on_done=ignore),
    ):
        with pytest.raises(ConfigError, match=rf"pip install 'cvrbench\[{package}\]'"):
            ask()


def test_without_slurm_its_cluster_cannot_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = SubmititConfig(**{**vars(SLURM), "cluster": "slurm"})
    with pytest.raises(ConfigError, match=r"launcher\.cluster=local"):
        launch(jobs.double, [1], launcher, folder=tmp_path, on_done=ignore)


def test_a_preempted_job_of_slurm_is_queued_again_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = engines.PreemptibleJob()
    arguments = (job.Job.of(jobs.double), 4, job.Share(threads=None, place=None))
    queued = again.checkpoint(*arguments)
    assert job.from_json(queued.result()) == job.from_json(again(*arguments)) == Done(value=8)
