"""Seeds of one configuration run at once: every run is what it would be alone."""

import json
import signal
from functools import partial

import pytest
import torch

from cvrbench.config.compose import take_launcher
from cvrbench.errors import ConfigError, RunInterrupted
from cvrbench.runs import experiment, planning
from cvrbench.runs.experiment import run_stacked
from cvrbench.runs.store import ResultStore
from cvrbench.strategies import build_network
from cvrbench.training.seed_group import MOST, most_that_pay


@pytest.fixture(autouse=True)
def one_thread():
    """Rounding follows the number of threads; with one it is the same alone and together."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "options",
    [
        ("model=mmoe",),
        ("model=ncs",),
        ("model=ncs", "model.search=imp", "model.together=false"),
        ("model=ncs", "model.search=set"),
        ("model=shared_bottom", "protocol.label_share=0.5"),
    ],
    ids=" ".join,
)
def test_a_run_among_others_has_the_record_that_it_would_have_alone(quick, tmp_path, options):
    alone = [
        experiment.run(quick(*options, f"seed={seed}", f"results_dir={tmp_path}/alone"))
        for seed in range(3)
    ]
    cells = [quick(*options, f"seed={s}", f"results_dir={tmp_path}/together") for s in range(3)]
    together = run_stacked(cells)
    for one, other in zip(alone, together, strict=True):
        assert not isinstance(other, BaseException), other
        assert one.run_id == other.run_id
        assert one.environment["together"] == 1
        assert other.environment["together"] == 3
        assert one.examples == other.examples
        assert one.best_step == other.best_step
        for split, metrics in one.metrics.items():
            assert other.metrics[split] == pytest.approx(metrics, abs=1e-4), split
        stores = [ResultStore(tmp_path / name) for name in ("alone", "together")]
        looks = [store.history(one.run_id) for store in stores]
        assert [look["step"] for look in looks[0]] == [look["step"] for look in looks[1]]
        assert not stores[1].is_busy(one.run_id)
        assert stores[1].state(one.run_id) == "finished"


def test_the_time_that_passes_is_shared_by_all(quick):
    records = run_stacked([quick("model=shared_bottom", f"seed={seed}") for seed in range(3)])
    train = [record.seconds["train"] for record in records]
    assert train == pytest.approx([train[0]] * 3, abs=0.002)


def test_a_stopped_group_goes_on_run_by_run_to_the_same_end(quick, tmp_path):
    def cells(folder):
        options = ("model=ncs", "trainer.batch_size=64", f"results_dir={tmp_path}/{folder}")
        return [quick(*options, f"seed={seed}") for seed in range(2)]

    expected = run_stacked(cells("straight"))
    n_told = []

    def stop_soon(progress):
        n_told.append(progress.step)
        if len(n_told) == 30:
            signal.raise_signal(signal.SIGINT)

    stopped = run_stacked(cells("stopped"), on_progress=stop_soon)
    assert all(isinstance(one, RunInterrupted) for one in stopped)
    store = ResultStore(tmp_path / "stopped")
    assert len(store.unfinished()) == 2
    for cell, straight in zip(cells("stopped"), expected, strict=True):
        again = experiment.resume(planning.folder_of(cell))
        assert again.metrics["test"] == pytest.approx(straight.metrics["test"], abs=1e-4)


def test_one_that_fails_takes_no_other_with_it(quick):
    cells = [quick("model=shared_bottom", f"seed={seed}") for seed in range(3)]
    with ResultStore(planning.folder_of(cells[1]).parents[1]).open(
        planning.folder_of(cells[1]).name, config={}, choices={}, fresh=False
    ):
        first, held, last = run_stacked(cells)
    assert "another process" in str(held)
    assert first.environment["together"] == last.environment["together"] == 2


def test_cells_that_differ_in_their_seed_alone_are_grouped(quick):
    words = [("model=mmoe", s) for s in range(3)] + [("model=ple", s) for s in range(2)]
    cells = [quick(model, f"seed={seed}") for model, seed in words]
    turn = [4, 0, 1, 2, 3]
    assert planning.groups_of(cells, turn, "auto", force=False) == [[4, 3], [0, 1, 2]]
    assert planning.groups_of(cells, turn, 2, force=False) == [[4, 3], [0, 1], [2]]
    assert planning.groups_of(cells, turn, 1, force=False) == [[4], [0], [1], [2], [3]]
    experiment.run(cells[1])
    assert planning.groups_of(cells, [0, 1, 2], "auto", force=False) == [[0, 2], [1]]
    assert planning.groups_of(cells, [0, 1, 2], "auto", force=True) == [[0, 1, 2]]


def test_large_steps_and_what_cannot_share_a_program_go_one_by_one(quick):
    schema = experiment.ensure(
        quick().config.dataset, "synthetic", planning.Path(quick().config.data_dir)
    ).schema

    def most(*options):
        config = quick(*options).config
        return most_that_pay(config, partial(build_network, config, schema))

    assert most("model=shared_bottom") == MOST
    assert most("model=shared_bottom", "trainer.batch_size=65536") == 1
    assert most("model=shared_bottom", "model.hidden=[2048,2048]") == 1
    assert most("model=shared_bottom", "trainer.precision=bf16") == 1
    assert most("model=shared_bottom", "logger=tensorboard") == 1


def test_the_command_trains_seeds_together_by_itself_and_not_when_told_so(cvrbench):
    words = ["run", "-m", "experiment=quick_check", "model=shared_bottom", "--json"]
    said = cvrbench(*words, "seed=range(0,3)")
    assert said.code == 0
    assert len(said.json()) == 3
    for one in said.json():
        record = json.loads((planning.Path(one["run_dir"]) / "record.json").read_text())
        assert record["environment"]["together"] == 3
    said = cvrbench(*words, "seed=3,4", "launcher.together=1")
    assert said.code == 0
    for one in said.json():
        record = json.loads((planning.Path(one["run_dir"]) / "record.json").read_text())
        assert record["environment"]["together"] == 1


def test_how_many_is_a_number_or_auto():
    launcher, _ = take_launcher(["launcher.together=4"])
    assert launcher.together == 4
    with pytest.raises(ConfigError, match="together"):
        take_launcher(["launcher.together=0"])
    with pytest.raises(ConfigError, match="together"):
        take_launcher(["launcher.together=many"])
