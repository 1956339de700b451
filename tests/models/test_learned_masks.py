"""Learned masks: their gates against outside references, and what they find in a planted toy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import logistic
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cvrbench.config.compose import compose
from cvrbench.config.schema import Config
from cvrbench.data.batches import SplitTensors
from cvrbench.data.schema import Categorical, Numeric, Schema, Task
from cvrbench.errors import RunInterrupted
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_network
from cvrbench.strategies.base import Training
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.learned import (
    Gated,
    annealed,
    expected_density,
    expected_sharing,
    hard_concrete,
    learned,
    open_probability,
    straight_through,
)
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.evaluator import Predictions
from cvrbench.training.loop import Callbacks, FitResult, TrainingJob, count_steps, fit
from cvrbench.training.loop import Task as FitTask
from tests.models.conftest_models import balancing_of
from tests.training.test_fit import Bench

KINDS = ["hard_concrete", "straight_through"]
LOGITS = torch.tensor([-4.0, -1.5, 0.0, 0.7, 2.5], dtype=torch.double)


def uniform(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_a_hard_concrete_gate_is_open_as_often_as_its_logistic_says() -> None:
    """Scipy's logistic distribution, and counting."""
    edge = torch.tensor(0.1 / 1.2, dtype=torch.double).logit()  # where stretched s crosses 0
    expected = logistic.sf((2 / 3 * edge - LOGITS).numpy())
    torch.testing.assert_close(open_probability(LOGITS), torch.from_numpy(expected))
    n = 40_000
    drawn = hard_concrete(LOGITS.expand(n, -1), uniform(n)[:, None])
    counted = (drawn > 0).double().mean(0)
    assert ((counted - open_probability(LOGITS)).abs() < 5 * 0.5 / n**0.5).all()


def test_hard_concrete_gates_are_a_stretched_and_clipped_relaxed_bernoulli() -> None:
    """Torch's own: quantile by quantile, as u runs through its range."""
    n = 20_000
    torch.manual_seed(0)
    theirs = torch.distributions.RelaxedBernoulli(torch.tensor(2 / 3), logits=LOGITS.float())
    expected = (theirs.sample((n,)) * 1.2 - 0.1).clamp(0, 1).sort(0).values.double()
    grid = (torch.arange(n, dtype=torch.double) + 0.5) / n
    got = hard_concrete(LOGITS.expand(n, -1), grid[:, None])
    assert (got - expected).abs().mean() < 0.01
    assert (got == 0).any()
    assert (got == 1).any()


def test_straight_through_is_a_step_with_the_slope_of_a_sigmoid() -> None:
    logits, other = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    found = straight_through(logits)
    assert found.tolist() == [0, 0, 0, 1, 1]
    weights = torch.arange(5.0).double()
    (found * weights).sum().backward()
    (other.sigmoid() * weights).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_expected_density_and_sharing_are_what_independent_gates_show(n_tasks: int) -> None:
    probabilities = uniform(n_tasks * 500).view(n_tasks, 500)
    draws = uniform(400 * n_tasks * 500, seed=1).view(400, n_tasks, 500) < probabilities
    density = draws.double().mean((0, 2))
    torch.testing.assert_close(expected_density(probabilities), density, atol=0.01, rtol=0)
    sharing = draws.all(1).sum() / draws.any(1).sum()
    torch.testing.assert_close(expected_sharing(probabilities), sharing.double(), atol=0.01, rtol=0)


def test_the_wanted_density_falls_from_1_to_the_last_one() -> None:
    wanted = [float(annealed(0.2, torch.tensor(p))) for p in (0.0, 0.25, 0.5, 1.0, 3.0)]
    assert wanted == pytest.approx([1.0, 0.2 + 0.8 * 27 / 64, 0.3, 0.2, 0.2])


N_INPUTS, N_ROWS = 8, 4000


class Toy:
    """Two tasks on numbers: the first reads all of them, the second the first half alone.

    As a context it trains for real.
    """

    seed = 0

    def __init__(self, folder: Path, *overrides: str) -> None:
        options = ("model=ncs", "model.search=learned", "model.hidden=[16,8]", "model.tower=[]")
        common = ("model.dropout=0", "trainer=smoke", "trainer.batch_size=100", *options)
        short = ("model.search_epochs=5", "model.gate_rate=100", "model.density=0.2")
        self.config: Config = compose([*common, *short, *overrides]).config
        self.schema = Schema(
            name="toy",
            categorical=(Categorical(name="none", size=2),),
            multivalued=(),
            numeric=tuple(Numeric(name=f"x{i}", mean=0.0, std=1.0) for i in range(N_INPUTS)),
            tasks=(Task(name="whole", label="a"), Task(name="half", label="b")),
            group=None,
            rows={},
            fingerprint="toy",
        )
        self.train_rows, self.valid_rows = self.rows(0), self.rows(1)
        self.objective = build_objective(self.config.objective, self.schema)
        self.folder, self.labels = folder, [""]
        torch.manual_seed(0)
        self.ncs: NCS = build_network(self.config, self.schema)

    def rows(self, seed: int) -> SplitTensors:
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(N_ROWS, N_INPUTS, generator=g)
        effects = torch.tensor([[1.0, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 0, 0, 0, 0]])
        labels = (torch.rand(N_ROWS, 2, generator=g) < (1.5 * x @ effects.T).sigmoid()).to(x)
        return SplitTensors(torch.zeros(N_ROWS, 1, dtype=torch.int64), x, labels, (), None)

    def score(self, predictions: Predictions) -> tuple[float, dict[str, float | None]]:
        truth = self.valid_rows.labels.numpy()
        pairs = zip(("whole_auc", "half_auc"), truth.T, predictions.conditional.T, strict=True)
        found = {name: float(roc_auc_score(labels, p)) for name, labels, p in pairs}
        return sum(found.values()) / 2, found

    def steps(self, epochs: float) -> int:
        return count_steps(N_ROWS, self.config.trainer.batch_size, epochs)

    def train(self, training: Training) -> list[FitResult]:
        assert training.per_task
        callbacks = Callbacks(
            training.label, StageFiles(self.folder, 0), lambda _: None, lambda: False
        )
        task = FitTask(self.objective, balancing_of("equal", self.schema), self.score)
        config = replace(self.config.trainer, patience=99)
        rows = self.train_rows, self.valid_rows
        self.result = fit(
            TrainingJob(training.network, *rows, task, config, training.epochs, 0, callbacks)
        )
        return [self.result]


