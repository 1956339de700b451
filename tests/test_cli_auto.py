"""`seeds=auto`: what it takes, and that it ends."""

import json

import pytest

from cvrbench.cli.auto import Budget, take_budget
from cvrbench.errors import ConfigError


def test_the_budget_is_split_off_the_overrides():
    budget, rest = take_budget(["model=a", "seeds=auto", "max_seeds=8", "max_minutes=1.5"])
    assert (budget, rest) == (Budget(most_seeds=8, minutes=1.5), ["model=a"])
    assert take_budget(["model=a", "seed=0..4"]) == (None, ["model=a", "seed=0..4"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seeds=5"], "seeds=auto adds seeds"),
        (["max_seeds=5"], "seeds=auto adds seeds"),
        (["seeds=auto", "seed=1"], "leave out seed="),
        (["seeds=auto", "max_seeds=1"], "at least 2"),
        (["seeds=auto", "margin=x"], "no number above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(words, said):
    with pytest.raises(ConfigError, match=said):
        take_budget(words)


@pytest.mark.slow
def test_rounds_end_and_the_same_command_only_reads(cvrbench):
    words = ["experiment=quick_check", "model=single_task,shared_bottom", "seeds=auto"]
    first = cvrbench("run", "-m", *words, "max_seeds=5", "margin=0.5")
    assert first.code == 0, first.err
    assert "round 1: seeds 0..4 of 2 rows" in first.out
    assert "no more seeds: within the margin" in first.out
    again = cvrbench("run", "-m", *words, "max_seeds=5", "margin=0.5")
    assert again.out == first.out
    plain = json.loads(cvrbench("report", "--json").out.splitlines()[0])
    assert len(plain["strategies"]) == 2
    assert plain["verdict"]["take"] == "shared_bottom"
