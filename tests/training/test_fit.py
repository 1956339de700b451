"""The training loop: what it promises whatever the strategy."""

import functools
import math
import operator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cvrbench.balancing import build_balancing
from cvrbench.balancing.losses import Fixed
from cvrbench.config.compose import compose
from cvrbench.data.batches import SplitTensors
from cvrbench.data.registry import ensure
from cvrbench.errors import RunError, RunInterrupted
from cvrbench.metrics.evaluation import score, selection_score
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_network
from cvrbench.strategies.ncs import SingleTaskView
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.evaluator import predict
from cvrbench.training.loop import Callbacks, FitResult, Task, TrainingJob, fit
from tests.models.conftest_models import BALANCINGS

CPU = torch.device("cpu")


class Bench:
    """Everything `fit` needs, on the small planted log."""

    def __init__(self, data_dir: Path, folder: Path, *overrides: str) -> None:
        self.config = compose(["experiment=quick_check", *overrides]).config
        self.dataset = ensure(self.config.dataset, "synthetic", data_dir)
        self.schema = self.dataset.schema
        self.train = SplitTensors.load(self.dataset.train, self.schema, CPU)
        self.valid = SplitTensors.load(self.dataset.valid, self.schema, CPU)
        self.objective = build_objective(self.config.objective, self.schema)
        self.tasks = [task.name for task in self.schema.tasks]
        self.balancing = build_balancing(self.config.balancing, self.tasks, self.tasks)
        self.folder = folder
        torch.manual_seed(0)
        self.network = build_network(self.config, self.schema)

    def score(self, predictions):
        labels = self.dataset.valid.labels
        found = score(self.schema, labels, *predictions, kinds=("auc",))
        return selection_score(found.metrics, ["ctr", "cvr"], "mean_auc"), found.metrics

    def fit(self, network=None, *, trained=None, stop_after=None, **trainer) -> FitResult:
        steps = iter(range(10**9))
        if trained is not None:
            self.balancing = build_balancing(self.config.balancing, self.tasks, trained)
        callbacks = Callbacks(
            stage="train",
            files=StageFiles(self.folder, 0),
            on_progress=lambda _: None,
            stop_requested=lambda: next(steps) == stop_after,
        )
        task = Task(self.objective, self.balancing, self.score)
        config = replace(self.config.trainer, **trainer)
        network = network or self.network
        return fit(TrainingJob(network, self.train, self.valid, task, config, 2, 0, callbacks))

    def valid_score(self) -> float:
        return self.score(predict(self.network, self.valid, self.objective, batch_size=512))[0]


@pytest.fixture
def bench(quick_data, tmp_path):
    return lambda *overrides: Bench(quick_data, tmp_path, *overrides)


def test_the_network_is_left_with_the_weights_that_validated_best(bench):
    one = bench("model=shared_bottom")
    # A rate so high that the score goes down as well as up.
    result = one.fit(learning_rate=0.02, evaluations_per_epoch=12, batch_size=64, patience=99)
    scores = [look["score"] for look in result.state.history]
    assert result.score == max(scores) != scores[-1]
    assert one.valid_score() == result.score


def test_training_stops_after_patience_looks_without_a_better_score(bench):
    result = bench("model=shared_bottom").fit(
        learning_rate=0.05, evaluations_per_epoch=8, batch_size=128, patience=2
    )
    scores = [look["score"] for look in result.state.history]
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 2 < 16


def test_validation_is_looked_at_as_often_as_asked_and_at_each_epochs_end(bench):
    result = bench("model=shared_bottom").fit(evaluations_per_epoch=3, batch_size=512, patience=99)
    steps = [look["step"] for look in result.state.history]
    per_epoch = math.ceil(4200 / 512)
    assert len(steps) == 6
    assert steps[2] == per_epoch
    assert steps[5] == 2 * per_epoch


