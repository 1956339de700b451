"""What every test may ask for."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from cvrbench.cli.app import main
from cvrbench.config import compose as composing
from cvrbench.config.compose import Composed, Nodes, compose
from cvrbench.config.folder import Conf
from cvrbench.data.registry import ensure

# No window opens, whatever the machine has.
os.environ.setdefault("MPLBACKEND", "Agg")

# Networks of these sizes gain nothing from a second thread, whose waiting takes a core: five times
# the work on two busy cores. Tests of threads ask for theirs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A machine shared with other work is slow now and then; that is not a failure of the code.
settings.register_profile("cvrbench", deadline=None)
settings.load_profile("cvrbench")


@pytest.fixture(scope="session", autouse=True)
def _files_are_merged_once() -> Iterator[None]:
    """Hydra is asked once for each choice of files, as within a plan: conf/ stays as it is."""
    conf = Conf((Path(__file__).parents[1] / "conf",))
    kept = Nodes(conf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "Nodes", lambda at: kept if at == conf else Nodes(at))
        yield


@pytest.fixture(scope="session")
def raw_data() -> Path:
    """The folder of real raw data that CVRBENCH_RAW_DATA names; without it the test is skipped."""
    named = os.environ.get("CVRBENCH_RAW_DATA")
    if not named:
        pytest.skip("needs real data: set CVRBENCH_RAW_DATA to their folder (CONTRIBUTING.md)")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real data: CVRBENCH_RAW_DATA={named} is no folder")
    return folder


@pytest.fixture(scope="session")
def quick_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir in which the small planted log of `experiment=quick_check` is prepared."""
    folder = tmp_path_factory.mktemp("datasets")
    config = compose(["experiment=quick_check"]).config
    ensure(config.dataset, "synthetic", folder)
    return folder


@pytest.fixture
def quick(quick_data: Path, tmp_path: Path) -> Callable[..., Composed]:
    """Compose a small cell that writes into this test's own folder: `quick("model=ple")`."""

    def composed(*overrides: str) -> Composed:
        places = [f"data_dir={quick_data}", f"results_dir={tmp_path}"]
        return compose(["experiment=quick_check", *places, *overrides])

    return composed


@pytest.fixture(scope="session")
def trained(quick_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a small cell once for all tests: `trained("model=ple")` is its folder, to be read only.

    Tests that change a run copy it first (`given`).
    """
    from cvrbench.runs import experiment  # imports torch, which most tests do without

    results = tmp_path_factory.mktemp("trained")
    places = (f"data_dir={quick_data}", f"results_dir={results}")

    @cache
    def folder(*overrides: str) -> Path:
        record = experiment.run(compose(["experiment=quick_check", *places, *overrides]))
        return results / "runs" / record.run_id

    return folder


@pytest.fixture
def given(trained: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a trained cell to where the command looks, `results` in this test's own folder."""

    def copied(*overrides: str) -> Path:
        run = trained(*overrides)
        return Path(shutil.copytree(run, tmp_path / "results" / "runs" / run.name))

    return copied


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def cvrbench(monkeypatch, capsys, quick_data, tmp_path):
    """Call the command in an empty folder; the planted log is prepared already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CVRBENCH_RAW_DATA", raising=False)
    monkeypatch.setenv("CVRBENCH_CONF", str(Path(__file__).parents[1] / "conf"))
    (tmp_path / "datasets").symlink_to(quick_data)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["cvrbench", *arguments])
        code = main()
        return Said(code, *capsys.readouterr())

    return call
