"""Several trainings as one program: each ends where it would have ended alone."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from cvrbench.balancing import build_balancing
from cvrbench.errors import RunError, RunInterrupted
from cvrbench.strategies import build_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs.imp import EarlyBird
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.loop import Callbacks, State, Task, TrainingJob, fit
from cvrbench.training.seed_group import fit_stacked
from tests.models.conftest_models import KINDS, build, make_schema
from tests.training.test_fit import Bench

SEEDS = (3, 7, 11)


class PretrainContext(Bench):
    """Makes the same jobs again and again, on the small planted log."""

    def job(self, seed, folder, *, change=lambda _: None, stop_after=None, **trainer):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        network = build_network(self.config, self.schema)
        change(network)
        balancing = build_balancing(self.config.balancing, self.tasks, self.tasks)
        steps = iter(range(10**9))
        return TrainingJob(
            network,
            self.train,
            self.valid,
            Task(self.objective, balancing, self.score),
            replace(self.config.trainer, batch_size=256, **trainer),
            epochs=2,
            seed=seed,
            callbacks=Callbacks(
                stage="train",
                files=StageFiles(folder / str(seed), 0),
                on_progress=lambda _: None,
                stop_requested=lambda: next(steps) == stop_after,
            ),
        )

    def jobs(self, folder, **options):
        return [self.job(seed, folder, **options) for seed in SEEDS]


@pytest.fixture
def lab(quick_data, tmp_path):
    return lambda *overrides: PretrainContext(quick_data, tmp_path, *overrides)


@pytest.fixture(autouse=True)
def one_thread():
    """Rounding follows the number of threads; with one it is the same alone and together."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Done(NamedTuple):
    """A network and how its training ended."""

    network: SharingStrategy
    state: State


def both(one, folder, **options):
    """Train seeds one after another, and together."""
    jobs = one.jobs(folder / "alone", **options)
    alone = [Done(job.network, fit(job).state) for job in jobs]
    jobs = one.jobs(folder / "together", **options)
    trained = fit_stacked(jobs)
    assert [t.n_together for t in trained] == [len(SEEDS)] * len(SEEDS)
    ended = [Done(r.network, t.ended.state) for r, t in zip(jobs, trained, strict=True)]
    return alone, ended