TABLES = ("rowwise_adagrad", "lazy_adam", "adam")
RESUMED = [
    pytest.param(
        (f"model={model}", f"trainer.embedding_optimizer={table}"),
        marks=[pytest.mark.slow] if model == "ple" and table != TABLES[0] else [],
    )
    for model in ("shared_bottom", "ncs", "ple")
    for table in TABLES
]
RESUMED += [("model=mmoe", "trainer.schedule=warmup_cosine", "trainer.clip_norm=0.1")]
SMALL = {"dwa": ("balancing.window=4",), "stch": ("balancing.warmup_steps=4",)}
STATEFUL = {"dwa", "famo", "gradnorm", "gradvac", "imtl_l", "metabalance", "random", "stch"}
BALANCED = [
    pytest.param(
        ("model=shared_bottom", f"balancing={b}", *SMALL.get(b, ())),
        marks=[] if b in STATEFUL else [pytest.mark.slow],
    )
    for b in BALANCINGS
]
LENGTH = {"batch_size": 512, "patience": 99}
"""Nine steps an epoch, and two epochs."""


@pytest.fixture(scope="module")
def uninterrupted(quick_data, tmp_path_factory):
    """Train once with some options; gives the bench and how the training ended."""

    @functools.cache
    def trained(*options: str) -> tuple[Bench, FitResult]:
        straight = Bench(quick_data, tmp_path_factory.mktemp("straight"), *options)
        return straight, straight.fit(**LENGTH)

    return trained


