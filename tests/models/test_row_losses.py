"""Losses of one row (`objective.losses`) against formulas written out in numpy."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit

from cvrbench.config.schema import BCEConfig, FocalConfig, HuberConfig, LossConfig, MSEConfig
from cvrbench.data.schema import Schema
from cvrbench.errors import ConfigError
from cvrbench.objectives import Objective, build_objective
from cvrbench.objectives.base import focal
from tests.models.conftest_models import OBJECTIVES, chosen, make_schema, output, rows_of

FOCAL, MSE = FocalConfig(kind="focal", alpha=0.75, gamma=2.0), MSEConfig(kind="mse")


def ratio_schema() -> Schema:
    schema = make_schema(2)
    ctr, cvr = schema.tasks
    return replace(schema, tasks=(ctr, replace(cvr, kind="ratio")))


def objective(kind: str, losses: Mapping[str, LossConfig], schema: Schema) -> Objective:
    return build_objective(replace(chosen("objective", kind), losses=dict(losses)), schema)


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and clicks with a watch ratio above 0 exactly where there is one."""
    g = torch.Generator().manual_seed(0)
    click = torch.randint(2, (300,), generator=g).float()
    ratio = click * torch.rand(300, generator=g).clamp_min(0.01)
    return 3 * torch.randn(300, 2, generator=g), torch.stack([click, ratio], dim=-1)


def arrays(case: tuple[torch.Tensor, torch.Tensor]) -> list[np.ndarray]:
    """Sigmoids and labels of both tasks, float64."""
    logits, labels = (tensor.double().numpy() for tensor in case)
    return [expit(logits[:, 0]), expit(logits[:, 1]), labels[:, 0], labels[:, 1]]


def test_the_papers_losses_are_those_of_its_code(case) -> None:
    """lt4rec: a mean over all rows, and a squared error over rows whose ratio is above 0."""
    s, q, y, r = arrays(case)
    positive = -0.75 * (y - s) ** 2 * np.log(np.clip(s, 1e-8, 1.0))
    negative = -(1 - 0.75) * s**2 * np.log(np.clip(1 - s, 1e-8, 1.0))
    squared = ((q - r) ** 2)[r > 0].sum() / (r > 0).sum()
    expected = [np.where(y > 0, positive, negative).mean(), squared]
    got = objective("click_space", {"ctr": FOCAL, "cvr": MSE}, ratio_schema())
    found = got.losses(output(case[0]), rows_of(case[1]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert torch.equal(got.per_task().losses(output(case[0]), rows_of(case[1])), found)


def test_the_focal_loss_is_finite_where_a_logit_is_far_off() -> None:
    logits = torch.tensor([-200.0, 200.0, 0.0], requires_grad=True)
    loss = focal(logits, torch.tensor([1.0, 0.0, 1.0]), 0.75, 2.0)
    loss.sum().backward()
    assert loss[:2].tolist() == pytest.approx([-0.75 * np.log(1e-8), -0.25 * np.log(1e-8)])
    assert torch.isfinite(logits.grad).all()
    plain = focal(logits.detach(), torch.tensor([1.0, 0.0, 1.0]), 0.5, 0.0)[2]
    assert plain.item() == pytest.approx(0.5 * np.log(2))


def test_huber_is_squared_near_the_label_and_absolute_further_away(case) -> None:
    _, q, y, r = arrays(case)
    error = np.abs(q - r)[y == 1]
    expected = np.where(error < 0.3, error**2 / 2, 0.3 * (error - 0.15)).mean()
    huber = {"cvr": HuberConfig(kind="huber", delta=0.3)}
    of_rows = objective("click_space", huber, ratio_schema())
    found = of_rows.losses(output(case[0]), rows_of(case[1]))
    assert found[1].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_loss_that_is_named_and_the_default_are_one(kind: str, case) -> None:
    logits, labels = case[0], (case[1] > 0).float()
    named = objective(kind, {"ctr": BCEConfig(kind="bce")}, make_schema(2))
    plain = objective(kind, {}, make_schema(2))
    got, expected = (o.losses(output(logits), rows_of(labels)) for o in (named, plain))
    assert torch.equal(got, expected)


def test_a_ratio_is_a_soft_label_of_the_product(case) -> None:
    """ESMM with E[y r] = P(y) E[r | y] in the place of the product of two probabilities."""
    s, q, y, r = arrays(case)
    joint = s * q
    expected = -(y * r * np.log(joint) + (1 - y * r) * np.log1p(-joint)).mean()
    got = objective("entire_space", {"ctr": FOCAL}, ratio_schema())
    found = got.losses(output(case[0]), rows_of(case[1]))
    assert found[1].item() == pytest.approx(expected, rel=1e-5)
    alone = objective("click_space", {"ctr": FOCAL}, ratio_schema())
    assert found[0] == alone.losses(output(case[0]), rows_of(case[1]))[0]


@pytest.mark.parametrize(
    ("kind", "losses", "words"),
    [
        ("dcmt", {}, "'cvr' is a ratio"),
        ("nise", {}, "'cvr' is a ratio"),
        ("entire_space", {"cvr": MSE}, "cross-entropy of a product"),
        ("escm2_ipw", {"cvr": MSE}, "cross-entropy of a product"),
        ("click_space", {"cvr": FOCAL}, "focal is a loss of labels 0 and 1"),
        ("click_space", {"cvx": MSE}, "Did you mean 'cvr'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    kind: str, losses: dict[str, LossConfig], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        objective(kind, losses, ratio_schema())
