"""Workers of a sweep are looked at beside each other before the first trial starts."""

import pytest

from cvrbench.errors import RunError
from cvrbench.runs.memory import PROCESS, REFUSED, estimate
from cvrbench.sweep.study import check_studies, dataset_of, plan_studies
from cvrbench.system import machine
from cvrbench.system.machine import AvailableMemory
from cvrbench.training.device import resolve_device

COMMON = ("experiment=quick_check", "sweep=equal_budget", "preset=false")
SPACE = (
    "model=mmoe",
    "model.hidden=choice([8],[512,64],[16])",
    "trainer.batch_size=choice(500,4000,100)",
    "model.n_experts=range(2,7,2)",
)


@pytest.fixture
def plan(quick_data, tmp_path):
    """Plan one small study in this test's own folder."""

    def planned(*words: str):
        places = [f"data_dir={quick_data}", f"results_dir={tmp_path / 'results'}"]
        (found,) = plan_studies([*COMMON, *places, *words], multirun=False)
        return found

    return planned


def need(plan) -> int:
    """What the largest trial needs, in a process of its own."""
    device, dataset = resolve_device("cpu"), dataset_of(plan.study)
    cells = plan.study.borders()
    found = max(estimate(cell.config, dataset, device).needed for cell in cells)
    return PROCESS + found


def test_the_borders_of_a_space_hold_its_ends_and_every_choice(plan):
    study = plan(*SPACE, "trainer.embedding_optimizer=choice(rowwise_adagrad,adam)").study
    configs = [cell.config for cell in study.borders()]
    assert {config.model.hidden for config in configs} == {(8,), (512, 64), (16,)}
    assert {config.trainer.batch_size for config in configs} == {500, 4000, 100}
    assert {config.trainer.embedding_optimizer for config in configs} == {"rowwise_adagrad", "adam"}
    assert {config.model.n_experts for config in configs} == {2, 6}
    searches = {cell.config.model.search.kind for cell in plan("model=ncs").study.borders()}
    assert searches == {"gradient_conflict", "learned", "one_shot", "random"}


def test_workers_that_do_not_fit_beside_each_other_start_no_trial(plan, monkeypatch):
    study = plan(*SPACE)
    # Two fit, and three need more than the estimate may be wrong by.
    limit = AvailableMemory(n_bytes=round(2.9 * need(study) / REFUSED), limit="its control group")
    monkeypatch.setattr(machine, "available_memory", lambda: limit)
    check_studies([study], at_once=2)
    with pytest.raises(RunError) as told:
        check_studies([study], at_once=3)
    assert f"3 trials of {study.name}, at the largest values that are searched, at once need" in (
        str(told.value)
    )
    assert "set launcher.workers=1, or set trainer.check_memory=false to try" in str(told.value)
    check_studies([plan(*SPACE, "trainer.check_memory=false")], at_once=3)
    check_studies([study])


def test_the_command_refuses_them_too(cvrbench, monkeypatch, tmp_path):
    monkeypatch.setattr(
        machine, "available_memory", lambda: AvailableMemory(n_bytes=10**6, limit="a group")
    )
    said = cvrbench("sweep", *COMMON, *SPACE, "workers=2", "trials=2")
    assert said.code == 1
    assert "2 trials of synthetic-mmoe-equal_budget-" in said.err
    assert "not even one fits" in said.err
    assert not (tmp_path / "results" / "sweeps").exists()
