"""The benchmark suite runs, keeps its figures and tells a change for the worse."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_an_unknown_benchmark_is_named():
    done = run("trainings")
    assert done.returncode == 2
    assert "there is no benchmark 'trainings'" in done.stderr
