"""One configuration, one result: whatever the threads and the launcher."""

import warnings
from pathlib import Path

import pytest
import torch

from cvrbench.cli.plan import run_plan
from cvrbench.config.compose import compose
from cvrbench.config.runtime import LocalConfig, ProcessesConfig
from cvrbench.runs import experiment, planning
from cvrbench.training.device import Determinism, collect_loose
from tests.resilience.bits import digests

WIDE = ("experiment=quick_check", "model.hidden=[128,64]", "trainer.batch_size=1024")
"""Wide enough for torch to share its sums among threads."""


def cells(data, place, *words, seeds=(0,)):
    places = (f"data_dir={data}", f"results_dir={place}")
    return [compose([*WIDE, *words, *places, f"seed={seed}"]) for seed in seeds]


def results(cells):
    return [digests(planning.folder_of(cell)) for cell in cells]


@pytest.mark.parametrize("model", ["shared_bottom", pytest.param("ncs", marks=pytest.mark.slow)])
def test_two_runs_of_a_configuration_are_the_same_bit_for_bit_with_any_threads(
    quick_data, tmp_path, model
):
    found = []
    for number, threads in enumerate((1, 1, 2, 2)):
        words = (f"model={model}", f"trainer.threads={threads}")
        (cell,) = cells(quick_data, tmp_path / str(number), *words)
        record = experiment.run(cell)
        assert record.environment["threads"] == threads
        assert record.environment["deterministic"] is True
        found += results([cell])
    assert found[0] == found[1]
    assert found[2] == found[3]
    # Not promised, but so for every strategy that was tried: docs/explanation/robustness.md.
    assert found[0] == found[2]


@pytest.mark.slow
def test_a_launcher_changes_no_bit(quick_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CVRBENCH_CONF", str(Path(__file__).parents[2] / "conf"))
    found = []
    for launcher in (
        LocalConfig(kind="local", together="auto"),
        ProcessesConfig(kind="processes", workers=2),
    ):
        place = tmp_path / launcher.kind
        plan = cells(quick_data, place, "model=ncs", "trainer.threads=1", seeds=(0, 1, 2))
        options = {"force": False, "fail_fast": True, "as_json": False}
        assert run_plan(plan, launcher, **options)[1] == []
        found.append(results(plan))
    assert found[0] == found[1]
    assert len({seed["best.safetensors"] for seed in found[0]}) == 3


def test_what_has_no_fixed_order_is_noted_instead_of_warned_of():
    found = Determinism(asked=True)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        with collect_loose(found.loose):
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
            with pytest.warns(UserWarning, match="another matter"):
                warnings.warn("another matter", UserWarning, stacklevel=1)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert found.facts() == {"deterministic": False, "not_deterministic": ["put_"]}
    assert Determinism(asked=True).facts() == {"deterministic": True}
    assert Determinism(asked=False).facts() == {"deterministic": False}
