"""SIGKILL at any moment: the same command goes on, and ends as if nothing had happened."""

import random

import pytest

from tests.resilience.harness import (
    PHASES,
    RUN,
    SWEEP,
    SWEEP_PHASES,
    Harness,
    differences,
)

MOMENTS = ("checkpoint writing", "joint training", "record writing")
"""Where the default session kills; `nox -s slow` kills everywhere."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Harness(tmp_path_factory.mktemp("runs"), RUN)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    return Harness(tmp_path_factory.mktemp("sweeps"), SWEEP)


def test_the_reference_has_every_phase(runs):
    assert set(PHASES) <= set(runs.durations)
    assert all(runs.durations[phase] > 0 for phase in PHASES)
    assert {name.rpartition("/")[2] for name in runs.expected} >= {
        "best.safetensors",
        "masks.safetensors",
        "predictions.parquet",
        "history.jsonl",
        "record.json",
    }


@pytest.mark.parametrize("phase", MOMENTS)
def test_a_run_that_is_killed_ends_as_one_that_is_not(runs, phase):
    kill = runs.kill_in(phase, random.Random(phase))
    assert kill.problems == ()


@pytest.mark.parametrize("back", [1, 6])
def test_a_run_that_is_killed_between_two_changes_of_its_last_files_ends_the_same(runs, back):
    # A run has fewer changes than the reference if it was faster and so saved less often.
    ends = range(runs.n_writes - back, 0, -10)
    kills = (runs.kill_at_write(number) for number in ends)
    kill = next(kill for kill in kills if kill.landed != "done")
    assert kill.problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(runs, phase):
    kill = runs.kill_in(phase, random.Random(f"{phase} twice"), twice=True)
    assert kill.problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(24))
def test_a_run_that_is_killed_before_any_change_of_a_file_ends_the_same(runs, part):
    kill = runs.kill_at_write(part * runs.n_writes // 24)
    assert kill.problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("phase", SWEEP_PHASES)
def test_a_sweep_that_is_killed_tries_the_same_and_each_trial_once(sweeps, phase):
    kill = sweeps.kill_in(phase, random.Random(phase))
    assert kill.problems == ()


def test_the_comparison_sees_what_is_missing_left_behind_or_changed():
    expected = {"a": "1", "r": {"metrics": 1, "run_id": "x"}, "b": "2"}
    found = {"a": "3", "r": {"metrics": 2, "run_id": "x"}, "c.tmp": "4"}
    assert differences(expected, expected) == ()
    assert differences(expected, found) == (
        "b is missing",
        "c.tmp is left behind",
        "a differs",
        "r differs in ['metrics']: [(1, 2)]",
    )
