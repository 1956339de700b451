"""What a plan will need, as a dry run tells it: what is rehearsed, and what is said."""

from dataclasses import replace

import pytest

from cvrbench import footprint, machine
from cvrbench.cli.memory import spans
from cvrbench.config.runtime_groups import take_launcher
from cvrbench.errors import ConfigError
from cvrbench.footprint import outlook
from cvrbench.footprint.outlook import look_ahead


def launcher(*words: str):
    return take_launcher(words)[0]


@pytest.fixture
def rehearsed(monkeypatch):
    """The configurations that are rehearsed."""
    asked = []
    estimate = outlook.estimate
    monkeypatch.setattr(outlook, "estimate", lambda *args: asked.append(args[0]) or estimate(*args))
    return asked


def test_runs_that_differ_in_their_seed_alone_are_rehearsed_once(quick, rehearsed):
    cells = [quick(f"model={m}", f"seed={s}") for m in ("mmoe", "ple") for s in range(3)]
    found = look_ahead(cells, [0, 2, 3, 4, 5], launcher())
    assert [need.runs for need in found.needs] == [(0, 2), (3, 4, 5)]
    assert len(rehearsed) == 2
    assert all(need.fits for need in found.needs)


def test_of_a_large_plan_the_largest_of_each_strategy_is_rehearsed_first(
    quick, rehearsed, monkeypatch
):
    monkeypatch.setattr(outlook, "MOST_REHEARSED", 3)
    widths = (8, 64, 32, 16)
    cells = [
        quick(f"model={m}", f"model.hidden=[{w}]")
        for m in ("mmoe", "shared_bottom")
        for w in widths
    ]
    found = look_ahead(cells, range(8), launcher())
    told = [need.runs for need in found.needs if need.footprint is not None]
    assert told == [(1,), (2,), (5,)]
    assert len(rehearsed) == 3
    assert {n.reason for n in found.needs if n.footprint is None} == {
        "not estimated: larger ones were"
    }


def test_what_does_not_fit_is_told_with_what_to_lower(quick, monkeypatch):
    cell = quick("model=mmoe", "trainer.batch_size=4000", "model.hidden=[2048]")
    (need,) = look_ahead([cell], [0], launcher()).needs
    room = machine.Room(n_bytes=need.footprint.needed - 1, limit="its control group")
    monkeypatch.setattr(machine, "room", lambda: room)
    (told,) = look_ahead([cell], [0], launcher()).needs
    assert told.fits is False
    assert told.advice.startswith("lower trainer.batch_size")
    assert told.plain() == {
        "needed": room.n_bytes + 1,
        "free": room.n_bytes,
        "limit": "its control group",
        "fits": False,
        "reason": None,
    }
    monkeypatch.setattr(machine, "room", lambda: replace(room, n_bytes=room.n_bytes + 1))
    assert look_ahead([cell], [0], launcher()).needs[0].fits


def test_processes_are_told_how_many_fit_beside_each_other(quick, monkeypatch):
    cells = [quick("model=mmoe", f"seed={seed}") for seed in range(4)]
    (need,) = look_ahead(cells, range(4), launcher()).needs
    each = need.footprint.needed + footprint.PROCESS
    monkeypatch.setattr(machine, "room", lambda: machine.Room(n_bytes=2 * each, limit="x"))
    found = look_ahead(cells, range(4), launcher("workers=3")).at_once
    assert (found.runs, found.needed) == (3, 3 * each)
    assert found.advice == "set launcher.workers=2"
    assert look_ahead(cells, range(4), launcher("workers=2")).at_once.advice == ""
    assert look_ahead(cells, range(4), launcher()).at_once is None


def test_a_dataset_that_is_not_prepared_is_said_to_be_so(quick, tmp_path):
    cell = quick("model=mmoe", f"data_dir={tmp_path}")
    (need,) = look_ahead([cell], [0], launcher()).needs
    assert need.reason == "not estimated: synthetic is not prepared yet"
    assert need.fits is None
    assert list(tmp_path.iterdir()) == []


def test_what_runs_elsewhere_is_compared_with_what_it_asks_for(quick):
    cell = quick("model=mmoe")
    small = launcher("launcher=submitit", "launcher.memory_gb=0.2")
    (need,) = look_ahead([cell], [0], small).needs
    assert (need.fits, need.free.limit) == (False, "launcher.memory_gb")
    assert look_ahead([cell], [0], launcher("launcher=ray")).needs[0].fits is None
    (on_gpu,) = look_ahead([quick("trainer.device=cuda:63")], [0], launcher()).needs
    assert on_gpu.fits is None
    assert on_gpu.footprint.needed > 0
    with pytest.raises(ConfigError, match=r"trainer\.device must be"):
        look_ahead([quick("trainer.device=gpu")], [0], launcher())


def test_places_of_a_plan_are_joined():
    assert spans([0, 1, 2, 6]) == "1-3, 7"
    assert spans([4]) == "5"
