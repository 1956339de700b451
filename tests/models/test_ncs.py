"""What neuron-connection sharing promises whatever found its masks."""

import pytest
import torch
from torch import Tensor

from cvrbench.config.compose import compose
from cvrbench.masks.drawn import random_scores
from cvrbench.masks.ranking import keep_best
from cvrbench.strategies.ncs import NCS, TaskAlone
from cvrbench.training.optimizers import MaskedAdamW, build_optimizers
from tests.models.conftest_models import make_batch, make_schema
from tests.models.test_strategy_laws import build
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
    plain = build("NCSConfig", schema)
    network = build("NCSConfig", schema, masked=masked)
    features = make_batch(schema).features
    torch.testing.assert_close(network(features), plain(features))
    assert network.diagnostics()["union_density"] == 1
    assert {name.split("_")[0] for name in network.masks.keep} == {
        {"trunk": "trunk", "biases": "trunk", "towers": "tower", "embeddings": "embedding"}[p]
        for p in masked
    } | ({"tower"} if "biases" in masked else set())


@pytest.mark.parametrize("masked", [(part,) for part in PARTS] + [PARTS])
def test_a_task_computes_with_what_its_masks_keep_and_nothing_else(masked) -> None:
    """Excluded entries can be set to anything, task by task, without any change."""
    schema = make_schema(3)
    network = sparse(build("NCSConfig", schema, masked=masked))
    features = make_batch(schema).features
    for task in range(3):
        expected = network(features)[:, task]
        twin = sparse(build("NCSConfig", schema, masked=masked))
        for parameter, allowed in twin.moving_of(task).items():
            noise = torch.randn_like(parameter)
            parameter.data = torch.where(allowed.expand_as(parameter), parameter, noise)
        torch.testing.assert_close(twin(features)[:, task], expected)
        torch.testing.assert_close(TaskAlone(twin, task)(features)[:, task], expected)


def test_apart_the_tasks_compute_the_same_with_weights_of_their_own() -> None:
    schema = make_schema(3)
    network = sparse(build("NCSConfig", schema))
    twin = network.apart()
    features = make_batch(schema).features
    torch.testing.assert_close(twin(features), network(features))
    twin(features)[:, 1].sum().backward()
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
    network = sparse(build("NCSConfig", bench.schema, masked=masked, step="alternate"))
    if own_weights:
        network.split()
    config = bench.config.trainer
    trainer = type(config)(
        **{**vars(config), "embedding_optimizer": table, "weight_decay": 0.5, "learning_rate": 0.1,
           "embedding_weight_decay": 0.5}
    )  # fmt: skip
    optimizers = build_optimizers(network, trainer)
    turns = network.turns()
    assert [turn.task for turn in turns] == [0, 1]
    for number in range(6):
        batch = bench.train.gather(torch.arange(number * 64, (number + 1) * 64))
        for turn in turns:
            before = snapshot(network)
            loss = bench.objective.losses(network(batch.features), batch.labels)[turn.task]
            optimizers.zero_grad()
            loss.backward()
            optimizers.step(turn.moving)
            allowed = {id(p): mask for p, mask in turn.moving.items()}
            for name, parameter in network.named_parameters():
                moved = parameter != before[name]
                may = allowed.get(id(parameter))
                if may is not None:
                    assert not (moved & ~may.expand_as(parameter)).any(), name
                if name.startswith("trunk.weights"):
                    assert moved.any(), name


def leak(network: NCS, optimizer: torch.optim.Optimizer, moving, steps: int = 200) -> float:
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
        if moving:
            optimizer.moving = network.moving_of(task)
        optimizer.step()
        only_other = keep[1 - task] & ~keep[task]
        total += (weight - before)[0].abs()[only_other].mean().item()
        count += 1
    return total / count / lr


def test_the_published_step_leaks_and_the_strict_one_does_not() -> None:
    """Our toy of the references' leak: 58 to 67 % of the learning rate a step (method.md)."""
    schema = make_schema(multivalued=False, numeric=False)  # encoder of width 8
    options = {"hidden": (6,), "tower": (), "step": "alternate"}
    legacy = sparse(build("NCSConfig", schema, masked_step="legacy", **options), 0.5)
    assert [turn.moving for turn in legacy.turns()] == [None, None]
    weight = [legacy.trunk.weights[0]]
    assert 0.2 < leak(legacy, torch.optim.Adam(weight, lr=0.02), moving=False) < 1.0
    strict = sparse(build("NCSConfig", schema, **options), 0.5)
    own = MaskedAdamW([strict.trunk.weights[0]], lr=0.02, weight_decay=0.0)
    assert leak(strict, own, moving=True) == 0.0


def test_legacy_turns_are_optimised_by_plain_adam_and_strict_ones_are_not() -> None:
    schema = make_schema()
    config = compose(["model=ncs"]).config.trainer
    legacy = build("NCSConfig", schema, step="alternate", masked_step="legacy")
    strict = build("NCSConfig", schema, step="alternate")
    assert isinstance(build_optimizers(legacy, config).dense, torch.optim.AdamW)
    assert isinstance(build_optimizers(strict, config).dense, MaskedAdamW)


def test_masks_survive_the_state_dict_bit_for_bit() -> None:
    schema = make_schema(3)
    network = sparse(build("NCSConfig", schema, masked=PARTS))
    other = build("NCSConfig", schema, seed=5, masked=PARTS)
    other.load_state_dict(network.state_dict())
    for name, keep in network.masks.keep.items():
        assert torch.equal(keep, other.masks.keep[name])
