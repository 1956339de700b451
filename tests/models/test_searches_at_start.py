"""Pruning at initialisation against finite differences, torch's own derivatives, and its laws."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cvrbench.config.compose import compose
from cvrbench.config.ncs import NCSConfig
from cvrbench.data.batches import Batch
from cvrbench.masks import saliency
from cvrbench.masks.ranking import keep_best
from cvrbench.nn import Output
from cvrbench.strategies import build_strategy
from cvrbench.strategies.ncs import NCS
from cvrbench.strategies.ncs.by_gradient import curvature_along, gradient_sums, grasp, snip, synflow
from tests.models.conftest_models import make_batch, make_schema


class Probe:
    """A context without training: batches in double precision, every task's loss in its space."""

    seed = 0

    def __init__(self, n_tasks: int) -> None:
        self.schema = make_schema(n_tasks)

    def batches(self, n: int) -> Iterator[Batch]:
        for seed in range(n):
            features, labels, _ = make_batch(self.schema, rows=64, seed=seed)
            double = {"bag_weights": features.bag_weights, "numeric": features.numeric}
            doubled = features._replace(**{name: t.double() for name, t in double.items()})
            yield Batch(doubled, labels.double())

    def losses(self, output: Output, batch: Batch) -> Tensor:
        seen = torch.ones_like(batch.labels)
        seen[:, 1:] = batch.labels[:, :1]
        loss = F.binary_cross_entropy_with_logits(output.logits, batch.labels, reduction="none")
        return (loss * seen).sum(0) / seen.sum(0)


def settings(*overrides: str, search: str = "snip") -> NCSConfig:
    common = ("model=ncs", "model.hidden=[8,6]", "model.tower=[5]", "model.embedding_dim=4")
    batches = () if search == "synflow" else ("model.search.probe_batches=3",)
    words = [*common, f"model.search={search}", *batches, "model.dropout=0", *overrides]
    return compose(words).config.model


def network(config: NCSConfig, n_tasks: int, seed: int = 0) -> NCS:
    """A network whose logits are far from 0, so that curvature is, too."""
    torch.manual_seed(seed)
    ncs = build_strategy(config, make_schema(n_tasks)).double()
    with torch.no_grad():
        ncs.encoder.table.normal_(std=1.0)
        for weight in ncs.trunk.weights:
            weight.mul_(2)
    return ncs


def loss_alone(ncs: NCS, task: int, probe: Probe, n: int, weights: Mapping[str, Tensor]) -> Tensor:
    """One task's summed loss through its own path, as a function of its effective weights."""
    loss = torch.zeros((), dtype=torch.double)
    for batch in probe.batches(n):
        loss = loss + probe.losses(ncs.through(batch.features, weights), batch)[task]
    return loss


def own(ncs: NCS, task: int) -> dict[str, Tensor]:
    return {n: w[task : task + 1].detach().clone() for n, w in ncs.effective().items()}


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_snip_is_the_change_of_a_tasks_loss_when_a_connection_fades(n_tasks: int) -> None:
    probe, ncs = Probe(n_tasks), network(settings(), n_tasks)
    scores = saliency.snip(ncs.effective(), gradient_sums(ncs, probe, 3).total)
    step = 1e-6
    for task in range(n_tasks):
        for layer, place in [
            ("trunk_0", (0, 3, 2)),
            ("trunk_0", (0, 9, 7)),
            ("trunk_1", (0, 4, 1)),
        ]:
            ends = []
            for factor in (1 + step, 1 - step):
                weights = own(ncs, task)
                weights[layer][place] *= factor
                ends.append(loss_alone(ncs, task, probe, 3, weights))
            expected = ((ends[0] - ends[1]) / (2 * step)).abs()
            torch.testing.assert_close(
                scores[layer][task][place[1:]], expected, rtol=1e-5, atol=1e-8
            )


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_curvature_is_torchs_hessian_product_of_each_task_alone(n_tasks: int) -> None:
    probe, ncs = Probe(n_tasks), network(settings(), n_tasks)
    gradient = gradient_sums(ncs, probe, 3).total
    found = curvature_along(gradient, ncs, probe, 3)
    for task in range(n_tasks):
        weights = own(ncs, task)

        def loss(*values: Tensor, names=tuple(weights), task=task) -> Tensor:
            return loss_alone(ncs, task, probe, 3, dict(zip(names, values, strict=True)))

        direction = tuple(gradient[name][task : task + 1] for name in weights)
        _, expected = torch.autograd.functional.hvp(loss, tuple(weights.values()), direction)
        for name, product in zip(weights, expected, strict=True):
            assert product.abs().max() > 1e-3
            torch.testing.assert_close(found[name][task], product[0], rtol=1e-8, atol=1e-12)


def test_grasp_keeps_what_the_gradient_flow_needs() -> None:
    """-2 theta * H g is how fast the task's squared gradient norm grows as a weight fades."""
    probe, ncs = Probe(2), network(settings(), 2)
    gradient = gradient_sums(ncs, probe, 3).total
    scores = saliency.grasp(ncs.effective(), curvature_along(gradient, ncs, probe, 3))

    def flow(task: int, layer: str, place: tuple[int, int], factor: float) -> Tensor:
        weights = {n: w.requires_grad_() for n, w in own(ncs, task).items()}
        with torch.no_grad():
            weights[layer][0][place] *= factor
        loss = loss_alone(ncs, task, probe, 3, weights)
        return sum(g.square().sum() for g in torch.autograd.grad(loss, list(weights.values())))

    for task, layer, place in [
        (0, "trunk_0", (3, 2)),
        (1, "trunk_0", (3, 2)),
        (1, "trunk_1", (4, 1)),
    ]:
        ends = [flow(task, layer, place, factor) for factor in (1 - 1e-6, 1 + 1e-6)]
        growth = (ends[0] - ends[1]) / 2e-6  # per share of the weight taken away
        torch.testing.assert_close(growth, -2 * scores[layer][task][place], rtol=1e-4, atol=1e-9)


