"""The row-wise optimisers against torch's, and the rule that masked weights never move."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from cvrbench.training.optimizers import LazyAdam, MaskedAdamW, RowwiseAdagrad

IDS = [torch.tensor([0, 3, 3, 5]), torch.tensor([3, 1]), torch.tensor([5, 5, 0])]


def train(optimizer: torch.optim.Optimizer, table: nn.Parameter) -> None:
    for step, ids in enumerate(IDS):
        optimizer.zero_grad()
        target = torch.full((len(ids), 4), float(step + 1))
        (F.embedding(ids, table, sparse=True) - target).square().sum().backward()
        optimizer.step()


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))


def test_lazy_adam_is_torchs_sparse_adam() -> None:
    ours, theirs = table(), table()
    train(LazyAdam([ours], lr=0.05, weight_decay=0.0), ours)
    train(torch.optim.SparseAdam([theirs], lr=0.05), theirs)
    torch.testing.assert_close(ours, theirs)


def test_rowwise_adagrad_with_one_column_is_torchs_adagrad() -> None:
    ours = nn.Parameter(table().detach()[:, :1].clone())
    theirs = nn.Parameter(ours.detach().clone())
    for optimizer, weight, sparse in (
        (RowwiseAdagrad([ours], lr=0.1, weight_decay=0.0, eps=1e-10), ours, True),
        (torch.optim.Adagrad([theirs], lr=0.1, eps=1e-10), theirs, False),
    ):
        for ids in IDS:
            optimizer.zero_grad()
            (F.embedding(ids, weight, sparse=sparse) - 1).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_rowwise_adagrad_scales_a_row_by_its_mean_square() -> None:
    weight = table()
    before = weight.detach().clone()
    optimizer = RowwiseAdagrad([weight], lr=0.1, weight_decay=0.0)
    grad = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (F.embedding(torch.tensor([2]), weight, sparse=True) * grad).sum().backward()
    optimizer.step()
    expected = before.clone()
    expected[2] -= 0.1 * grad / grad.square().mean().sqrt()
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("cls", [LazyAdam, RowwiseAdagrad])
def test_rows_outside_the_batch_do_not_move(cls: type) -> None:
    weight = table()
    before = weight.detach().clone()
    train(cls([weight], lr=0.1, weight_decay=0.1), weight)
    untouched = [2, 4, 6, 7]
    assert torch.equal(weight.detach()[untouched], before[untouched])
    assert (weight.detach()[[0, 1, 3, 5]] != before[[0, 1, 3, 5]]).all()


@pytest.mark.parametrize("cls", [LazyAdam, RowwiseAdagrad])
def test_weight_decay_is_an_l2_penalty_on_the_rows_in_the_batch(cls: type) -> None:
    decayed, penalised = table(), table()
    ids = torch.tensor([1, 6])
    one, other = (
        cls([decayed], lr=0.1, weight_decay=0.3),
        cls([penalised], lr=0.1, weight_decay=0.0),
    )
    F.embedding(ids, decayed, sparse=True).sum().backward()
    one.step()
    rows = F.embedding(ids, penalised, sparse=True)
    (rows.sum() + 0.15 * rows.square().sum()).backward()
    other.step()
    torch.testing.assert_close(decayed, penalised)


def dense_steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int = 5) -> None:
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight * torch.randn(weight.shape, generator=g)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_masked_adamw_with_nothing_excluded_is_torchs_adamw(decay: float) -> None:
    ours, theirs = table(), table()
    dense_steps(MaskedAdamW([ours], lr=0.05, weight_decay=decay), ours)
    dense_steps(torch.optim.AdamW([theirs], lr=0.05, weight_decay=decay), theirs)
    torch.testing.assert_close(ours, theirs)


def test_masked_adamw_moves_an_entry_as_an_adamw_that_saw_its_steps_only() -> None:
    ours, theirs = table(), table()
    keep = torch.arange(32).view(8, 4) % 3 == 0
    optimizer = MaskedAdamW([ours], lr=0.05, weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.1)
    before = ours.detach().clone()
    g = torch.Generator().manual_seed(2)
    for step in range(8):
        gradient = torch.randn(ours.shape, generator=g)
        optimizer.moving = {ours: keep if step % 2 else ~keep}
        ours.grad = gradient.clone()
        optimizer.step()
        if step % 2:
            theirs.grad = gradient.clone()
            reference.step()
    torch.testing.assert_close(ours[keep], theirs[keep])
    assert (ours[~keep] != before[~keep]).all()


def test_a_checkpoint_of_masked_adamw_moves_to_its_parameters_device_whole() -> None:
    """torch leaves a state called "step" where it was read to; a GPU run would not resume."""
    weight = table()
    optimizer = MaskedAdamW([weight], lr=0.05, weight_decay=0.0)
    dense_steps(optimizer, weight, 1)
    elsewhere = nn.Parameter(torch.empty(8, 4, device="meta"))
    other = MaskedAdamW([elsewhere], lr=0.05, weight_decay=0.0)
    other.load_state_dict(optimizer.state_dict())
    assert {state.device.type for state in other.state[elsewhere].values()} == {"meta"}
