"""Balancing methods against torchjd, closed forms and gradients taken one by one."""

import pytest
import torch

from cvrbench.balancing.uncertainty import Uncertainty

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