def assert_ends_alike(one: Bench, result: FitResult, other: Bench, expected: FitResult) -> None:
    """The same looks at validation, and the same bits in the network and the balancing."""
    assert result.state.history == expected.state.history
    for mine, theirs in ((one.network, other.network), (one.balancing, other.balancing)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(tensor, mine.state_dict()[name]), name


@pytest.mark.parametrize("options", BALANCED, ids=" ".join)
def test_every_balancing_goes_on_bit_for_bit(bench, uninterrupted, options):
    straight, expected = uninterrupted(*options)
    broken = bench(*options)
    with pytest.raises(RunInterrupted):
        broken.fit(**LENGTH, stop_after=11)
    again = bench(*options)
    assert_ends_alike(again, again.fit(**LENGTH), straight, expected)


@pytest.mark.parametrize("options", RESUMED, ids=" ".join)
@pytest.mark.parametrize("stop_after", [3, 11])
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_ends(
    bench, uninterrupted, options, stop_after
):
    straight, expected = uninterrupted(*options)
    broken = bench(*options)
    with pytest.raises(RunInterrupted):
        broken.fit(**LENGTH, stop_after=stop_after)
    again = bench(*options)
    assert_ends_alike(again, again.fit(**LENGTH), straight, expected)


class Learned(Fixed):
    """A balancing with a parameter, and a buffer that moves at every step.

    sum_t (L_t / mean_t) exp(-s_t) + s_t, with the running mean of each loss; s is learned.
    """

    mean: Tensor

    def __init__(self, n_tasks: int) -> None:
        super().__init__(torch.ones(n_tasks), torch.ones(n_tasks))
        self.logarithm = nn.Parameter(torch.zeros(n_tasks))
        self.register_buffer("mean", torch.ones(n_tasks))

    def weigh(self, losses: Tensor) -> Tensor:
        self.mean.lerp_(losses.detach(), 0.1)
        return losses / self.mean.clone() * (-self.logarithm).exp() + self.logarithm


def test_what_a_balancing_learns_and_holds_is_resumed_with_the_rest(bench, quick_data, tmp_path):
    def make(folder: Path) -> Bench:
        one = Bench(quick_data, folder, "model=shared_bottom")
        one.balancing = Learned(2)
        return one

    straight = make(tmp_path / "straight")
    expected = straight.fit(**LENGTH)
    assert (straight.balancing.logarithm != 0).all()
    assert (straight.balancing.mean != 1).all()
    with pytest.raises(RunInterrupted):
        make(tmp_path / "broken").fit(**LENGTH, stop_after=11)
    again = make(tmp_path / "broken")
    assert_ends_alike(again, again.fit(**LENGTH), straight, expected)


@pytest.mark.parametrize("change", [{"schedule": "warmup_cosine"}, {"clip_norm": 0.1}], ids=str)
def test_a_schedule_and_a_norm_change_a_training_and_their_absence_does_not(
    bench, uninterrupted, tmp_path, quick_data, change
):
    straight, expected = uninterrupted("model=mmoe")
    changed = Bench(quick_data, tmp_path / "changed", "model=mmoe")
    changed.fit(**LENGTH, **change)
    for name, parameter in straight.network.named_parameters():
        assert not torch.equal(parameter, changed.network.get_parameter(name)), name
    plain = Bench(quick_data, tmp_path / "plain", "model=mmoe")
    vast = {"schedule": "constant", "clip_norm": None if "schedule" in change else 1e9}
    assert_ends_alike(plain, plain.fit(**LENGTH, **vast), straight, expected)


def test_a_finished_stage_is_answered_from_its_file(bench):
    first = bench("model=shared_bottom").fit()
    again = bench("model=shared_bottom")
    assert again.fit(stop_after=0).state == first.state
    assert again.valid_score() == first.score


def halve(network, seed: int = 0) -> None:
    """Give each task of an NCS a random half of every layer."""
    generator = torch.Generator().manual_seed(seed)
    for keep in network.keep.buffers():
        keep.copy_(torch.rand(keep.shape, generator=generator) < 0.5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_weight_that_no_mask_keeps_never_moves(bench, weight_decay):
    one = bench("model=ncs")
    halve(one.network)
    before = [w.detach().clone() for w in one.network.trunk.weights]
    one.fit(weight_decay=weight_decay, learning_rate=0.01)
    keeps = one.network.keep.buffers()
    for weight, old, keep in zip(one.network.trunk.weights, before, keeps, strict=True):
        anywhere = keep.any(dim=0)
        assert 0.2 < (~anywhere).double().mean() < 0.3
        assert torch.equal(weight[0][~anywhere], old[0][~anywhere])
        assert (weight[0][anywhere] != old[0][anywhere]).double().mean() > 0.9


def test_a_task_alone_moves_only_what_its_own_mask_keeps(bench):
    one = bench("model=ncs")
    halve(one.network)
    before = [w.detach().clone() for w in one.network.trunk.weights]
    one.fit(SingleTaskView(one.network, 1), trained=["cvr"], weight_decay=0.5, learning_rate=0.01)
    keeps = one.network.keep.buffers()
    for weight, old, keep in zip(one.network.trunk.weights, before, keeps, strict=True):
        assert torch.equal(weight[0][~keep[1]], old[0][~keep[1]])
        assert (weight[0][keep[1]] != old[0][keep[1]]).double().mean() > 0.9


def test_all_strategies_see_the_same_batches_in_the_same_order(quick_data, tmp_path, monkeypatch):
    seen: dict[str, list[list[int]]] = {}
    gather = SplitTensors.gather
    for model in ("single_task", "mmoe", "ncs"):
        one = Bench(quick_data, tmp_path / model, f"model={model}")
        rows = seen.setdefault(model, [])

        def spy(split, index, rows=rows):
            if len(split) == 4200:
                rows.append(index.tolist())
            return gather(split, index)

        monkeypatch.setattr(SplitTensors, "gather", spy)
        one.fit(batch_size=512, patience=99)
    assert seen["single_task"] == seen["mmoe"] == seen["ncs"]
    first_epoch = seen["mmoe"][:9]
    assert sorted(functools.reduce(operator.iadd, first_epoch, [])) == list(range(4200))
    assert first_epoch != seen["mmoe"][9:]


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(bench):
    with pytest.raises(RunError, match=r"trainer.learning_rate"):
        bench("model=shared_bottom").fit(learning_rate=1e30, batch_size=256)


def test_bf16_and_a_dense_table_train_too(bench):
    result = bench("model=mmoe").fit(precision="bf16", embedding_optimizer="adam")
    assert 0.4 < result.score < 1