def test_grasp_and_snip_ask_the_lab_for_their_batches_in_evaluation_mode() -> None:
    for search, find in (("snip", snip), ("grasp", grasp)):
        config = settings("model.dropout=0.9", "model.density=0.3", search=search)
        ncs = network(config, 2)
        first, again = (find(ncs, Probe(2), config.search)[0].masks.flat() for _ in range(2))
        assert torch.equal(first, again)  # dropout would differ
        assert ncs.training


def path(seed: int = 0, *, biases: bool = False) -> dict[str, Tensor]:
    """Two tasks' way through a common trunk of two layers and towers of one; some weights cut."""
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "trunk_0": (1, 7, 6),
        "trunk_1": (1, 6, 5),
        "tower_0": (2, 5, 4),
        "tower_head": (2, 4, 1),
    }
    found = {}
    for name, shape in shapes.items():
        weight = torch.randn(*shape, generator=g).double()
        found[name] = weight * (torch.rand(2, *shape[1:], generator=g) < 0.7)
        if biases and name != "tower_head":
            found[f"{name}_bias"] = torch.randn(shape[0], 1, shape[2], generator=g).double()
    return found


@pytest.mark.parametrize("biases", [False, True])
def test_synaptic_flow_is_the_derivative_of_the_flow_from_inputs_to_logit(biases: bool) -> None:
    weights = {n: w.requires_grad_() for n, w in path(biases=biases).items()}
    x = torch.ones(1, 7, dtype=torch.double)
    for name, weight in weights.items():
        x = x + weight.abs() if name.endswith("_bias") else x @ weight.abs()
    x.sum().backward()  # a task's flow does not depend on the other's weights
    scores = saliency.synflow(weights)
    for name, weight in weights.items():
        expected = (weight * weight.grad).abs()
        got = scores[name] if len(weight) == 2 else scores[name].sum(0, keepdim=True)
        torch.testing.assert_close(got, expected)


def test_synaptic_flow_is_conserved_from_layer_to_layer() -> None:
    """Tanaka et al. 2020, theorem 2 and its corollary: every layer's scores sum to R."""
    sums = torch.stack([s.expand(2, -1, -1).sum((1, 2)) for s in saliency.synflow(path()).values()])
    torch.testing.assert_close(sums, sums[:1].expand_as(sums))
    assert (sums > 0).all()
    assert (sums[0, 0] - sums[0, 1]).abs() > 1


def alive(masks, name: str) -> bool:
    return bool(masks.keep[name].flatten(1).any(dim=1).all())


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_synflow_empties_no_layer_where_magnitude_does(n_tasks: int) -> None:
    config = settings("model.hidden=[24,16,12]", "model.density=0.02", search="synflow")
    ncs = network(config, n_tasks)
    with torch.no_grad():
        ncs.trunk.weights[1].mul_(1e-3)
    magnitudes = {name: weight.abs() for name, weight in ncs.effective().items()}
    assert not alive(keep_best(magnitudes, ncs.masks, 0.02, "global"), "trunk_1")
    (found,) = synflow(ncs, config.search)
    assert all(alive(found.masks, name) for name in found.masks.keep)


def test_synflow_ends_in_one_way_from_input_to_logit() -> None:
    """One connection per layer is the sparsest network that still computes something."""
    config = settings("model.hidden=[24,16,12]", search="synflow")
    ncs = network(config, 2)
    density = 3 / ncs.masks.flat().shape[1]
    (found,) = synflow(ncs, replace(config.search, density=density))
    assert [int(keep.sum()) for keep in found.masks.keep.values()] == [2, 2, 2]
    first, second, third = found.masks.keep.values()
    for task in range(2):
        assert torch.equal(first[task].any(0), second[task].any(1))
        assert torch.equal(second[task].any(0), third[task].any(1))


def test_synflow_masks_differ_as_far_as_the_towers_do() -> None:
    config = settings("model.density=0.1", search="synflow")
    ncs = network(config, 2)
    apart = synflow(ncs, config.search)[0].masks.overlap()[0, 1]
    assert apart < 1
    with torch.no_grad():
        for parameter in (*ncs.towers.network.weights, ncs.towers.head):
            parameter[1] = parameter[0]
    assert synflow(ncs, config.search)[0].masks.overlap()[0, 1] == 1


@pytest.mark.parametrize("search", ["snip", "grasp", "synflow"])
@pytest.mark.parametrize("masked", ["[trunk]", "[trunk,biases,towers]", "[towers]"])
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_candidates_have_their_density_and_lie_within_each_other(search, masked, n_tasks) -> None:
    compared = ("model.rounds=3", "model.search.choice=validation", "model.search.epochs=1")
    config = settings(f"model.masked={masked}", "model.density=0.2", *compared, search=search)
    ncs, probe = network(config, n_tasks), Probe(n_tasks)
    finders = {"snip": snip, "grasp": grasp}
    if search == "synflow":
        found = synflow(ncs, config.search)
    else:
        found = finders[search](ncs, probe, config.search)
    n = ncs.masks.flat().shape[1]
    for number, candidate in enumerate(found):
        wanted = round(0.2 ** ((number + 1) / 3) * n)
        assert candidate.masks.flat().sum(1).tolist() == [wanted] * n_tasks
        if number:
            assert not (candidate.masks.flat() & ~found[number - 1].masks.flat()).any()
    assert ncs.masks.flat().all()  # the search itself cuts nothing
