"""Optimisers, rates and clipping against torch's, and that masked weights never move."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from cvrbench.config.compose import compose
from cvrbench.training.loop import WARMUP, rate_factor
from cvrbench.training.optimizers import (
    LazyAdam,
    MaskedAdamW,
    RowwiseAdagrad,
    build_optimizers,
    clip,
)
from tests.models.conftest_models import balancing_of, build, make_schema

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
        optimizer.update_mask = {ours: keep if step % 2 else ~keep}
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


@pytest.mark.parametrize("steps", [2, 19, 20, 21, 100, 1000])
def test_the_schedule_is_torchs_linear_rise_and_cosine(steps: int) -> None:
    rising = math.ceil(WARMUP * steps)
    optimizer = torch.optim.SGD([table()], lr=0.3)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / rising, 1.0, max(rising - 1, 1))
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rising + 1)
    torchs = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [rising - 1])
    for step in range(1, steps + 1):
        expected = optimizer.param_groups[0]["lr"] / 0.3
        assert rate_factor("warmup_cosine", step, steps) == pytest.approx(expected, abs=1e-9), step
        assert rate_factor("constant", step, steps) == 1
        optimizer.step()
        torchs.step()
        assert rate_factor("warmup_cosine", step, steps) > 0
    assert rate_factor("warmup_cosine", 1, 1) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_a_rate_is_that_of_fresh_optimisers_whatever_came_before(masked: bool) -> None:
    """Both learning rates and the decay of masked weights."""
    schema = make_schema()
    network = build("ncs" if masked else "mmoe", schema)
    config = compose(["trainer.learning_rate=0.02", "trainer.weight_decay=0.5"]).config.trainer
    made = build_optimizers(network, config, balancing_of("equal", schema))
    assert bool(made.masked) == masked
    for factor in (0.5, 0.25, 0.25, 1.0):
        made.set_rate(factor)
        assert {group["lr"] for group in made.dense.param_groups} == {0.02 * factor}
        (group,) = made.table.param_groups
        assert group["lr"] == config.embedding_learning_rate * factor
        before = [p.detach().clone() for p in network.parameters()]
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)  # so that decay alone moves
        network.encoder.table.grad = None
        made.step()
        for parameter, old in zip(network.parameters(), before, strict=True):
            rate = 0.0 if parameter is network.encoder.table else 0.02 * factor
            torch.testing.assert_close(parameter.detach(), old * (1 - rate * 0.5))


def gradients(seed: int, shapes=((3,), (2, 4), ())) -> list[nn.Parameter]:
    """Parameters with gradients."""
    g = torch.Generator().manual_seed(seed)
    found = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in found:
        parameter.grad = torch.randn(parameter.shape, generator=g)
    return [*found, nn.Parameter(torch.zeros(2))]  # of which no loss asked


@pytest.mark.parametrize("norm", [0.5, 2.0, 100.0])
def test_gradients_are_clipped_as_by_torch_in_every_replica(norm: float) -> None:
    replicas = [gradients(seed) for seed in range(3)]
    stacked = []
    for parameters in zip(*replicas, strict=True):
        stack = nn.Parameter(torch.stack([p.detach() for p in parameters]))
        if parameters[0].grad is not None:
            stack.grad = torch.stack([p.grad.clone() for p in parameters])
        stacked.append(stack)
    for parameters in replicas:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
    clip(stacked, norm, stacked=True)
    (alone,) = (gradients(seed) for seed in [0])
    clip(alone, norm, stacked=False)
    for number, stack in enumerate(stacked):
        for replica, parameters in enumerate(replicas):
            expected = parameters[number].grad
            assert (stack.grad is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(stack.grad[replica], expected)
        if stack.grad is not None:
            torch.testing.assert_close(alone[number].grad, replicas[0][number].grad)


@pytest.mark.parametrize("norm", [None, 1e-3, 1e3])
def test_a_step_clips_the_dense_weights_and_leaves_the_table(norm: float | None) -> None:
    schema = make_schema()
    network, other = build("mmoe", schema), build("mmoe", schema)
    config = compose([f"trainer.clip_norm={'null' if norm is None else norm}"]).config.trainer
    made = build_optimizers(network, config, balancing_of("equal", schema))
    for parameter, twin in zip(network.parameters(), other.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        twin.grad = parameter.grad.clone()
    table = network.encoder.table
    table.grad = table.grad.to_sparse(1)
    dense = [p for n, p in other.named_parameters() if n != "encoder.table"]
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(dense, norm)
    made.step()
    for parameter, twin in zip(network.parameters(), other.parameters(), strict=True):
        got = parameter.grad.to_dense() if parameter is table else parameter.grad
        torch.testing.assert_close(got, twin.grad)