@pytest.mark.parametrize("gate", KINDS)
def test_a_task_keeps_few_connections_of_the_inputs_that_it_ignores(tmp_path, gate) -> None:
    toy = Toy(tmp_path, f"model.relaxation={gate}")
    found = learned(toy.ncs, toy, toy.config.model.search)
    keep = found[0].masks.keep["trunk_0"][:, -N_INPUTS:].double()  # the numbers come last
    first, second = keep[:, : N_INPUTS // 2].mean((1, 2)), keep[:, N_INPUTS // 2 :].mean((1, 2))
    assert second[1] < 0.4 * first[1]  # random masks: alike
    assert second[1] < 0.4 * second[0]
    assert second[0] > 0.6 * first[0]  # the first task needs both halves
    assert toy.result.score > 0.85
    n = toy.ncs.masks.flat().shape[1]
    (candidate,) = found
    assert candidate.masks.flat().sum(1).tolist() == [round(0.2 * n)] * 2


@pytest.mark.parametrize(
    ("gate", "sharing"),
    [
        ("hard_concrete", 0.1),
        ("straight_through", 0.5),
        pytest.param("hard_concrete", 0.5, marks=pytest.mark.slow),
        pytest.param("straight_through", 0.1, marks=pytest.mark.slow),
    ],
)
def test_budgets_are_kept_before_anything_is_cut(tmp_path, gate, sharing) -> None:
    toy = Toy(tmp_path, f"model.relaxation={gate}", f"model.sharing={sharing}")
    network = Gated(toy.ncs, toy.config.model.search, steps=toy.steps(10))
    with torch.no_grad():
        opens = torch.cat([p.flatten(1) for p in network.open().values()], dim=1)
    assert (expected_density(opens) > 0.9).all()
    toy.train(Training(network, label="search", epochs=10, per_task=True))
    with torch.no_grad():
        opens = torch.cat([p.flatten(1) for p in network.open().values()], dim=1)
    assert expected_density(opens).tolist() == pytest.approx([0.2, 0.2], abs=0.05)
    assert float(expected_sharing(opens)) == pytest.approx(sharing, abs=0.05)
    assert float(network.cut().overlap()[0, 1]) == pytest.approx(sharing, abs=0.15)


@pytest.mark.parametrize("rewind", [True, False])
def test_the_trained_weights_stay_unless_they_are_rewound(tmp_path, rewind) -> None:
    toy = Toy(tmp_path, f"model.rewind={rewind}", "model.search_epochs=1")
    start = {name: p.detach().clone() for name, p in toy.ncs.named_parameters()}
    toy.ncs.prepare(toy)
    moved = [not torch.equal(p, start[name]) for name, p in toy.ncs.named_parameters()]
    assert any(moved) != rewind
    assert list(toy.ncs.masks.density().values()) == pytest.approx([0.2, 0.2], abs=0.002)


@pytest.mark.parametrize("gate", KINDS)
def test_evaluation_is_by_the_masks_that_would_be_cut(tmp_path, gate) -> None:
    toy = Toy(tmp_path, f"model.relaxation={gate}")
    network = Gated(toy.ncs, toy.config.model.search, steps=10)
    with torch.no_grad():
        for number, offset in enumerate(network.offsets.values()):
            generator = torch.Generator().manual_seed(number)
            offset.copy_(torch.randn(offset.shape, generator=generator))
    features = toy.valid_rows.gather(torch.arange(32)).features
    expected = network.eval()(features).logits
    assert not torch.equal(network.train()(features).logits, expected)
    toy.ncs.set_masks(network.cut())
    assert torch.equal(toy.ncs(features).logits, expected)


@pytest.mark.parametrize("gate", KINDS)
@pytest.mark.parametrize("stop_after", [4, 11])
def test_a_resumed_search_ends_bit_for_bit_where_an_uninterrupted_one_ends(
    quick_data, tmp_path, gate, stop_after
) -> None:
    def gated(folder: Path) -> tuple[Bench, Gated]:
        search = ("model.search=learned", f"model.relaxation={gate}", "model.sharing=0.5")
        bench = Bench(quick_data, folder, "model=ncs", *search)
        return bench, Gated(bench.network, bench.config.model.search, steps=18)

    bench, straight = gated(tmp_path / "straight")
    expected = bench.fit(straight, batch_size=512, patience=99)
    bench, broken = gated(tmp_path)
    with pytest.raises(RunInterrupted):
        bench.fit(broken, batch_size=512, patience=99, stop_after=stop_after)
    bench, again = gated(tmp_path)
    assert bench.fit(again, batch_size=512, patience=99).state.history == expected.state.history
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert any(offset.abs().max() > 1e-3 for offset in again.offsets.values())
