"""Balancing methods against torchjd, closed forms and gradients taken one by one."""

from typing import get_args

import pytest
import torch

from cvrbench.balancing import build_balancing
from cvrbench.balancing.base import gramian
from cvrbench.balancing.pcgrad import PCGrad
from cvrbench.balancing.uncertainty import Uncertainty
from cvrbench.config.compose import compose
from cvrbench.config.schema import BalancingConfig, WeightedConfig
from cvrbench.errors import ConfigError
from tests.choices import BALANCINGS
from tests.models.conftest_models import balancing_of, make_schema

LOSSES = torch.tensor([0.69, 0.12, 0.01])


def test_uncertainty_is_torchjds_of_losses_twice_as_large():
    # Theirs is exp(-s) L / 2 + s / 2 (regression), ours exp(-s) L + s / 2 (classification).
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours = scalarization.UW(3), Uncertainty(torch.ones(3))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (theirs, ours)]
    for _ in range(20):
        values = theirs(2 * LOSSES), ours.weigh(LOSSES).sum()
        torch.testing.assert_close(*values)
        for value, optimizer in zip(values, optimizers, strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def test_uncertainty_ends_at_the_inverse_of_twice_the_loss_also_for_rare_labels():
    ours = Uncertainty(torch.ones(3))
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        ours.weigh(LOSSES).sum().backward()
        optimizer.step()
    torch.testing.assert_close(torch.exp(-ours.log_variance), 1 / (2 * LOSSES), rtol=1e-3, atol=0)


def test_a_task_that_is_left_out_adds_nothing():
    ours = Uncertainty(torch.tensor([1.0, 0.0, 1.0]))
    terms = ours.weigh(LOSSES)
    terms.sum().backward()
    assert terms[1] == 0
    assert ours.log_variance.grad[1] == 0


def tasks_of_one_representation(n_tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of linear tasks on one tensor; their gradients conflict."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(5, 4, generator=generator, requires_grad=True)
    directions = torch.randn(n_tasks, 5, 4, generator=generator)
    directions[1] -= 1.5 * directions[0]
    return (shared * directions).sum(dim=(1, 2)), shared


@pytest.mark.parametrize("n_tasks", [2, 3])
def test_pcgrad_is_torchjds_over_the_whole_gradients(n_tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    losses, shared = tasks_of_one_representation(n_tasks)
    rows = [torch.autograd.grad(loss, shared, retain_graph=True)[0].flatten() for loss in losses]
    torch.manual_seed(0)
    expected = aggregation.PCGrad()(torch.stack(rows))
    torch.manual_seed(0)
    weights = PCGrad(torch.ones(n_tasks)).combine(gramian(losses, shared))
    (weights.detach() * losses).sum().backward()
    torch.testing.assert_close(shared.grad.flatten(), expected)


def test_pcgrad_of_two_tasks_takes_each_off_the_others_normal():
    pytest.importorskip("torchjd")
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # <one, other> = -1: one + other / 2 and other + one are what is left (algorithm 1 by hand).
    jacobian = torch.stack([one, other])
    weights = PCGrad(torch.ones(2)).combine(jacobian @ jacobian.T)
    torch.testing.assert_close(weights @ jacobian, (one + other / 2) + (other + one))


def test_pcgrad_without_conflict_is_equal():
    pytest.importorskip("torchjd")
    jacobian = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    weights = PCGrad(torch.ones(3)).combine(jacobian @ jacobian.T)
    torch.testing.assert_close(weights, torch.ones(3))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("model=single_task", "shares nothing"),
        ("model=ncs model.step=alternate", "one task at a time"),
        ("model=ncs model.search=imp model.masked=[trunk,embeddings]", "of its own"),
        ("model=mmoe trainer.compile=true", "second gradient"),
    ],
)
def test_gradient_balancing_is_refused_where_there_is_nothing_to_compare(words, why):
    with pytest.raises(ConfigError, match=rf"balancing=pcgrad.*{why}.*use balancing=equal"):
        compose([*words.split(), "balancing=pcgrad"])


@pytest.mark.parametrize("config", get_args(BalancingConfig), ids=lambda c: c.__name__)
def test_a_config_says_of_its_method_whether_it_compares_gradients(config):
    weights = {"weights": {}} if config is WeightedConfig else {}
    (kind,) = get_args(config.__annotations__["kind"])
    made = config(kind=kind, **weights)
    built = build_balancing(made, ("ctr", "cvr"), ("ctr", "cvr"))
    assert built.compares_gradients == made.compares_gradients
    assert not (built.compares_gradients and built.stackable)


@pytest.mark.parametrize("kind", BALANCINGS)
def test_a_batch_without_a_row_of_any_task_weighs_a_finite_loss(kind):
    method = balancing_of(kind, make_schema(3))
    losses = torch.zeros(3, requires_grad=True)
    method.weigh(losses).sum().backward()
    assert torch.isfinite(losses.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
