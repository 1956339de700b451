"""Plans of runs on engines and on shared folders: the same numbers, and no cell twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cvrbench.cli import plan as cli_plan

ROOT = Path(__file__).parents[2]
QUICK = ("experiment=quick_check", "model.hidden=[8]", "model.tower=[]", "trainer.threads=1")
PLAN = ("run", "-m", *QUICK, "model=shared_bottom,mmoe", "seed=0,1", "--json")
ONE_BY_ONE = "launcher.together=1"
"""To the last bit a run gives the same on every engine only if seeds are not one program."""


def by_cell(rows):
    return {(row["model"], row["seed"]): row["metrics"] for row in rows}


def command(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command in a folder whose planted log is prepared."""
    return subprocess.Popen(
        [sys.executable, "-m", "cvrbench", *arguments],
        cwd=folder,
        env={**os.environ, "CVRBENCH_CONF": str(ROOT / "conf")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_give_the_numbers_that_one_process_gives(cvrbench):
    alone = cvrbench(*PLAN, "results_dir=alone", ONE_BY_ONE)
    several = cvrbench(*PLAN, "results_dir=several", "launcher=processes", "workers=2")
    assert (alone.code, several.code, several.err) == (0, 0, "")
    assert len(several.json()) == 4
    assert by_cell(several.json()) == by_cell(alone.json())
    names = [{path.name for path in Path(d, "runs").iterdir()} for d in ("alone", "several")]
    assert names[0] == names[1]  # what starts a run is no part of its identity
    again = cvrbench(*PLAN, "results_dir=several", "workers=2").json()
    assert by_cell(again) == by_cell(alone.json())
    record = json.loads(Path(again[0]["run_dir"], "record.json").read_text())
    assert record["test_scored"] == 1
    assert record["environment"]["command"].endswith("launcher=processes workers=2")


def test_a_plan_on_processes_prints_and_fails_as_one_in_one_process(cvrbench):
    mixed = ("run", "-m", *QUICK, "model=shared_bottom", "trainer.learning_rate=1e30,0.001")
    said = cvrbench(*mixed, "workers=2")
    assert said.code == 1
    assert "CVR (clicked)" in said.out
    assert "1 of 2 runs failed" in said.err
    assert "trainer.learning_rate=1e+30" in said.err
    stopped = cvrbench(*mixed, "model=mmoe", "workers=2", "--fail-fast", "--json")
    assert stopped.code == 1
    assert "learning_rate" in stopped.err
    forced = cvrbench("run", *QUICK, "model=shared_bottom", "launcher=processes", "--force")
    assert (forced.code, forced.err) == (0, "")
    record = Path(forced.out.splitlines()[-1], "record.json")
    assert json.loads(record.read_text())["test_scored"] == 2


def test_a_dry_run_reads_the_launcher_and_starts_nothing(cvrbench):
    said = cvrbench(*PLAN, "--dry-run", "launcher=processes")
    assert [row["state"] for row in said.json()] == ["new"] * 4
    assert all("launcher" not in " ".join(row["overrides"]) for row in said.json())
    assert not Path("results").exists()


MISUSES = {
    ("launcher=slrum",): "no launcher called 'slrum'. Choices: local, processes, ray, submitit",
    ("launcher=proceses",): "Did you mean 'processes'",
    ("launcher=processes", "launcher.workers=0"): "launcher.workers must be greater than or equal",
    ("workers=many",): "launcher.workers must be a whole number; got 'many'",
    ("launcher=processes", "launcher.partition=x"): "belongs to launcher=submitit",
    ("launcher=submitit", "launcher.minuts=5"): "Did you mean 'launcher.minutes'",
    ("launcher=local", "workers=2"): "you have launcher=local",
    ("launcher=processes,ray",): "launcher takes one",
    ("lancher=ray",): "Did you mean 'launcher'",
}


@pytest.mark.parametrize("words", MISUSES, ids=" ".join)
def test_a_wrong_launcher_is_answered_with_the_right_one(cvrbench, words):
    said = cvrbench("run", *QUICK, *words)
    assert said.code == 2
    assert MISUSES[words] in said.err
    assert len(said.err.splitlines()) == 1


def test_a_launcher_is_no_part_of_a_configuration(cvrbench):
    for word in ("launcher=processes", "launcher.workers=2"):
        said = cvrbench("config", word)
        assert (said.code, said.out) == (2, "")
        assert f"{word} says how runs are started" in said.err
        assert len(said.err.splitlines()) == 1


def test_a_missing_package_is_found_out_before_anything_starts(cvrbench, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    said = cvrbench("run", *QUICK, "launcher=submitit")
    assert said.code == 2
    assert "pip install 'cvrbench[submitit]'" in said.err
    assert not Path("results").exists()


@pytest.mark.slow
def test_two_commands_with_one_plan_train_each_cell_once(cvrbench, tmp_path):
    plan = ("run", "-m", *QUICK, "model=shared_bottom,mmoe", "seed=range(0,4)", "--json")
    both = [command(tmp_path, *plan), command(tmp_path, *plan, "workers=2")]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [err for _, err in said] == ["", ""]
    rows = [by_cell(map(json.loads, out.splitlines())) for out, _ in said]
    assert len(rows[0]) == 8
    assert rows[0] == rows[1]
    scored = [int(file.read_text()) for file in Path("results/runs").glob("*/test-scored")]
    assert scored == [1] * 8


HOLDER = """
import json, shutil, sys
from pathlib import Path
from cvrbench.runs.store import ResultStore

name, finished = sys.argv[1:]
with ResultStore(Path("results")).open(name, config={}, choices={}, fresh=True) as folder:
    print("held", flush=True)
    if sys.stdin.readline() == "finish\\n":
        for file in Path(finished, "runs", name).iterdir():
            if file.name not in {"lock", "checkpoints"}:
                shutil.copy(file, folder.path)
        shutil.rmtree(folder.checkpoints)
    else:
        import os
        os._exit(9)
"""


@pytest.mark.parametrize(
    "launcher",
    [ONE_BY_ONE, pytest.param("launcher=processes", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("end", ["finish", pytest.param("die", marks=pytest.mark.slow)])
def test_a_cell_that_another_process_holds_comes_last(cvrbench, tmp_path, launcher, end):
    """Its record is read when the other has finished it; it is run when the other has died."""
    plan = ("run", "-m", *QUICK, "model=shared_bottom", "seed=0,1,2", "--json")
    first, *_ = expected = cvrbench(*plan, "results_dir=elsewhere", ONE_BY_ONE).json()
    name = Path(first["run_dir"]).name
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, "elsewhere"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    planned = command(tmp_path, *plan, launcher)
    others = [json.loads(planned.stdout.readline()) for _ in range(2)]
    assert {row["seed"] for row in others} == {1, 2}
    assert planned.poll() is None
    holder.communicate(f"{end}\n", timeout=60)
    out, err = planned.communicate(timeout=60)
    assert (planned.returncode, err) == (0, "")
    last = json.loads(out)
    assert last["metrics"] == first["metrics"]
    here, there = (Path(row["run_dir"], "record.json").read_bytes() for row in (last, first))
    assert (here == there) == (end == "finish")  # read, or trained again
    assert by_cell([*others, last]) == by_cell(expected)


def test_a_single_run_says_at_once_that_another_process_holds_it(cvrbench, monkeypatch):
    (row,) = cvrbench("run", *QUICK, "model=shared_bottom", "--json").json()
    name = Path(row["run_dir"]).name
    shutil.move("results", "elsewhere")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, "elsewhere"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(cli_plan._Plan, "wait", lambda _: pytest.fail("waits"))
    for words in ([], ["launcher=processes"]):
        said = cvrbench("run", *QUICK, "model=shared_bottom", *words)
        assert said.code == 1
        assert "another process is running this cell" in said.err
    holder.communicate("die\n", timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("launcher=submitit", "launcher.cluster=local", "launcher.minutes=5"), ("launcher=ray",)],
    ids=["submitit", "ray"],
)
def test_a_plan_runs_on_an_engine_of_others(cvrbench, tmp_path, words):
    plan = ("run", "-m", *QUICK, "model=shared_bottom,mmoe", "--json")
    alone = cvrbench(*plan, "results_dir=alone")
    mixed = command(tmp_path, *plan, *words, "workers=2", "trainer.learning_rate=0.001,1e30")
    out, err = mixed.communicate(timeout=300)
    assert mixed.returncode == 1
    assert by_cell(map(json.loads, out.splitlines())) == by_cell(alone.json())
    assert len(err.splitlines()) == 3
    assert "2 of 4 runs failed" in err
