"""Debiased objectives against torch's weighted loss, gradients and a simulation."""

import pytest
import torch
from torch import nn

from cvrbench.config.schema import (
    ClickSpaceConfig,
    EntireSpaceConfig,
    ESCM2IPWConfig,
)
from cvrbench.data.batches import Batch
from cvrbench.nn import Output
from cvrbench.objectives import Objective, build_objective
from tests.models.conftest_models import make_schema

ROWS = 64


def ipw(n_tasks: int = 2, **changes: object) -> Objective:
    settings = {"lambda_c": 1.0, "lambda_g": 0.0, "floor": 1e-6, "self_normalised": False}
    config = ESCM2IPWConfig(kind="escm2_ipw", **{**settings, **changes})
    return build_objective(config, make_schema(n_tasks))


def case(n_tasks: int = 2) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, n_tasks, generator=generator, requires_grad=True)
    labels = torch.randint(2, (ROWS, n_tasks), generator=generator).float()
    labels[:, 1:] *= labels[:, :1]
    return logits, Batch(None, labels)


def test_ipw_is_torchs_weighted_loss_as_the_authors_of_nise_wrote_it():
    logits, batch = case()
    p, q = logits.detach().sigmoid().T
    y, z = batch.labels.T
    expected = nn.BCELoss(weight=y / p)(q, z), nn.BCELoss()(p * q, y * z)
    for lambdas, value in (((1.0, 0.0), expected[0]), ((0.0, 1.0), expected[1])):
        found = ipw(lambda_c=lambdas[0], lambda_g=lambdas[1]).losses(Output(logits), batch)
        torch.testing.assert_close(found[1], value)
        torch.testing.assert_close(found[0], nn.BCELoss()(p, y))
    both = ipw(lambda_c=0.5, lambda_g=0.3).losses(Output(logits), batch)[1]
    torch.testing.assert_close(both, 0.5 * expected[0] + 0.3 * expected[1])


def test_no_gradient_reaches_ctr_through_the_propensity():
    logits, batch = case()
    ipw().losses(Output(logits), batch)[1].backward()
    assert torch.all(logits.grad[:, 0] == 0)
    assert torch.all((logits.grad[:, 1] != 0) == (batch.labels[:, 0] == 1))


def test_the_floor_caps_what_a_row_weighs():
    logits = torch.tensor([[-20.0, 0.0]])
    batch = Batch(None, torch.tensor([[1.0, 1.0]]))
    found = ipw(floor=0.05).losses(Output(logits), batch)[1]
    torch.testing.assert_close(found, torch.tensor(2.0).log() / 0.05)


def test_self_normalised_ipw_under_one_propensity_for_all_is_click_space():
    _, batch = case()
    logits = torch.stack([torch.full((ROWS,), 0.3), torch.linspace(-2, 2, ROWS)], dim=1)
    click = build_objective(ClickSpaceConfig(kind="click_space"), make_schema(2))
    found = ipw(self_normalised=True).losses(Output(logits), batch)[1]
    torch.testing.assert_close(found, click.losses(Output(logits), batch)[1])


def test_lambdas_of_entire_space_are_entire_space():
    logits, batch = case(3)
    entire = build_objective(EntireSpaceConfig(kind="entire_space"), make_schema(3))
    found = ipw(3, lambda_c=0.0, lambda_g=1.0).losses(Output(logits), batch)
    torch.testing.assert_close(found, entire.losses(Output(logits), batch))


def test_ipw_is_unbiased_for_the_loss_over_all_exposures():
    # Clicks and conversions depend on one feature, so that clicked rows convert more often.
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    x = torch.randn(n, generator=generator)
    p, r = (x - 1).sigmoid(), (2 * x).sigmoid()  # click, conversion of a click
    y = torch.bernoulli(p, generator=generator)
    z = torch.bernoulli(r, generator=generator)
    constant = torch.full((n,), -1.0)  # CVR of the model; its CTR is right
    logits = torch.stack([x - 1, constant], dim=1)
    wanted = nn.functional.binary_cross_entropy_with_logits(constant, r)  # over all exposures
    batch = Batch(None, torch.stack([y, y * z], dim=1))
    found = ipw().losses(Output(logits), batch)[1]
    click = build_objective(ClickSpaceConfig(kind="click_space"), make_schema(2))
    biased = click.losses(Output(logits), batch)[1]
    assert abs(found - wanted) < 0.01
    assert abs(biased - wanted) > 0.1


@pytest.mark.parametrize("self_normalised", [False, True])
def test_a_batch_without_clicks_gives_no_number_that_is_none(self_normalised):
    logits, _ = case()
    batch = Batch(None, torch.zeros(ROWS, 2))
    losses = ipw(self_normalised=self_normalised).losses(Output(logits), batch)
    losses.sum().backward()
    assert losses[1] == 0
    assert torch.isfinite(logits.grad).all()
