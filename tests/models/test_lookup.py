"""Look-ups in a table against torch's own, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from cvrbench.nn.lookup import Bags, _summed_in_place, gather_rows, look_up, sort_runs, summed_rows


@st.composite
def look_ups(draw):
    """A table, rows, bags of values (some empty, perhaps all), and gradients of both results."""
    n_rows, dim = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    row = st.integers(0, n_rows - 1)
    rows = draw(st.lists(row, min_size=1, max_size=12))
    bags = draw(st.lists(st.lists(row, max_size=4), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.tensor([v for bag in bags for v in bag], dtype=torch.int64)
    segments = torch.tensor([b for b, bag in enumerate(bags) for _ in bag], dtype=torch.int64)
    return (
        torch.randn(n_rows, dim, generator=generator),
        torch.tensor(rows),
        Bags(values, torch.rand(len(values), generator=generator), segments, len(bags)),
        torch.randn(len(rows), dim, generator=generator),
        torch.randn(len(bags), dim, generator=generator),
    )


@settings(deadline=None, max_examples=150)
@given(look_ups())
def test_values_and_gradients_are_those_of_torch(drawn):
    table, rows, bags, of_vectors, of_pooled = drawn
    ours, theirs = (table.clone().requires_grad_() for _ in range(2))
    vectors, pooled = look_up(ours, rows, bags)
    expected = F.embedding(rows, theirs)
    weighted = F.embedding(bags.rows, theirs) * bags.weights[:, None]
    expected_pooled = torch.zeros_like(of_pooled).index_add(0, bags.segments, weighted)
    torch.testing.assert_close(vectors, expected)
    torch.testing.assert_close(pooled, expected_pooled)
    torch.autograd.backward([vectors, pooled], [of_vectors, of_pooled])
    torch.autograd.backward([expected, expected_pooled], [of_vectors, of_pooled])
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)
    # The gradient says of itself that it holds every row once, in order; nobody checks it again.
    found, _ = summed_rows(ours.grad)
    assert found.tolist() == sorted({*rows.tolist(), *bags.rows.tolist()})


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.booleans())
def test_runs_are_those_of_unique(ids, long):
    ids = torch.tensor(ids)
    runs = sort_runs(ids, 2**40 if long else 7)
    rows, counts = torch.unique(ids, return_counts=True)
    assert torch.equal(runs.rows, rows)
    assert torch.equal(torch.diff(runs.starts, append=torch.tensor([len(ids)])), counts)
    assert torch.equal(runs.order, torch.argsort(ids, stable=True))


def test_two_look_ups_in_one_pass_add_up():
    table = torch.randn(6, 3, requires_grad=True)
    one, other = torch.tensor([4, 1, 4]), torch.tensor([1, 5])
    (look_up(table, one, None)[0].sum() + 2 * look_up(table, other, None)[0].sum()).backward()
    rows, summed = summed_rows(table.grad)
    assert rows.tolist() == [1, 4, 5]
    torch.testing.assert_close(summed[:, 0], torch.tensor([3.0, 2.0, 2.0]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_a_gpu_gets_every_place_the_sum_of_its_row(ids):
    ids = torch.tensor(ids)
    values = torch.randn(len(ids), 3)
    rows, summed = _summed_in_place(ids, values)
    assert sorted(rows.tolist()) == sorted(ids.tolist())
    expected = torch.zeros(7, 3).index_add(0, ids, values)
    torch.testing.assert_close(summed, expected[rows])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_gathered_rows_are_the_rows(dtype):
    table = torch.randn(50, 4, requires_grad=True)
    rows = torch.tensor([7, 7, 0, 49], dtype=dtype)
    assert torch.equal(gather_rows(table, rows), table.detach()[rows.long()])
    assert not gather_rows(table, rows).requires_grad
