"""Balancing by gradients against torchjd's golden values and weightings, and closed forms."""

import numpy as np
import pytest
import torch

from cvrbench.balancing.base import gramian
from cvrbench.balancing.gradients import GradVac, fair
from cvrbench.balancing.losses import Weights
from cvrbench.strategies.base import SharingStrategy
from tests.models.conftest_models import (
    balancing_of,
    build,
    chosen,
    make_batch,
    make_schema,
    objective_of,
)

JACOBIAN = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
GOLDEN = {
    "aligned_mtl": [0.5591, 0.4083],
    "cagrad": [0.7041, 0.5000],
    "gradvac": [2.2222, 1.5789],
    "imtl_g": [0.5923, 0.4077],
    "mgda": [0.6000, 0.4000],
    "pcgrad": [2.2222, 1.5789],
    "upgrad": [1.1109, 0.7894],
}
"""Weights of `JACOBIAN` in tests/unit/aggregation/test_values.py of TorchJD, unscaled."""


def weights(kind: str, jacobian: torch.Tensor, losses=None, **settings: object) -> torch.Tensor:
    """The weights of a method at its first step."""
    method = balancing_of(kind, make_schema(len(jacobian)), **settings)
    losses = torch.ones(len(jacobian)) if losses is None else torch.tensor(losses)
    return method.combine(jacobian @ jacobian.T, losses)


def scaled(values) -> torch.Tensor:
    values = torch.as_tensor(values, dtype=torch.float32)
    return values * len(values) / values.sum()


def drawn(n_tasks: int, seed: int = 0) -> torch.Tensor:
    """Gradients of which the first two conflict."""
    jacobian = torch.randn(n_tasks, 9, generator=torch.Generator().manual_seed(seed))
    jacobian[1] -= 1.5 * jacobian[0]
    return jacobian * torch.linspace(0.5, 2, n_tasks)[:, None]


@pytest.mark.parametrize("kind", GOLDEN)
def test_weights_are_torchjds_golden_values(kind):
    pytest.importorskip("torchjd")
    settings = {"cagrad": {"c": 0.5}}.get(kind, {})
    found = weights(kind, JACOBIAN, **settings)
    torch.testing.assert_close(found, scaled(GOLDEN[kind]), rtol=0, atol=3e-4)


