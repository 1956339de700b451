"""A plan is checked as a whole, and cheaply."""

import pytest

from cvrbench.errors import ConfigError, RunError
from cvrbench.runs import planning
from cvrbench.system import machine
from cvrbench.system.machine import AvailableMemory


def test_cells_of_one_dataset_open_it_once(quick, monkeypatch):
    opened = []
    ensure = planning.ensure
    monkeypatch.setattr(planning, "ensure", lambda *a, **k: opened.append(a) or ensure(*a, **k))
    planning.check_plan([quick("model=mmoe", f"seed={seed}") for seed in range(3)])
    assert len(opened) == 1


def test_the_last_cell_of_a_plan_is_checked_like_the_first(quick):
    cells = [quick("model=mmoe"), quick("model=mmoe", "protocol.selection=cvr_acu")]
    with pytest.raises(ConfigError, match="cvr_auc"):
        planning.check_plan(cells)


def test_workers_that_do_not_fit_beside_each_other_are_refused_before_the_first_run(
    quick, monkeypatch
):
    cells = [quick("model=mmoe", f"seed={seed}") for seed in range(3)]
    planning.check_plan(cells, at_once=3)
    room = AvailableMemory(n_bytes=400_000_000, limit="its control group")
    monkeypatch.setattr(machine, "available_memory", lambda: room)
    with pytest.raises(RunError, match=r"3 of these runs at once .*; set launcher.workers=[12],"):
        planning.check_plan(cells, at_once=3)
    planning.check_plan(cells, at_once=1)
