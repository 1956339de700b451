"""How often a stage under way is saved: as asked for, but never for more than its share of time."""

import time

import pytest
import torch

from cvrbench.training import checkpoint
from cvrbench.training.checkpoint import SHARE, Pace, StageFiles

STATE = {"w": torch.zeros(1000)}


class Clock:
    """A clock that only saves move; each takes as long as it is told."""

    def __init__(self, monkeypatch, *, save: float) -> None:
        self.now, self.saves = 0.0, []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(StageFiles, "save_under_way", lambda *_: self.saved(save))

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def saved(self, seconds: float) -> None:
        self.saves.append(self.now)
        self.now += seconds


def train(clock, pace, seconds: float, step: float = 0.5) -> float:
    """Take steps for some seconds of training; give the seconds that saves took."""
    trained = 0.0
    while trained < seconds:
        clock.passes(step)
        trained += step
        if pace.is_due():
            pace.save(STATE, trained=trained, at_once=False)
    return clock.now - trained


def test_what_is_saved_quickly_is_saved_as_often_as_asked_for(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, save=0.01)
    train(clock, Pace(StageFiles(tmp_path, 0), 30.0), 601)
    assert len(clock.saves) == 19  # 30 s and a step apart
    assert clock.saves[0] == pytest.approx(30.5)


@pytest.mark.parametrize("save", [1.5, 7.0, 20.0])
def test_saves_never_take_more_than_their_share(monkeypatch, tmp_path, save):
    clock = Clock(monkeypatch, save=save)
    total = train(clock, Pace(StageFiles(tmp_path, 0), 1.0), 4000)
    assert 0.7 * SHARE < total / 4000 <= SHARE


def test_a_stop_is_saved_at_once_whatever_it_costs(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, save=1000.0)
    Pace(StageFiles(tmp_path, 0), 30.0).save(STATE, trained=0.1, at_once=True)
    assert clock.saves == [0.0]


def test_the_first_save_is_expected_to_be_slow(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, save=0.1)
    monkeypatch.setattr(checkpoint, "SLOW_DISK", 4000 / 3)  # three seconds for the state
    train(clock, Pace(StageFiles(tmp_path, 0), 1.0), 120)
    assert clock.saves[0] == pytest.approx(3 / SHARE, abs=1)
    assert clock.saves[1] == pytest.approx(clock.saves[0] + 5, abs=4)