def test_nash_is_torchjds_golden_value():
    # Theirs is a step of norm 1 at most: [0.0542, 0.7061, 0.7061].
    direction = torch.nn.functional.normalize(weights("nash", JACOBIAN) @ JACOBIAN, dim=0)
    expected = torch.tensor([0.0542, 0.7061, 0.7061])
    torch.testing.assert_close(direction, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("n_tasks", [2, 3, 5])
def test_fairgrad_solves_its_equation_and_is_torchjds(alpha, n_tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = drawn(n_tasks)
    matrix = (jacobian @ jacobian.T).double()
    matrix /= matrix.diagonal().mean()
    w = fair(matrix.numpy(), alpha)
    np.testing.assert_allclose(matrix.numpy() @ w, w ** (-1 / alpha), rtol=1e-5)
    theirs = aggregation.FairGradWeighting(alpha)(matrix)
    np.testing.assert_allclose(w, theirs, rtol=1e-2)
    if n_tasks == 5:
        return
    found = weights("fairgrad", jacobian, alpha=alpha)
    torch.testing.assert_close(found, scaled(w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_tasks", [2, 3])
def test_pcgrad_descends_torchjds_direction_of_the_whole_gradients(n_tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    shared = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    directions = drawn(n_tasks, 2).repeat(1, 3)[:, :20].view(n_tasks, 5, 4)
    losses = (shared * directions).sum(dim=(1, 2))
    rows = [torch.autograd.grad(loss, shared, retain_graph=True)[0].flatten() for loss in losses]
    torch.manual_seed(0)
    expected = aggregation.PCGrad()(torch.stack(rows))
    torch.manual_seed(0)
    found = balancing_of("pcgrad", make_schema(n_tasks)).combine(
        gramian(losses, shared), losses.detach()
    )
    (found.detach() * losses).sum().backward()
    cosine = torch.nn.functional.cosine_similarity(shared.grad.flatten(), expected, dim=0)
    assert cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n_tasks", [2, 3])
def test_gradvac_is_torchjds_over_steps(n_tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.GradVacWeighting(beta=0.3)
    ours = GradVac(torch.ones(n_tasks), chosen("balancing", "gradvac", beta=0.3))
    for seed in range(6):
        jacobian = drawn(n_tasks, seed)
        torch.manual_seed(seed)
        expected = theirs(jacobian @ jacobian.T)
        torch.manual_seed(seed)
        found = ours.combine(jacobian @ jacobian.T, torch.ones(n_tasks))
        torch.testing.assert_close(found, scaled(expected), rtol=1e-3, atol=1e-4)
    assert (ours.goals != 0).sum() == n_tasks * (n_tasks - 1)


def test_two_tasks_have_closed_forms():
    pytest.importorskip("torchjd")
    jacobian = drawn(2)
    (a, b), (_, c) = (jacobian @ jacobian.T).tolist()
    assert b < 0
    inverse_norms = scaled([a**-0.5, c**-0.5])
    for kind, settings in (("nash", {}), ("imtl_g", {}), ("fairgrad", {"alpha": 1.0})):
        found = weights(kind, jacobian, **settings)
        torch.testing.assert_close(found, inverse_norms, rtol=1e-4, atol=0, msg=kind)
    off_normals = scaled([1 - b / a, 1 - b / c])  # each off the other's, algorithm 1 by hand
    for kind in ("pcgrad", "upgrad"):
        found = weights(kind, jacobian)
        torch.testing.assert_close(found, off_normals, rtol=1e-4, atol=0, msg=kind)
    torch.testing.assert_close(weights("mgda", jacobian), scaled([c - b, a - b]))
    root = (a * c - b * b) ** 0.5  # of the inverse of a matrix of two rows
    aligned = scaled([c - b + root, a - b + root])
    torch.testing.assert_close(weights("aligned_mtl", jacobian), aligned, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["pcgrad", "upgrad", "gradvac", "gradcraft"])
def test_without_a_conflict_projections_are_equal(kind):
    pytest.importorskip("torchjd")
    jacobian = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    settings = {"gradcraft": {"relax": 0.0}}.get(kind, {})
    found = weights(kind, jacobian, **settings)
    torch.testing.assert_close(found, torch.ones(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrads_direction_lies_on_its_ball_and_no_other_there_is_better(c):
    jacobian = drawn(3).double()
    w = weights("cagrad", jacobian.float(), c=c).double()
    mean = jacobian.mean(0)
    # The scale is lost: its ray meets the sphere twice.
    ray = torch.nn.functional.normalize(w @ jacobian, dim=0)
    along, rest = ray @ mean, (1 - c * c) * mean.square().sum()
    assert along**2 >= rest - 1e-6
    root = (along**2 - rest).clamp_min(0).sqrt()
    best = max((x * jacobian @ ray).min() for x in (along - root, along + root))
    others = torch.randn(20_000, 9, generator=torch.Generator().manual_seed(0)).double()
    others = mean + c * mean.norm() * torch.nn.functional.normalize(others, dim=1)
    assert (others @ jacobian.T).min(1).values.max() <= best + 1e-3


def test_gradnorm_ends_where_every_gradient_is_as_large_as_its_target():
    # A public port takes the mean of the rates for all tasks: its target knows no task.
    losses, norms = [0.6, 0.3, 0.1], torch.tensor([3.0, 1.0, 0.5])
    jacobian = torch.diag(norms)
    for alpha in (0.0, 1.0):
        method = balancing_of("gradnorm", make_schema(3), alpha=alpha, learning_rate=0.005)
        for _ in range(1000):
            found = method.combine(jacobian @ jacobian.T, torch.tensor(losses))
        expected = scaled(torch.tensor(losses) ** alpha / norms)
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02)


def test_metabalance_takes_moving_averages_to_the_targets():
    method = balancing_of("metabalance", make_schema(2), relax=0.7, decay=0.9)
    m = np.array([4.0, 1.0])
    for k in range(3):
        norms = np.array([4.0 + k, 1.0])
        m = m if k == 0 else 0.9 * m + 0.1 * norms
        found = method.combine(torch.diag(torch.tensor(norms**2)).float(), torch.ones(2))
        expected = scaled(0.7 * m[1] / m + 0.3)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    first = balancing_of("metabalance", make_schema(2), relax=1.0, target="ctr")
    found = first.combine(torch.diag(torch.tensor([16.0, 1.0])), torch.ones(2))
    torch.testing.assert_close(found, scaled([1.0, 4.0]))


def test_gradcraft_leaves_the_cosines_of_conflicts_at_the_margin():
    jacobian = drawn(2)
    found = weights("gradcraft", jacobian, relax=1.0, margin=0.1)
    unit = jacobian / jacobian.norm(dim=1, keepdim=True)  # norms alike
    cosine = unit[0] @ unit[1]
    one = unit[0] + (0.1 - cosine) * unit[1]  # <one, other> = 0.1 |unit| |other|
    other = unit[1] + (0.1 - cosine) * unit[0]
    assert one @ unit[1] == pytest.approx(0.1, abs=1e-6)
    direction = found @ jacobian
    cosine = torch.nn.functional.cosine_similarity(direction, one + other, dim=0)
    assert cosine == pytest.approx(1, abs=1e-5)


def test_what_is_compared_is_what_all_tasks_read_and_the_table_stays_sparse():
    # Ports compare the first embedding table instead, or refuse sparse gradients.
    schema = make_schema(3)
    network: SharingStrategy = build("mmoe", schema).train()
    network.encoder.sparse = True
    output = network(make_batch(schema).features)
    experts, read_by_gates = output.shared
    assert experts.shape == (network.experts.n, 16, network.experts.n_out)
    assert read_by_gates.shape == (16, network.encoder.width)
    losses = objective_of("click_space", schema).losses(output, make_batch(schema))
    method = balancing_of("gradnorm", schema)
    assert not isinstance(method, Weights)
    found = method.combine(gramian(losses, output.shared), losses.detach())
    (found * losses).sum().backward()
    assert network.encoder.table.grad.is_sparse
