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
from tests.models.conftest_models import chosen, make_schema

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


def debiased(kind: str, **changes: object) -> Objective:
    settings = {"lambda_c": 1.0, "lambda_g": 0.0, **changes}
    return build_objective(chosen("objective", kind, **settings), make_schema(2))


def planted(n: int = 400_000) -> tuple[torch.Tensor, ...]:
    """A feature on which clicks and conversions depend, their probabilities, and the labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, generator=generator)
    p, r = (x - 1).sigmoid(), (2 * x).sigmoid()
    y = torch.bernoulli(p, generator=generator)
    return x, p, r, Batch(None, torch.stack([y, y * torch.bernoulli(r, generator=generator)], 1))


@pytest.mark.parametrize(
    ("propensity", "imputation", "unbiased"),
    [("right", "wrong", True), ("wrong", "right", True), ("wrong", "wrong", False)],
)
def test_dr_is_unbiased_if_either_model_is_right(propensity, imputation, unbiased):
    x, _, r, batch = planted()
    constant = torch.full_like(x, -1.0)  # the CVR that is judged
    click = x - 1 if propensity == "right" else torch.zeros_like(x)
    guess = 2 * x if imputation == "right" else torch.full_like(x, 1.0)
    logits = torch.stack([click, constant], 1)
    extra = {"imputation": torch.stack([guess, guess], 1)}
    found = debiased("escm2_dr", floor=1e-6).losses(Output(logits, extra), batch)[1]
    y, p = batch.labels[:, 0], click.sigmoid()
    errors = nn.functional.binary_cross_entropy_with_logits(
        constant, batch.labels[:, 1], reduction="none"
    ) - nn.functional.binary_cross_entropy_with_logits(constant, guess.sigmoid(), reduction="none")
    found = found - (y * errors.square() / p).mean()  # what teaches the imputation
    wanted = nn.functional.binary_cross_entropy_with_logits(constant, r)
    standard_error = (y * errors / p).std() / len(x) ** 0.5
    assert (abs(found - wanted) < 4 * standard_error) == unbiased


def test_dr_with_an_error_of_its_own_head_is_ipw_to_the_cvr_logit_and_ours_is_not():
    logits, batch = case()
    (y, z), p = batch.labels.T, logits.detach()[:, 0].sigmoid()
    own = nn.functional.binary_cross_entropy_with_logits(logits[:, 1], z, reduction="none")
    head = torch.randn(ROWS, requires_grad=True)  # what is published: an error from the features
    (published,) = torch.autograd.grad((head + y * (own - head) / p).mean(), logits)
    (by_ipw,) = torch.autograd.grad(ipw().losses(Output(logits), batch)[1], logits)
    torch.testing.assert_close(published, by_ipw)
    extra = {"imputation": torch.randn(ROWS, 2, requires_grad=True)}
    loss = debiased("escm2_dr", floor=1e-6).losses(Output(logits, extra), batch)[1]
    ours, imputation = torch.autograd.grad(loss, (logits, extra["imputation"]))
    unclicked = y == 0
    assert (ours[unclicked, 1] != 0).all()
    assert (by_ipw[unclicked, 1] == 0).all()
    assert (ours[:, 0] == 0).all()
    # The imputed label learns from clicked rows alone, and not from the term that it corrects.
    assert torch.equal(imputation[:, 1] != 0, y == 1)


def test_dcmt_is_the_authors_of_nise_version_of_it():
    logits, batch = case()
    other = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))
    p, q = logits.detach().sigmoid().T
    (y, z), q_other = batch.labels.T, other[:, 1].sigmoid()
    ones = torch.ones(ROWS)
    expected = (
        nn.BCELoss(weight=y / p)(q, z)
        + nn.BCELoss(weight=(1 - y) / (1 - p))(q_other, ones)
        + 0.001 * (1 - (q + q_other)).abs().mean()
    )
    found = debiased("dcmt", floor=1e-6, lambda_tie=0.001)
    loss = found.losses(Output(logits, {"counterfactual": other}), batch)[1]
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 0] == 0).all()


def test_nise_is_the_authors_loss_and_pushes_harder_than_a_negative_label():
    logits, batch = case()
    q, (y, z) = logits[:, 1].sigmoid(), batch.labels.T
    by_row = nn.BCELoss(reduction="none")
    expected = (y * by_row(q, z) + (1 - y) * by_row(q, q)).mean()
    loss = debiased("nise").losses(Output(logits), batch)[1]
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(
        *(torch.autograd.grad(x, logits) for x in (loss, expected)), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    rare = torch.tensor([[0.0, -5.3]], requires_grad=True)  # q = 0.005
    unclicked = Batch(None, torch.zeros(1, 2))
    debiased("nise").losses(Output(rare), unclicked)[1].backward()
    q = rare.detach()[0, 1].sigmoid()
    assert rare.grad[0, 1] / q == pytest.approx(5.3, abs=0.1)  # a negative label: a push of q


def test_a_pseudo_label_without_a_gradient_teaches_nothing():
    logits = torch.randn(ROWS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    q = logits.sigmoid()
    nn.functional.binary_cross_entropy_with_logits(logits, q.detach()).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(ROWS), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["escm2_ipw", "escm2_dr", "dcmt", "nise"])
def test_without_its_own_loss_a_debiased_objective_is_entire_space(kind):
    logits, batch = case()
    entire = build_objective(EntireSpaceConfig(kind="entire_space"), make_schema(2))
    extra = dict.fromkeys(("imputation", "counterfactual"), -logits)
    found = debiased(kind, lambda_c=0.0, lambda_g=1.0).losses(Output(logits, extra), batch)
    torch.testing.assert_close(found, entire.losses(Output(logits), batch))
