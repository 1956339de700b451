"""Balancing methods against torchjd, closed forms and gradients taken one by one."""

import pytest
import torch

from cvrbench.balancing.base import gramian
from cvrbench.balancing.pcgrad import PCGrad
from cvrbench.config.compose import compose
from cvrbench.errors import ConfigError
from tests.choices import BALANCINGS
from tests.models.conftest_models import balancing_of, chosen, make_schema

LOSSES = torch.tensor([0.69, 0.12, 0.01])


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
    weights = PCGrad(torch.ones(n_tasks)).combine(gramian(losses, shared), losses)
    (weights.detach() * losses).sum().backward()
    torch.testing.assert_close(shared.grad.flatten(), expected)


def test_pcgrad_of_two_tasks_takes_each_off_the_others_normal():
    pytest.importorskip("torchjd")
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # <one, other> = -1: one + other / 2 and other + one are what is left (algorithm 1 by hand).
    jacobian = torch.stack([one, other])
    weights = PCGrad(torch.ones(2)).combine(jacobian @ jacobian.T, None)
    torch.testing.assert_close(weights @ jacobian, (one + other / 2) + (other + one))


def test_pcgrad_without_conflict_is_equal():
    pytest.importorskip("torchjd")
    jacobian = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    weights = PCGrad(torch.ones(3)).combine(jacobian @ jacobian.T, None)
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


@pytest.mark.parametrize("kind", BALANCINGS)
def test_a_config_says_of_its_method_whether_it_compares_gradients(kind):
    built = balancing_of(kind, make_schema())
    assert built.compares_gradients == chosen("balancing", kind).compares_gradients
    assert not (built.compares_gradients and built.stackable)


@pytest.mark.parametrize("kind", BALANCINGS)
def test_a_batch_without_a_row_of_any_task_weighs_a_finite_loss(kind):
    method = balancing_of(kind, make_schema(3))
    for values in ([0.0, 0.0, 0.0], [0.6, 0.0, 0.2], [0.5, 0.1, 0.0], [0.4, 0.2, 0.1]):
        losses = torch.tensor(values, requires_grad=True)
        method.weigh(losses).sum().backward()
        method.learn(losses.detach() / 2)
        assert torch.isfinite(losses.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert all(torch.isfinite(tensor).all() for tensor in method.state_dict().values())


@pytest.mark.parametrize("kind", BALANCINGS)
def test_what_is_recorded_is_named_by_tasks_and_begins_anew_with_every_call(kind):
    method = balancing_of(kind, make_schema(3))
    tasks = ("ctr", "cvr", "like")
    for _ in range(3):
        method.weigh(LOSSES)
    if not (facts := method.facts(tasks)):
        assert kind in ("equal", "weighted", "pcgrad")
        return
    assert set(facts) <= {"weights", "conflicts"}
    if not method.compares_gradients:
        assert tuple(facts["weights"]) == tasks
        # Scaled, so that a step is as long as one of `equal`; `uncertainty` is as published.
        assert sum(facts["weights"].values()) == pytest.approx(3, abs=1e-3)
    method.weigh(LOSSES)
    assert method.facts(tasks) != {}
    assert method.step_count == 0
