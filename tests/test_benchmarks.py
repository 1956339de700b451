"""The benchmark suite runs, keeps its figures and tells a change for the worse."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import gpu

from cvrbench.config.schema import InteractionConfig
from tests.models.conftest_models import BALANCINGS, KINDS, OBJECTIVES, kinds

AXES = {
    "model": KINDS,
    "objective": OBJECTIVES,
    "balancing": BALANCINGS,
    "interaction": kinds(InteractionConfig),
}

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.suite", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_every_benchmark_runs_at_a_small_size(tmp_path):
    out = tmp_path / "figures.json"
    done = run("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    kept = json.loads(out.read_text())
    names = [figure["name"] for figure in kept["figures"]]
    assert len(set(names)) == len(names)
    seeds = {"many_seeds"}
    rooms = {"train", *seeds, "evaluate", "start", "data", "checkpoints", "memory"}
    assert {name.split("/")[0] for name in names} == rooms
    assert all(math.isfinite(f["value"]) and f["value"] >= 0 for f in kept["figures"])
    assert kept["machine"]["threads"] >= 1


@pytest.mark.slow
def test_a_figure_that_became_worse_fails_the_comparison(tmp_path):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    assert run("evaluation", "--quick", "--out", before).returncode == 0
    kept = json.loads(before.read_text())
    for figure in kept["figures"]:
        if figure["at_least"] is not None:
            figure["value"] *= 1000
    before.write_text(json.dumps(kept))
    compared = run("evaluation", "--quick", "--out", now, "--against", before)
    assert compared.returncode == 1
    assert "worse" in compared.stdout
    assert json.loads(now.read_text())["figures"]


@pytest.mark.slow
def test_every_branch_of_the_gpu_script_runs_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--cpu-rehearsal", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kept = json.loads(out.read_text())
    assert kept["ended"] == {}
    figures = {figure["name"]: figure for figure in kept["figures"]}
    assert {name.split("/")[0] for name in figures} == {*gpu.PARTS}
    choices = {f"{group}/{kind}" for group, names in AXES.items() for kind in names}
    assert {name.removeprefix("same/") for name in figures if name.startswith("same/")} == choices
    drawn = {n for n, f in figures.items() if f["detail"].startswith("predictions alone")}
    assert {"same/model/snr_trans", "same/balancing/random"} <= drawn
    assert not {"same/model/mmoe", "same/balancing/pcgrad"} & drawn


def test_the_gpu_script_sees_a_device_that_computes_something_else():
    one = {"loss": torch.tensor(2.0), "trunk": torch.tensor([1.0, -4.0])}
    assert gpu.farthest(one, one) == 0
    off = {**one, "trunk": torch.tensor([1.0, -4.004])}
    assert gpu.farthest(one, off) == pytest.approx(1e-3, rel=1e-3)
    assert gpu.farthest(one, {"loss": one["loss"]}) == math.inf


def test_an_unknown_benchmark_is_named():
    done = run("trainings")
    assert done.returncode == 2
    assert "there is no benchmark 'trainings'" in done.stderr
