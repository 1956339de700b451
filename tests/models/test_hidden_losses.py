"""Losses where labels are hidden, against scikit-learn's and what a full log would teach."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from cvrbench.data.label_subsampling import label_weights
from tests.models.conftest_models import make_schema, output, rows_of
from tests.models.test_objectives import objective, sigmoid

KINDS = ["click_space", "entire_space", "exposure_space"]
DEBIASED = ["escm2_ipw", "escm2_dr", "dcmt", "nise"]
ROWS = 3000


def case(seed: int = 0, share: float = 0.2):
    """Logits, labels and the weights of a draw: `[rows, 2]` each."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.rand(ROWS, 2, generator=g) < torch.tensor([0.4, 0.15])).float().cumprod(1)
    drawn = label_weights(
        make_schema(2), labels.numpy().astype(np.uint8), 1, share=share, seed=seed
    )
    return torch.randn(ROWS, 2, generator=g), labels, torch.from_numpy(drawn)


def in_their_words(kind: str, logits, labels, weights) -> list[float]:
    """Scikit-learn's weighted log loss of what each objective learns."""
    p, y, w = sigmoid(logits), labels.numpy(), weights[:, 1].numpy()
    of_click = log_loss(y[:, 0], p[:, 0])
    if kind == "click_space":
        rows = y[:, 0] == 1
        return [of_click, log_loss(y[rows, 1], p[rows, 1], sample_weight=w[rows])]
    joint = p[:, 0] * p[:, 1] if kind == "entire_space" else p[:, 1]
    return [of_click, log_loss(y[:, 0] * y[:, 1], joint, sample_weight=w)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_the_weighted_mean_over_what_is_seen(kind):
    logits, labels, weights = case()
    got = objective(kind).losses(output(logits), rows_of(labels, weights))
    np.testing.assert_allclose(got, in_their_words(kind, logits, labels, weights), rtol=1e-5)


def test_in_click_space_it_is_the_plain_mean_over_the_seen_clicks():
    logits, labels, weights = case()
    seen = (labels[:, 0] == 1) & (weights[:, 1] > 0)
    expected = log_loss(labels[seen, 1], sigmoid(logits)[seen, 1])
    got = objective("click_space").losses(output(logits), rows_of(labels, weights))[1]
    assert got.item() == pytest.approx(expected, rel=5e-3)  # but for rounding of two strata


@pytest.mark.parametrize("kind", KINDS + DEBIASED)
def test_no_bit_of_loss_or_gradient_depends_on_a_hidden_label(kind):
    logits, labels, weights = case()
    hidden = weights[:, 1] == 0
    flipped = labels.clone()
    flipped[hidden, 1] = 1 - flipped[hidden, 1]
    assert (flipped != labels).sum() > 500
    found = []
    for seen in (labels, flipped):
        leaf = logits.clone().requires_grad_()
        losses = objective(kind).losses(output(leaf), rows_of(seen, weights))
        losses.sum().backward()
        found.append((losses.detach(), leaf.grad))
    assert all(map(torch.equal, *found))
    assert found[0][1][:, 1].count_nonzero() > 0


@pytest.mark.parametrize("kind", KINDS + DEBIASED)
def test_a_batch_of_hidden_labels_has_no_loss(kind):
    logits = torch.randn(8, 2, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    losses = objective(kind).losses(output(logits), rows_of(torch.ones(8, 2), weights))
    losses[1].backward()
    assert losses[1] == 0
    assert torch.equal(logits.grad, torch.zeros(8, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_over_many_draws_the_loss_is_that_of_the_full_log(kind):
    """Within its standard error, and with the spread of a draw far above the bias."""
    logits, labels, _ = case()
    full = objective(kind).losses(output(logits), rows_of(labels))[1].item()
    drawn = [
        label_weights(make_schema(2), labels.numpy().astype(np.uint8), 1, share=0.1, seed=seed)
        for seed in range(300)
    ]
    losses = [
        objective(kind).losses(output(logits), rows_of(labels, torch.from_numpy(w)))[1].item()
        for w in drawn
    ]
    assert np.mean(losses) == pytest.approx(full, abs=4 * np.std(losses) / 300**0.5)
    assert np.std(losses) > 0


@pytest.mark.parametrize("kind", ["click_space", "entire_space"])
def test_a_constant_still_learns_the_conversion_rate_of_the_full_log(kind):
    """The minimum of both losses is at the base rates, as a closed form says."""
    _, labels, weights = case(share=0.05)
    rates = [labels[:, 0].mean(), labels[labels[:, 0] == 1, 1].mean()]
    bias = torch.zeros(2, requires_grad=True)
    descent = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        losses = objective(kind).losses(output(bias.expand(ROWS, 2)), rows_of(labels, weights))
        # The product teaches both factors; only the second is asked about here.
        total = losses.sum() + 50 * losses[0]
        total.backward()
        return total

    descent.step(closure)
    np.testing.assert_allclose(bias.detach().sigmoid(), rates, rtol=2e-2)
