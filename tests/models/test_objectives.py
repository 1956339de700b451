"""Objectives against their equations written out, and scikit-learn's log loss."""

from dataclasses import replace
from itertools import product

import mpmath
import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from cvrbench.data.schema import Schema, Task
from cvrbench.objectives import Objective
from cvrbench.objectives.click_space import ClickSpace
from tests.models.conftest_models import (
    OBJECTIVES,
    make_batch,
    make_schema,
    objective_of,
    output,
    rows_of,
)


def objective(kind: str, n_tasks: int = 2) -> Objective:
    return objective_of(kind, make_schema(n_tasks))


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    batch = make_batch(make_schema(2), rows=200)
    return torch.randn(200, 2, generator=torch.Generator().manual_seed(3)), batch.labels


def sigmoid(x: torch.Tensor) -> np.ndarray:
    return 1 / (1 + np.exp(-x.double().numpy()))


def test_click_space_learns_cvr_on_clicked_rows(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = case
    clicked = labels[:, 0].numpy() == 1
    p = sigmoid(logits)
    expected = [
        log_loss(labels[:, 0], p[:, 0]),
        log_loss(labels[clicked, 1], p[clicked, 1]),
    ]
    got = objective("click_space").losses(output(logits), rows_of(labels))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_entire_space_is_esmm(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = case
    p = sigmoid(logits)
    both = labels[:, 0] * labels[:, 1]
    expected = [log_loss(labels[:, 0], p[:, 0]), log_loss(both, p[:, 0] * p[:, 1])]
    got = objective("entire_space").losses(output(logits), rows_of(labels))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_exposure_space_learns_each_label_on_all_rows(
    case: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = case
    p = sigmoid(logits)
    expected = [log_loss(labels[:, t], p[:, t]) for t in range(2)]
    got = objective("exposure_space").losses(output(logits), rows_of(labels))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["click_space", "entire_space"])
def test_joint_probability_is_the_product(
    kind: str, case: tuple[torch.Tensor, torch.Tensor]
) -> None:
    probabilities = objective(kind).predictions(output(case[0]))
    p = sigmoid(case[0])
    np.testing.assert_allclose(probabilities.conditional.numpy(), p, rtol=1e-12)
    np.testing.assert_allclose(probabilities.joint[:, 1].numpy(), p[:, 0] * p[:, 1], rtol=1e-12)
    np.testing.assert_allclose(probabilities.joint[:, 0].numpy(), p[:, 0], rtol=1e-12)


def test_a_conversion_without_a_click_is_no_ctcvr_in_exposure_space() -> None:
    logits, labels = torch.randn(3, 2), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    got = objective("exposure_space").losses(output(logits), rows_of(labels))
    expected = log_loss([0, 1, 0], sigmoid(logits)[:, 1], labels=[0, 1])
    assert got[1].item() == pytest.approx(expected, abs=1e-6)


def test_exposure_space_gives_cvr_as_a_quotient(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    probabilities = objective("exposure_space").predictions(output(case[0]))
    p = sigmoid(case[0])
    np.testing.assert_allclose(probabilities.joint.numpy(), p, rtol=1e-12)
    expected = np.minimum(p[:, 1] / p[:, 0], 1)
    np.testing.assert_allclose(probabilities.conditional[:, 1].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_extreme_logits_give_finite_losses_and_gradients(kind: str) -> None:
    logits = torch.tensor([[60.0, 60.0], [-60.0, 60.0], [60.0, -60.0]], requires_grad=True)
    labels = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    objective(kind).losses(output(logits), rows_of(labels)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_batch_without_clicks_has_no_cvr_loss() -> None:
    logits = torch.randn(4, 2, requires_grad=True)
    losses = objective("click_space").losses(output(logits), rows_of(torch.zeros(4, 2)))
    losses.sum().backward()
    assert losses[1] == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, 1], torch.zeros(4))


def test_tasks_without_parents_make_the_objectives_equal() -> None:
    tasks = (Task(name="ctr", label="click"), Task(name="like", label="is_like"))
    schema = replace(make_schema(2), tasks=tasks)
    logits, labels = torch.randn(50, 2), torch.randint(2, (50, 2)).float()
    losses = [
        objective_of(kind, schema).losses(output(logits), rows_of(labels))
        for kind in ("click_space", "entire_space", "exposure_space")
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def test_a_task_alone_learns_its_own_factor() -> None:
    assert isinstance(objective("entire_space").per_task(), ClickSpace)
    for kind in ("click_space", "exposure_space"):
        one = objective(kind)
        assert one.per_task() is one


def chain_of_three() -> Schema:
    """Three tasks, each the child of the one before."""
    tasks = (
        Task(name="ctr", label="click"),
        Task(name="cart", label="cart", parent="ctr", joint="ctcart"),
        Task(name="cvr", label="conversion", parent="cart", joint="ctcvr"),
    )
    return replace(make_schema(), tasks=tasks)


GRID = (-80.0, -30.0, -16.5, -3.0, -0.3, 0.0, 0.5, 4.0, 16.2, 17.0, 40.0, 80.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_the_log_of_what_is_left_of_a_chain_has_all_digits_to_80(dtype, tolerance) -> None:
    """Value and gradient of log(1 - s(x) s(y) s(z)) against 50 digits (mpmath)."""
    objective = objective_of("entire_space", chain_of_three())
    logits = torch.tensor(list(product(GRID, repeat=3)), dtype=dtype, requires_grad=True)
    found = objective.log_no_joint(logits)[:, 2]
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    smallest = torch.finfo(torch.float32).tiny * 100
    with mpmath.workdps(50):
        for row, value, slope in zip(
            logits.tolist(), found.tolist(), gradient.tolist(), strict=True
        ):
            p = [1 / (1 + mpmath.exp(-mpmath.mpf(x))) for x in row]
            q = [1 / (1 + mpmath.exp(mpmath.mpf(x))) for x in row]
            left = q[0] + p[0] * q[1] + p[0] * p[1] * q[2]
            expected = [mpmath.log(left), *(-p[0] * p[1] * p[2] * q[k] / left for k in range(3))]
            for ours, true in zip((value, *slope), expected, strict=True):
                assert abs(ours - true) <= tolerance * abs(true) + smallest, row


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_network_that_is_sure_of_the_wrong_comes_back(kind) -> None:
    """1,000 steps of Adam on labels 0 from logits of 20, where a clamped loss has no gradient."""
    schema = make_schema()
    objective = objective_of(kind, schema)
    logits = torch.full((4, 2), 20.0, requires_grad=True)
    labels = torch.tensor([[0.0, 0.0]] * 2 + [[1.0, 0.0]] * 2)
    adam = torch.optim.Adam([logits], lr=0.1)
    for _ in range(1000):
        adam.zero_grad()
        objective.losses(output(logits), rows_of(labels)).sum().backward()
        adam.step()
    predicted = objective.predictions(output(logits)).joint
    assert predicted[:2, 0].max() < 0.05  # not clicked
    assert predicted[2:, 1].max() < 0.05  # clicked, not converted
