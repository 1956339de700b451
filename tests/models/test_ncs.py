"""What neuron-connection sharing promises whatever found its masks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cvrbench.config.compose import compose
from cvrbench.masks.ranking import keep_best, random_scores
from cvrbench.strategies.ncs import NCS, SingleTaskView
from cvrbench.training.optimizers import MaskedAdamW, build_optimizers
from cvrbench.training.step import train_step
from tests.models.conftest_models import balancing_of, build, make_batch, make_schema
from tests.training.test_fit import Bench

PARTS = ("trunk", "biases", "towers", "embeddings")


def sparse(network: NCS, density: float = 0.4, seed: int = 1) -> NCS:
    scores = random_scores(network.masks, seed, identical=False)
    network.set_masks(keep_best(scores, network.masks, density, "layer"))
    return network


def snapshot(network: NCS) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("masked", [(part,) for part in PARTS] + [PARTS])
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_every_part_can_be_masked_and_all_ones_change_nothing(masked, n_tasks) -> None:
    schema = make_schema(n_tasks)
    plain = build("ncs", schema)
    network = build("ncs", schema, masked=masked)
    features = make_batch(schema).features
    torch.testing.assert_close(network(features).logits, plain(features).logits)
    assert network.diagnostics()["union_density"] == 1
    assert {name.split("_")[0] for name in network.masks.keep} == {
        {"trunk": "trunk", "biases": "trunk", "towers": "tower", "embeddings": "embedding"}[p]
        for p in masked
    } | ({"tower"} if "biases" in masked else set())


@pytest.mark.parametrize("masked", [(part,) for part in PARTS] + [PARTS])
def test_a_task_computes_with_what_its_masks_keep_and_nothing_else(masked) -> None:
    """Excluded entries can be set to anything, task by task, without any change."""
    schema = make_schema(3)
    network = sparse(build("ncs", schema, masked=masked))
    features = make_batch(schema).features
    for task in range(3):
        expected = network(features).logits[:, task]
        twin = sparse(build("ncs", schema, masked=masked))
        for parameter, allowed in twin.update_mask_of(task).items():
            noise = torch.randn_like(parameter)
            parameter.data = torch.where(allowed.expand_as(parameter), parameter, noise)
        torch.testing.assert_close(twin(features).logits[:, task], expected)
        torch.testing.assert_close(SingleTaskView(twin, task)(features).logits[:, task], expected)


def test_apart_the_tasks_compute_the_same_with_weights_of_their_own() -> None:
    schema = make_schema(3)
    network = sparse(build("ncs", schema))
    twin = network.untied()
    features = make_batch(schema).features
    torch.testing.assert_close(twin(features).logits, network(features).logits)
    twin(features).logits[:, 1].sum().backward()
    for weight in twin.trunk.weights:
        assert weight.grad[1].abs().sum() > 0
        assert torch.equal(weight.grad[[0, 2]], torch.zeros_like(weight.grad[[0, 2]]))


@pytest.mark.parametrize("masked", [("trunk",), PARTS])
@pytest.mark.parametrize("table", ["rowwise_adagrad", "lazy_adam"])
@pytest.mark.parametrize("own_weights", [False, True])
def test_strict_turns_move_nothing_that_their_task_does_not_keep(
    quick_data, tmp_path, masked, table, own_weights
) -> None:
    bench = Bench(quick_data, tmp_path, "model=ncs", "model.step=alternate")
    network = sparse(build("ncs", bench.schema, masked=masked, step="alternate"))
    if own_weights:
        network.split()
    balancing = balancing_of("equal", bench.schema)
    rates = {"learning_rate": 0.1, "weight_decay": 0.5, "embedding_weight_decay": 0.5}
    trainer = replace(bench.config.trainer, embedding_optimizer=table, **rates)
    optimizers = build_optimizers(network, trainer, balancing)
    turns = network.update_steps()
    assert [turn.task for turn in turns] == [0, 1]
    for number in range(6):
        batch = bench.train.gather(torch.arange(number * 64, (number + 1) * 64))
        for turn in turns:
            before = snapshot(network)
            train_step(network, bench.objective, balancing, batch, optimizers, updates=[turn])
            allowed = {id(p): mask for p, mask in turn.update_mask.items()}
            for name, parameter in network.named_parameters():
                moved = parameter != before[name]
                may = allowed.get(id(parameter))
                if may is not None:
                    assert not (moved & ~may.expand_as(parameter)).any(), name
                if name.startswith("trunk.weights"):
                    assert moved.any(), name


def leak(network: NCS, optimizer: torch.optim.Optimizer, update_mask, steps: int = 200) -> float:
    """Movement per step of weights outside the stepping task's mask, over the learning rate."""
    lr = optimizer.param_groups[0]["lr"]
    g = torch.Generator().manual_seed(0)
    target = torch.randn(2, 8, 6, generator=g)
    (weight,), keep = list(network.trunk.weights), network.masks.keep["trunk_0"]
    total, count = 0.0, 0
    for step in range(2 * steps):
        task = step % 2
        optimizer.zero_grad()
        noise = 0.3 * torch.randn(8, 6, generator=g)
        ((weight[0] * keep[task] - target[task] + noise).square().sum()).backward()
        before = weight.detach().clone()
        if update_mask:
            optimizer.update_mask = network.update_mask_of(task)
        optimizer.step()
        only_other = keep[1 - task] & ~keep[task]
        total += (weight - before)[0].abs()[only_other].mean().item()
        count += 1
    return total / count / lr


def test_the_published_step_leaks_and_the_strict_one_does_not() -> None:
    """Our toy of the references' leak: 58 to 67 % of the learning rate a step (method.md)."""
    schema = make_schema(multivalued=False, numeric=False)  # encoder of width 8
    options = {"hidden": (6,), "tower": (), "step": "alternate"}
    legacy = sparse(build("ncs", schema, masked_step="legacy", **options), 0.5)
    assert [turn.update_mask for turn in legacy.update_steps()] == [None, None]
    weight = [legacy.trunk.weights[0]]
    assert 0.2 < leak(legacy, torch.optim.Adam(weight, lr=0.02), update_mask=False) < 1.0
    strict = sparse(build("ncs", schema, **options), 0.5)
    own = MaskedAdamW([strict.trunk.weights[0]], lr=0.02, weight_decay=0.0)
    assert leak(strict, own, update_mask=True) == 0.0


def test_legacy_turns_are_optimised_by_plain_adam_and_strict_ones_are_not() -> None:
    schema = make_schema()
    config = compose(["model=ncs"]).config.trainer
    legacy = build("ncs", schema, step="alternate", masked_step="legacy")
    strict = build("ncs", schema, step="alternate")
    balancing = balancing_of("equal", schema)
    assert isinstance(build_optimizers(legacy, config, balancing).dense, torch.optim.AdamW)
    assert isinstance(build_optimizers(strict, config, balancing).dense, MaskedAdamW)


def test_masks_survive_the_state_dict_bit_for_bit() -> None:
    schema = make_schema(3)
    network = sparse(build("ncs", schema, masked=PARTS))
    other = build("ncs", schema, seed=5, masked=PARTS)
    other.load_state_dict(network.state_dict())
    for name, keep in network.masks.keep.items():
        assert torch.equal(keep, other.masks.keep[name])
