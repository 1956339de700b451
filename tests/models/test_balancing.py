"""What holds of every balancing method, and where one is refused."""

import pytest
import torch

from cvrbench.config.compose import compose
from cvrbench.errors import ConfigError
from tests.choices import BALANCINGS
from tests.models.conftest_models import balancing_of, chosen, make_schema

LOSSES = torch.tensor([0.69, 0.12, 0.01])
OPPOSED = torch.tensor([[2.0, -0.5, 0.1], [-0.5, 1.0, 0.2], [0.1, 0.2, 0.5]])
"""A Gramian in which the first two tasks conflict."""


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
    with pytest.raises(ConfigError, match=rf"^balancing=pcgrad.*{why}.*use balancing=equal"):
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
    for gramian in (OPPOSED, OPPOSED.abs(), OPPOSED.abs()):
        if method.compares_gradients:
            method.combine(gramian, LOSSES)
        else:
            method.weigh(LOSSES)
    if not (facts := method.facts(tasks)):
        assert kind in ("equal", "weighted")
        return
    assert tuple(facts["weights"]) == tasks
    # A step is as long as one of `equal`; the weights of `uncertainty` are as published.
    assert sum(facts["weights"].values()) == pytest.approx(3, abs=1e-3)
    assert facts.get("conflicts", 0.3333) == 0.3333
    assert method.step_count == 0


@pytest.mark.parametrize("kind", [k for k in BALANCINGS if k not in ("equal", "weighted")])
def test_a_task_without_a_gradient_or_a_loss_leaves_the_others_their_step(kind):
    method, losses = balancing_of(kind, make_schema(3)), LOSSES.clone().requires_grad_()
    if method.compares_gradients:
        gramian = OPPOSED.clone()
        gramian[1] = gramian[:, 1] = 0
        weights = method.combine(gramian, LOSSES)
    else:
        method.weigh(losses * torch.tensor([1.0, 0.0, 1.0])).sum().backward()
        weights = losses.grad
    assert weights[0] > 0
    assert weights[2] > 0
    assert kind == "uncertainty" or weights[[0, 2]].sum() == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    "kind", [k for k in BALANCINGS if not chosen("balancing", k).compares_gradients]
)
def test_weights_from_losses_make_no_gpu_wait(kind):
    method = balancing_of(kind, make_schema()).to("meta")
    losses = torch.empty(2, device="meta", requires_grad=True)
    method.weigh(losses).sum().backward()
    method.learn(losses.detach())
