"""Bytes that are counted are those that torch itself would hold."""

import copy

import pytest
import torch
from torch import nn

from cvrbench.footprint.live import pretending

ROWS = {"unique": lambda n: n // 2, "repeated": lambda n: 3 * n}


def test_a_tensor_counts_while_somebody_holds_it():
    with pretending(ROWS) as live:
        with live.of("first"):
            one = torch.empty(1000, dtype=torch.float64)
        view = one.view(10, 100)[3:]
        assert live.total == 8000
        two = one + 1
        assert live.total == 16000
        del one
        assert live.total == 16000  # the view holds all of it
        del view, two
        assert live.total == 0
    assert live.peak == {"first": 8000, "other": 8000}


def test_nothing_is_allocated():
    with pretending(ROWS) as live:
        huge = torch.zeros(1 << 20, 1 << 20)
        huge = huge @ huge
        assert live.total == 4 << 40
        assert live.peak_total == 8 << 40


def test_a_training_step_holds_what_can_be_counted_by_hand():
    rows, n_in, n_out = 64, 50, 30
    with pretending(ROWS) as live:
        layer = nn.Linear(n_in, n_out, bias=False)
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        weights = 4 * n_in * n_out
        assert live.total == weights
        layer(torch.ones(rows, n_in)).sum().backward()
        assert live.total == 2 * weights  # and the gradient
        optimizer.step()
        assert live.total == 4 * weights + 4  # two moments, and a clock
        optimizer.zero_grad()
        assert live.total == 3 * weights + 4


def test_what_depends_on_numbers_is_answered_by_what_is_expected():
    with pretending(ROWS):
        assert len(torch.unique(torch.zeros(100))) == 50
        assert len(torch.zeros(100).nonzero()) == 50
        counts = torch.ones(10, dtype=torch.int64)
        assert len(torch.repeat_interleave(torch.arange(10), counts)) == 30
        assert torch.zeros(2, 2).tolist() == [[1.0, 1.0], [1.0, 1.0]]
        assert bool(torch.isfinite(torch.zeros(())))


def test_a_copy_of_a_network_counts_again():
    with pretending(ROWS) as live:
        network = nn.BatchNorm1d(1000)
        before = live.total
        twin = copy.deepcopy(network)
        assert live.total == 2 * before
        assert twin.running_mean is not network.running_mean


def test_a_copied_layer_learns_and_holds_its_gradient():
    with pretending(ROWS) as live:
        layer = copy.deepcopy(nn.Linear(50, 30, bias=False))
        before = live.total
        layer(torch.ones(4, 50)).sum().backward()
        assert isinstance(layer.weight, nn.Parameter)
        assert live.total == before + 4 * 50 * 30


def test_memory_of_the_host_counts_for_the_host_alone():
    with pretending(ROWS) as live, live.beside("scores", 100):
        assert live.total == 100
    with pretending(ROWS, host=False) as live, live.beside("scores", 100):
        held = torch.empty(10)
        assert (live.total, len(held)) == (40, 10)


def test_the_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    with pretending(ROWS):
        torch.manual_seed(3)
        nn.Linear(3, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [1 << 20, 1 << 24])
def test_the_count_is_torchs_own(size):
    """Held against the sizes that torch's profiler sees the allocator give."""

    def work():
        x = torch.ones(size, requires_grad=True)
        (x.sigmoid() * x).sum().backward()

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    events = told.profiler.kineto_results.events()
    total = peak = 0
    for event in events:
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    with pretending(ROWS) as live:
        work()
    assert live.peak_total == pytest.approx(peak, rel=0.01)
