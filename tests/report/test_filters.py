"""Which runs a report is about."""

from pathlib import Path

import pytest

from cvrbench.errors import ConfigError
from cvrbench.report.comparison import Filters
from cvrbench.runs.store import Unfinished
from tests.report.made_up_studies import searched
from tests.report.test_comparison import run

RUNS = [
    run(model, seed, 0.7, dataset=dataset)
    for dataset in ("kuairand", "census")
    for model in ("mmoe", "ple")
    for seed in (0, 1)
]


def kept(*words):
    return [(r.dataset, r.model, r.seed) for r in Filters.parse(words).records(RUNS)]


def test_every_key_must_fit_and_any_of_its_values_may():
    assert kept() == [(r.dataset, r.model, r.seed) for r in RUNS]
    assert kept("dataset=census", "model=ple") == [("census", "ple", 0), ("census", "ple", 1)]
    assert kept("seed=1", "model=mmoe,ple", "dataset=kuairand") == [
        ("kuairand", "mmoe", 1),
        ("kuairand", "ple", 1),
    ]


def test_a_key_of_the_configuration_is_read_as_the_command_line_writes_it():
    config = {"model": {"kind": "ncs", "hidden": [64, 32], "search": None, "rewind": True}}
    one = run("ncs", 0, 0.7, config=config)
    for word in ("model.rewind=true", "model.search=null", "model.hidden=[64,32]"):
        assert Filters.parse([word]).records([one, RUNS[0]]) == [one]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("modle=ple", "no run has such a key. Did you mean 'model"),
        ("model=pel", "model=pel: no run has it; there are mmoe, ple"),
        ("model=", "'model=' is no filter: KEY=VALUE"),
    ],
)
def test_what_no_run_has_is_a_slip_and_is_named(word, said):
    with pytest.raises(ConfigError) as error:
        kept(word)
    assert said in str(error.value)


def test_one_key_twice_is_refused():
    with pytest.raises(ConfigError, match="model=A,B"):
        Filters.parse(["model=mmoe", "model=ple"])


def test_unfinished_runs_and_sweeps_are_kept_by_what_they_tell():
    choices = {"dataset": "census", "model": "ple"}
    begun = Unfinished(folder=Path("x"), config={"seed": 1}, choices=choices, failure=None)
    assert Filters.parse(["dataset=census", "seed=1"]).begun([begun]) == [begun]
    assert Filters.parse(["dataset=census", "seed=0"]).begun([begun]) == []
    sweep = searched()
    assert Filters.parse([f"dataset={sweep.dataset}", "seed=1"]).sweeps([sweep]) == [sweep]
    assert Filters.parse(["dataset=other"]).sweeps([sweep]) == []
