"""Dropout, and the linear maps of stacked networks: against torch's own and closed forms."""

import math
from functools import partial

import pytest
import torch
from torch.func import functional_call

from cvrbench.nn import ParallelMLP, kernels


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_the_share_and_keeps_the_mean(share):
    torch.manual_seed(0)
    n = 400_000
    y = kernels.dropout(torch.ones(n), share)
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n) + 2**-16)
    kept = y[y != 0]
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert kept[0].item() == pytest.approx(1 / (1 - share), rel=1e-3)
    assert y.double().mean().item() == pytest.approx(1.0, abs=0.01)


def test_units_are_dropped_independently():
    torch.manual_seed(0)
    y = (kernels.dropout(torch.ones(100_000, 4), 0.5) != 0).double()
    correlations = torch.corrcoef(y.T) - torch.eye(4)
    assert correlations.abs().max() < 0.02
    neighbours = torch.corrcoef(torch.stack([y.view(-1)[:-1], y.view(-1)[1:]]))[0, 1]
    assert abs(neighbours) < 0.01


def test_the_gradient_is_dropped_with_the_unit():
    torch.manual_seed(0)
    x = torch.randn(64, 33, dtype=torch.float64, requires_grad=True)
    y = kernels.dropout(x, 0.3)
    y.sum().backward()
    assert torch.allclose(x.grad, (y / x).detach())


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_shares_at_the_ends_leave_finite_numbers(share):
    assert torch.isfinite(kernels.dropout(torch.ones(1000), share)).all()


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_every_network_of_a_stack_drops_what_it_drops_alone(layout):
    x = torch.randn(3, 4, 7, 5)
    if layout == "transposed":
        x = x.transpose(1, 2)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    with kernels.drawing_from(generators):
        stacked = torch.vmap(lambda one: kernels.dropout(one, 0.4))(x)
    for number, seed in enumerate((5, 6, 7)):
        torch.manual_seed(seed)
        assert torch.equal(kernels.dropout(x[number], 0.4), stacked[number])
        assert torch.equal(generators[number].get_state(), torch.get_rng_state())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("x", "n", "n_bias"),
    [((6, 4), 1, 1), ((1, 6, 4), 1, 1), ((6, 4), 3, 3), ((1, 6, 4), 3, 1), ((3, 6, 4), 3, 3)],
    ids=str,
)
def test_stacked_maps_have_the_values_and_gradients_of_torchs_own_products(x, n, n_bias, relu):
    torch.manual_seed(0)
    kind = {"dtype": torch.float64, "requires_grad": True}
    x, weight, bias = (torch.randn(2, *shape, **kind) for shape in (x, (n, 4, 5), (n_bias, 1, 5)))
    mapped = partial(kernels.of_replicas, partial(kernels.linear, relu=relu))
    with kernels.drawing_from([torch.Generator()] * 2):
        stacked = torch.vmap(mapped)(x, weight, bias)
    plain = (x if x.dim() == 4 else x[:, None]) @ weight + bias
    plain = plain.relu() if relu else plain
    assert torch.allclose(stacked, plain)
    wanted = torch.randn_like(plain)
    for found, expected in zip(
        torch.autograd.grad((stacked * wanted).sum(), (x, weight, bias)),
        torch.autograd.grad((plain * wanted).sum(), (x, weight, bias)),
        strict=True,
    ):
        assert torch.allclose(found, expected)


def test_a_stack_of_one_layer_after_another_is_each_alone():
    torch.manual_seed(0)
    networks = [ParallelMLP(3, 8, (16, 4), dropout=0.0) for _ in range(4)]
    names = [name for name, _ in networks[0].named_parameters()]
    parameters = {n: torch.stack([net.get_parameter(n) for net in networks]) for n in names}
    x = torch.randn(4, 32, 8)
    run = torch.vmap(lambda weights, one: functional_call(networks[0], weights, (one,)))
    with kernels.drawing_from([torch.Generator()] * 4):
        stacked = run(parameters, x)
    for network, own, found in zip(networks, x, stacked, strict=True):
        assert torch.allclose(network(own), found, atol=1e-6)
