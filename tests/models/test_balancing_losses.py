"""Balancing by losses against torchjd's scalarizations, closed forms and stationary points."""

import pytest
import torch

from cvrbench.balancing.losses import DWA, FAMO, IMTLL, STCH, Geometric, NISERatio, Uncertainty
from tests.models.conftest_models import chosen

LOSSES = torch.tensor([0.69, 0.12, 0.01])
ALL = torch.ones(3)


def theirs():
    return pytest.importorskip("torchjd.scalarization")


def ratios(method, losses=LOSSES) -> torch.Tensor:
    """The weights that a method, or a scalarization, gives the losses, with a mean of 1."""
    leaf = losses.clone().requires_grad_()
    value = method.weigh(leaf) if hasattr(method, "weigh") else method(leaf)
    value.sum().backward()
    return leaf.grad / leaf.grad.mean()


def descend(method, losses, n_steps, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(n_steps):
        optimizer.zero_grad()
        method.weigh(losses).sum().backward()
        optimizer.step()


def test_uncertainty_is_torchjds_of_losses_twice_as_large():
    # Theirs is exp(-s) L / 2 + s / 2 (regression), ours exp(-s) L + s / 2 (classification).
    other, ours = theirs().UW(3), Uncertainty(ALL)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (other, ours)]
    for _ in range(20):
        values = other(2 * LOSSES), ours.weigh(LOSSES).sum()
        torch.testing.assert_close(*values)
        for value, optimizer in zip(values, optimizers, strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def test_uncertainty_ends_at_the_inverse_of_twice_the_loss_also_for_rare_labels():
    # A port that clamps s at 0 leaves the two rare tasks at one and the same weight for ever.
    ours = Uncertainty(ALL)
    descend(ours, LOSSES, 500)
    torch.testing.assert_close(torch.exp(-ours.log_variance), 1 / (2 * LOSSES), rtol=1e-2, atol=0)


def test_a_task_that_is_left_out_adds_nothing():
    ours = Uncertainty(torch.tensor([1.0, 0.0, 1.0]))
    terms = ours.weigh(LOSSES)
    terms.sum().backward()
    assert terms[1] == 0
    assert ours.log_variance.grad[1] == 0


def test_imtl_l_learns_as_torchjds_and_ends_where_all_weighted_losses_are_alike():
    other, ours = theirs().IMTLL(3), IMTLL(ALL)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        other(LOSSES).backward()
        optimizer.step()
    descend(ours, LOSSES, 5, torch.optim.SGD(ours.parameters(), lr=0.1))
    torch.testing.assert_close(ours.log_scale, other.log_scale)
    torch.testing.assert_close(ratios(ours), ratios(other))
    descend(ours, LOSSES, 500)
    terms = ours.weigh(LOSSES)
    torch.testing.assert_close(terms, terms.mean().expand(3), rtol=1e-2, atol=0)
    torch.testing.assert_close(terms.sum(), 3 / (1 / LOSSES).mean(), rtol=1e-2, atol=0)


def test_geometric_descends_as_torchjds_mean():
    torch.testing.assert_close(ratios(Geometric(ALL)), ratios(theirs().GeometricMean()))


def test_dwa_is_torchjds_whose_epochs_are_our_windows():
    other, ours = theirs().DWA(1.5), DWA(ALL, chosen("balancing", "dwa", temperature=1.5, window=4))
    generator = torch.Generator().manual_seed(0)
    for step in range(16):
        losses = torch.rand(3, generator=generator) + 0.1
        torch.testing.assert_close(ratios(ours, losses), ratios(other, losses))
        if step % 4 == 3:
            other.step()
    assert not torch.equal(ratios(ours), ALL)


def test_dwa_leaves_out_of_a_mean_the_batches_that_a_task_has_no_row_in():
    ours = DWA(torch.ones(2), chosen("balancing", "dwa", window=2))
    for losses in ([0.5, 0.2], [0.5, 0.0], [0.5, 0.0], [0.5, 0.0]):
        ours.weigh(torch.tensor(losses))
    # Never 0, neither as a mean nor as what is divided by.
    torch.testing.assert_close(ours.newer, torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(ratios(ours, torch.tensor([0.5, 0.2])), torch.ones(2))


def test_stch_is_torchjds_of_the_logarithms_relative_to_the_start():
    ours = STCH(ALL, chosen("balancing", "stch", mu=0.3, warmup_steps=2))
    for factor in (0.8, 1.2):  # mean: LOSSES
        torch.testing.assert_close(ratios(ours, factor * LOSSES), ratios(Geometric(ALL)))
    other = theirs().STCH(0.3, weights=ALL)
    now = LOSSES * torch.tensor([0.9, 0.5, 1.0])
    expected = ratios(lambda losses: other((losses / LOSSES).log()), now)
    torch.testing.assert_close(ratios(ours, now), expected)
    sharp = STCH(ALL, chosen("balancing", "stch", mu=1e-3, warmup_steps=1))
    sharp.weigh(LOSSES)
    torch.testing.assert_close(ratios(sharp, now), torch.tensor([0.0, 0.0, 3.0]))  # the worst


def test_famo_is_torchjds_over_steps_on_changing_losses():
    settings = {"learning_rate": 0.025, "weight_decay": 0.001}
    other, ours = theirs().FAMO(3), FAMO(ALL, chosen("balancing", "famo", **settings))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses = torch.rand(3, generator=generator) + 0.1
        torch.testing.assert_close(ratios(ours, losses), ratios(other, losses))
        after = losses * torch.tensor([0.7, 0.9, 1.1])
        other.update(after)
        ours.learn(after)
    assert ours.logits[0] < ours.logits[1] < ours.logits[2]  # what falls least weighs most


def test_famo_takes_no_note_of_a_task_without_a_row():
    ours = FAMO(torch.ones(2), chosen("balancing", "famo", weight_decay=0.0))
    ours.weigh(torch.tensor([0.5, 0.0]))
    ours.learn(torch.tensor([0.4, 0.0]))
    shares = ours.logits.softmax(0)
    assert torch.isfinite(shares).all()


def test_nises_ratio_is_the_authors_minimum_and_takes_no_gradient():
    ours = NISERatio(ALL, chosen("balancing", "nise_ratio", cap=50.0))
    w = [1, 0.69 / 0.12, 50]  # alpha min(L_ctr / L_cvr, beta) of their code, with .item()
    torch.testing.assert_close(ratios(ours), 3 * torch.tensor(w) / sum(w))
