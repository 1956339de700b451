"""Bars are for terminals: what they show there, and that a pipe gets none of it."""

import inspect
import io
import json

import pytest
from rich.console import Console

from cvrbench.cli import console, report
from cvrbench.data.downloads import FetchProgress
from cvrbench.data.raw import RowsProgress
from cvrbench.report import MARGIN
from cvrbench.report.differences import Method
from cvrbench.training.callbacks import Progress


def use_all() -> None:
    """Have every bar show something."""
    with console.training_bar("mmoe") as update:
        for stage in ("search", "train"):
            scores = {"ctr_auc": 0.75, "ctr_logloss": 0.5}
            update(
                Progress(
                    stage=stage,
                    step=3,
                    total_steps=9,
                    examples=300,
                    examples_per_second=1234.0,
                    scores=scores,
                )
            )
    with console.plan_bar(7) as update:
        update(2, 1)
    with console.download_bar() as update:
        update(FetchProgress(file_name="log.csv", received=5, total=10))
    with console.preparing_bar() as update:
        update(RowsProgress(stage="reading", rows=10, done=0.5))
    with console.reading_bar(5) as advance:
        advance()


@pytest.fixture
def screen(monkeypatch):
    """What is written to a terminal on stderr."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=120)
    monkeypatch.setattr(console, "errors", terminal)
    return written


def test_a_terminal_shows_every_bar_and_the_stage_under_way_alone(screen, monkeypatch):
    bars = []
    build = console._bar
    monkeypatch.setattr(console, "_bar", lambda *a, **k: bars.append(build(*a, **k)) or bars[-1])
    use_all()
    assert len(bars) == 5
    shown = screen.getvalue()
    for words in ("mmoe", "train", "3/9", "1,234 ex/s", "ctr 0.7500", "2/7", "1 failed"):
        assert words in shown
    for words in ("log.csv", "5/10 bytes", "reading", "50%", "predictions", "1/5"):
        assert words in shown
    assert [(task.description, task.visible) for task in bars[0].tasks] == [
        ("search", False),
        ("train", True),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_a_narrow_terminal_shows_how_far_a_run_is(monkeypatch, width):
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(console, "errors", terminal)
    with console.training_bar("12/24 shared_embedding on criteo_attribution, seed 10") as update:
        update(
            Progress(
                stage="search ctr 3/5",
                step=3111,
                total_steps=12345,
                examples=300,
                examples_per_second=1234567.0,
                scores={"ctr_auc": 0.75},
            )
        )
    shown = written.getvalue()
    for words in ("12/24 shared", "search ctr 3/5", "3111/12345", "1,234,567 ex/s", "-:--"):
        assert words in shown
    assert ("ctr 0.7500" in shown) == (width == 120)


def test_a_number_that_json_has_no_word_for_is_null(capsys):
    console.print_json({"logloss": json.loads("1e999"), "auc": [0.5, float("nan")]})
    assert capsys.readouterr().out == '{"logloss": null, "auc": [0.5, null]}\n'


def test_a_pipe_gets_nothing_of_a_bar(capsys):
    use_all()
    assert capsys.readouterr() == ("", "")


def test_a_reports_margin_is_told_in_one_place():
    default = inspect.signature(report.report).parameters["margin"].default
    assert default is Method().margin is MARGIN