def assert_same(alone, together):
    """The same looks at validation and decisions, and the same weights but for rounding."""
    for one, other in zip(alone, together, strict=True):
        assert one.state.best_step == other.state.best_step
        assert one.state.examples == other.state.examples
        scores = [[look["score"] for look in done.state.history] for done in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        weights = other.network.state_dict()
        for name, tensor in one.network.state_dict().items():
            assert torch.allclose(tensor, weights[name], rtol=0, atol=1e-5), name


STACKABLE = [kind for kind in KINDS if build(kind, make_schema()).stackable]
ALWAYS = ("single_task", "mmoe", "ncs")
"""One with tables of its own, one with gates, one with masks; `nox -s slow` trains the rest."""
MODELS = [
    *ALWAYS,
    *(
        pytest.param(model, marks=pytest.mark.slow)
        for model in (*STACKABLE, "omoe", "cgc")
        if model not in ALWAYS
    ),
]


@pytest.mark.parametrize("model", MODELS)
def test_seeds_trained_together_end_where_each_ends_alone(lab, tmp_path, model):
    assert_same(*both(lab(f"model={model}"), tmp_path))


@pytest.mark.parametrize("table", ["lazy_adam", "adam"])
def test_every_optimiser_of_the_table_serves_a_stack(lab, tmp_path, table):
    one = lab("model=single_task", f"trainer.embedding_optimizer={table}")
    assert_same(*both(one, tmp_path))


def test_one_that_stops_early_leaves_and_the_others_go_on(lab, tmp_path):
    rates = {"learning_rate": 0.05, "evaluations_per_epoch": 8, "patience": 2}
    alone, together = both(lab("model=shared_bottom"), tmp_path, **rates)
    ends = [done.state.step for done in alone]
    assert len(set(ends)) > 1
    assert ends == [done.state.step for done in together]
    assert_same(alone, together)


def halve(network) -> None:
    """Give each task of an NCS a random half of every layer."""
    generator = torch.Generator().manual_seed(0)
    for keep in network.keep.buffers():
        keep.copy_(torch.rand(keep.shape, generator=generator) < 0.5)


def test_what_no_mask_keeps_stays_where_it_is_in_a_stack(lab, tmp_path):
    alone, together = both(
        lab("model=ncs"), tmp_path, change=halve, weight_decay=0.5, learning_rate=0.01
    )
    assert_same(alone, together)
    for seed, done in zip(SEEDS, together, strict=True):
        begun = lab("model=ncs").job(seed, tmp_path / "other", change=halve).network
        keeps = done.network.keep.buffers()
        layers = zip(done.network.trunk.weights, begun.trunk.weights, keeps, strict=True)
        for weight, old, keep in layers:
            nowhere = ~keep.any(dim=0)
            assert nowhere.any()
            assert torch.equal(weight[0][nowhere], old[0][nowhere])


def test_a_mask_that_settles_ends_its_own_search_alone(lab, tmp_path):
    one = lab("model=ncs", "model.search=imp", "model.early_bird=0.05")

    def jobs(folder):
        found = []
        for job in one.jobs(folder):
            ncs = job.network.untied()
            watched = EarlyBird(ncs, ncs, None, 0.5, one.config.model.search)
            found.append(job._replace(network=watched))
        return found

    alone = jobs(tmp_path / "alone")
    ends = [fit(job).state.step for job in alone]
    together = jobs(tmp_path / "together")
    trained = fit_stacked(together)
    assert [t.ended.state.step for t in trained] == ends
    assert min(ends) < 2 * 17
    assert [t.n_together for t in trained] == [3, 3, 3]


@pytest.mark.parametrize("model", ["shared_bottom", "ncs"])
@pytest.mark.parametrize("table", ["rowwise_adagrad", "lazy_adam"])
def test_a_stopped_stack_goes_on_together_or_one_by_one(lab, tmp_path, model, table):
    one = lab(f"model={model}", f"trainer.embedding_optimizer={table}")
    expected = [Done(r.network, fit(r).state) for r in one.jobs(tmp_path / "straight")]
    for name in ("together", "alone"):
        begun = fit_stacked(one.jobs(tmp_path / name, stop_after=20))
        assert all(isinstance(t.ended, RunInterrupted) for t in begun)
        jobs = one.jobs(tmp_path / name)
        if name == "together":
            ended = [t.ended for t in fit_stacked(jobs)]
        else:
            ended = [fit(job) for job in jobs]
        done = [Done(r.network, e.state) for r, e in zip(jobs, ended, strict=True)]
        assert_same(expected, done)


def test_a_training_that_was_stopped_alone_goes_on_in_a_stack(lab, tmp_path):
    one = lab("model=shared_bottom")
    expected = [Done(r.network, fit(r).state) for r in one.jobs(tmp_path / "straight")]
    for job in one.jobs(tmp_path / "broken", stop_after=5):
        with pytest.raises(RunInterrupted):
            fit(job)
    jobs = one.jobs(tmp_path / "broken")
    trained = fit_stacked(jobs)
    assert [t.n_together for t in trained] == [3, 3, 3]
    done = [Done(r.network, t.ended.state) for r, t in zip(jobs, trained, strict=True)]
    assert_same(expected, done)


def test_one_that_diverges_fails_alone(lab, tmp_path):
    one = lab("model=shared_bottom")
    jobs = one.jobs(tmp_path / "together")
    with torch.no_grad():
        jobs[1].network.towers.head.fill_(float("nan"))
    ended = [t.ended for t in fit_stacked(jobs)]
    assert isinstance(ended[1], RunError)
    assert "not finite" in str(ended[1])
    expected = [Done(r.network, fit(r).state) for r in one.jobs(tmp_path / "alone")]
    good = [Done(jobs[n].network, ended[n].state) for n in (0, 2)]
    assert_same([expected[0], expected[2]], good)


@pytest.mark.parametrize(
    "options",
    [("model=ncs", "model.step=alternate"), ("model=ncs", "model.masked=[embeddings]")],
)
def test_what_has_steps_or_masks_of_its_own_is_trained_alone(lab, tmp_path, options):
    search = "model.search=random"
    trained = fit_stacked(lab(*options, search).jobs(tmp_path))
    assert [t.n_together for t in trained] == [1, 1, 1]
    assert all(t.ended.state.step > 0 for t in trained)


def test_networks_share_no_memory_once_they_are_trained(lab, tmp_path):
    jobs = lab("model=shared_bottom").jobs(tmp_path)
    fit_stacked(jobs)
    for job in jobs:
        for parameter in job.network.parameters():
            assert parameter.untyped_storage().nbytes() == parameter.nbytes
