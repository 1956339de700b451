"""What is observed of sharing during a training, and that observing changes nothing."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from cvrbench.config.compose import compose
from cvrbench.data.batches import Batch, SplitTensors
from cvrbench.data.registry import ensure
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_network
from cvrbench.training.diagnostics import Probe, gradient_cosines, layer_name, probe_rows
from cvrbench.training.session import TrainingSession
from tests.models.conftest_models import (
    KINDS,
    OBJECTIVES,
    make_batch,
    make_schema,
    objective_of,
)
from tests.models.conftest_models import build as build_tiny

CPU = torch.device("cpu")
build = functools.partial(build_tiny, hidden=(24, 16), tower=(12,))
"""Wide enough that no task's tower is dead from the start."""


def halves(schema, rows=64, seed=0, labels=None) -> tuple[Batch, Batch]:
    """Two batches; with `labels`, one column after the other from the first label."""
    found = [make_batch(schema, rows, seed + half) for half in range(2)]
    if labels is not None:
        found = [Batch(b.features, torch.stack(labels(b.labels[:, 0]), dim=1)) for b in found]
    return found[0], found[1]


def parallel(schema):
    """The schema with no task below another, so that two tasks can be made equal or opposite."""
    roots = tuple(dataclasses.replace(t, parent=None, joint=None) for t in schema.tasks)
    return dataclasses.replace(schema, tasks=roots)


APART = objective_of("exposure_space", parallel(make_schema()))


def cosines(network, both, objective=APART):
    return gradient_cosines(network, both, objective, ("ctr", "cvr"))


def symmetric(network):
    """Give the towers of both tasks the same weights, and outputs near 0."""
    with torch.no_grad():
        for parameter in network.towers.parameters():
            parameter[1] = parameter[0]
    return network


def test_layers_have_readable_names():
    assert layer_name("trunk.weights.0") == "trunk_0"
    assert layer_name("gates.weight") == "gates"
    assert layer_name("levels.1.shared_gate.weight") == "levels_1_shared_gate"
    assert layer_name("towers.network.biases.0") == "towers_0_bias"


@pytest.mark.parametrize("kind", ["shared_bottom", "ncs"])
def test_equal_tasks_agree_and_opposite_ones_conflict(kind):
    schema = parallel(make_schema())
    network = symmetric(build(kind, schema))
    same, _ = cosines(network, halves(schema, labels=lambda y: [y, y]))
    assert {"embedding", "trunk_0", "trunk_1", "trunk_0_bias"} <= set(same)
    assert all(pair["ctr-cvr"] == pytest.approx(1, abs=1e-4) for pair in same.values())
    with torch.no_grad():  # a logit of 0 and a flipped label flip the sign of the loss's gradient
        network.towers.head *= 1e-6
        network.towers.bias.zero_()
    opposite, _ = cosines(network, halves(schema, labels=lambda y: [y, 1 - y]))
    assert all(pair["ctr-cvr"] == pytest.approx(-1, abs=1e-4) for pair in opposite.values())


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_cosines_are_those_of_autograd_by_hand(objective, sparse):
    schema = make_schema(numeric=False)
    goal = objective_of(objective, schema)
    network = build("shared_bottom", schema, heads=goal.heads).eval()
    both = halves(schema, rows=200)
    network.encoder.sparse = sparse
    between, within = cosines(network, both, goal)
    of_halves = []  # [half][task] -> one tensor per shared parameter
    network.encoder.sparse = False
    shared = [p for name, p in network.named_parameters() if not name.startswith("towers")]
    for half in both:
        losses = goal.losses(network(half.features), half)
        of_halves.append([torch.autograd.grad(x, shared, retain_graph=True) for x in losses])
    names = ["embedding", "trunk_0", "trunk_1", "trunk_0_bias", "trunk_1_bias"]
    # A loss of the product reaches the towers of both.
    of_product = objective not in ("click_space", "exposure_space", "nise")
    assert [n for n in between if not n.startswith("towers")] == names
    assert any(n.startswith("towers") for n in between) == of_product
    for i, name in enumerate(names):
        ctr, cvr = (of_halves[0][t][i] + of_halves[1][t][i] for t in range(2))
        here = ((ctr != 0) & (cvr != 0)).flatten(1).any(dim=1)  # the table: rows that both read
        expected = F.cosine_similarity(ctr[here].flatten(), cvr[here].flatten(), dim=0)
        assert between[name]["ctr-cvr"] == pytest.approx(expected.item(), abs=1e-4), name
        for t, task in enumerate(("ctr", "cvr")):
            one, other = of_halves[0][t][i], of_halves[1][t][i]
            here = ((one != 0) & (other != 0)).flatten(1).any(dim=1)
            expected = F.cosine_similarity(one[here].flatten(), other[here].flatten(), dim=0)
            assert within[name][task] == pytest.approx(expected.item(), abs=1e-4), name


def test_only_what_two_tasks_reach_is_compared():
    schema = make_schema()
    found = {kind: set(cosines(build(kind, schema), halves(schema))[0]) for kind in KINDS}
    assert found["single_task"] == set()
    assert found["shared_embedding"] == {"embedding"}
    assert {n for n in found["mmoe"] if "bias" not in n} == {
        "embedding",
        "experts_0",
        "experts_1",
    }
    assert "levels_0_shared_gate" in found["ple"]
    assert not any("task_gates" in name or "towers" in name for name in found["ple"])


def test_a_common_gate_is_shared_and_three_tasks_are_three_pairs():
    schema = make_schema(3)
    network = build("mmoe", schema, gate="common")
    goal = objective_of("click_space", schema)
    found, _ = gradient_cosines(network, halves(schema, 300), goal, ("ctr", "cvr", "like"))
    assert set(found["gates"]) == {"ctr-cvr", "ctr-like", "cvr-like"}


def test_experts_of_one_task_alone_are_left_out():
    """One level of PLE: an own expert is reached by its task only, a shared one by both."""
    schema = make_schema()
    network = symmetric(build("ple", schema, levels=1))
    with torch.no_grad():
        network.levels[0].task_gates.weight.zero_()
    with torch.no_grad():  # what the tasks own differs, what they share is used alike
        network.levels[0].experts.weights[1][:2] *= 1e-9
    found, _ = cosines(network, halves(schema, labels=lambda y: [y, y]))
    assert found["levels_0_experts_1"]["ctr-cvr"] == pytest.approx(1, abs=1e-4)


def test_masks_without_a_common_connection_leave_nothing_to_conflict():
    schema = make_schema()
    network = build("ncs", schema)
    for keep in network.keep.buffers():
        keep.copy_(torch.stack([keep[0].cumsum(1) % 2 == 0, keep[0].cumsum(1) % 2 == 1]))
        assert (keep.sum(dim=0) == 1).all()
    found, _ = cosines(network, halves(schema))
    assert {name: found[name]["ctr-cvr"] for name in ("trunk_0", "trunk_1")} == {
        "trunk_0": 0,
        "trunk_1": 0,
    }
    assert found["embedding"]["ctr-cvr"] != 0


def test_a_task_without_a_row_of_its_own_is_left_out():
    schema = make_schema()
    nobody = halves(schema, labels=lambda y: [0 * y, 0 * y])
    goal = objective_of("click_space", schema)
    assert cosines(build("shared_bottom", schema), nobody, goal) == ({}, {})


def test_one_task_has_nobody_to_conflict_with():
    schema = make_schema(1)
    network = build("shared_bottom", schema)
    goal = objective_of("click_space", schema)
    assert gradient_cosines(network, halves(schema), goal, ("ctr",)) == ({}, {})


def test_a_huge_table_is_never_filled():
    """Each gradient of the table in full would be as large as the table."""
    schema = make_schema()
    network = build("shared_bottom", schema)
    network.encoder.sparse = False  # as the dense optimiser has it
    vast = torch.full((1, 4), 0.1).expand(10**9, 4)  # memory for one row
    with torch.no_grad():
        network.encoder.table = torch.nn.Parameter(vast)
    probe = Probe(halves=halves(schema), objective=APART, tasks=("ctr", "cvr"))
    assert "embedding" in probe(network)["gradient_cosine"]
    assert not network.encoder.sparse


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_left_as_it_came(kind, training):
    schema = make_schema()
    network = build(kind, schema, dropout=0.5).train(training)
    weights = {name: t.clone() for name, t in network.state_dict().items()}
    random = torch.get_rng_state()
    probe = Probe(halves=halves(schema), objective=APART, tasks=("ctr", "cvr"))
    first = probe(network)
    assert probe(network) == first  # no dropout
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training == training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert all(torch.equal(t, weights[name]) for name, t in network.state_dict().items())


def test_the_probe_is_a_stream_of_its_own(quick_data):
    config = compose(["experiment=quick_check"]).config
    dataset = ensure(config.dataset, "synthetic", quick_data)
    train = SplitTensors.load(dataset.train, dataset.schema, CPU)
    goal = build_objective(config.objective, dataset.schema)
    random = torch.get_rng_state()
    draw = functools.partial(Probe.draw, train, goal, ("ctr", "cvr"))
    one, again, other = (draw(seed=seed, n_rows=100) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), random)
    assert [len(half.labels) for half in one.halves] == [50, 50]
    assert torch.equal(one.halves[0].features.rows, again.halves[0].features.rows)
    assert not torch.equal(one.halves[0].features.rows, other.halves[0].features.rows)
    whole = draw(seed=0, n_rows=10**6)
    assert sum(half.labels.sum() for half in whole.halves) == train.labels.sum()


def test_the_probe_is_a_small_part_of_what_is_trained_on():
    assert [probe_rows(rows) for rows in (1e3, 1e5, 1e7)] == [512, 1500, 16384]


def finish(quick, tmp_path, *overrides, observed=True, monkeypatch=None):
    """Train as an experiment does, with or without a look at sharing."""
    cell = quick(*overrides)
    dataset = ensure(cell.config.dataset, "synthetic", Path(cell.config.data_dir))
    torch.manual_seed(0)
    network = build_network(cell.config, dataset.schema)
    goal = build_objective(cell.config.objective, dataset.schema)
    stages = TrainingSession(
        cell.config, dataset, goal, CPU, tmp_path, lambda _: None, lambda: False
    )
    if not observed:
        monkeypatch.setattr("cvrbench.training.session.Probe.__call__", lambda *_: {})
    network.prepare(stages)
    return network, stages.finish(network), stages


@pytest.mark.parametrize("model", ["shared_bottom", "ple", "ncs"])
@pytest.mark.parametrize("table", ["rowwise_adagrad", "adam"])
def test_observing_changes_no_bit_of_a_training(quick, tmp_path, monkeypatch, model, table):
    options = (f"model={model}", f"trainer.embedding_optimizer={table}", "trainer.epochs=2")
    seen = finish(quick, tmp_path / "seen", *options)
    unseen = finish(quick, tmp_path / "unseen", *options, observed=False, monkeypatch=monkeypatch)
    for name, tensor in seen[0].state_dict().items():
        assert torch.equal(tensor, unseen[0].state_dict()[name]), name
    bare = [
        [{k: v for k, v in look.items() if k != "sharing"} for look in one[1].state.history]
        for one in (seen, unseen)
    ]
    assert bare[0] == bare[1]


def test_every_look_of_the_last_training_and_no_other_carries_what_was_seen(quick, tmp_path):
    _, final, stages = finish(quick, tmp_path, "model=ncs", "trainer.epochs=2")
    looks = stages.history
    assert {look["stage"] for look in looks if "sharing" in look} == {"train"}
    assert len(looks) > len(final.state.history)
    for look in final.state.history:
        assert set(look["sharing"]) == {"gradient_cosine", "self_cosine", "gates"}
        for pair in look["sharing"]["gradient_cosine"].values():
            assert -1 <= pair["ctr-cvr"] <= 1
    best = next(k for k in final.state.history if k["step"] == final.state.best_step)
    assert stages.sharing == best["sharing"]


def test_the_gates_of_the_record_are_those_of_the_weights_that_are_kept(quick, tmp_path):
    network, _, stages = finish(
        quick, tmp_path, "model=mmoe", "trainer.epochs=3", "trainer.learning_rate=0.02"
    )
    rows = probe_rows(len(stages.train_rows) / 2)
    probe = Probe.draw(stages.train_rows, stages.objective, ("ctr", "cvr"), seed=0, n_rows=rows)
    assert probe(network) == stages.sharing


@pytest.mark.parametrize("model", ["shared_bottom", "mmoe"])
def test_tasks_planted_alike_agree_and_unrelated_ones_do_not(quick, tmp_path, monkeypatch, model):
    """Opposite effects would not do: a trunk serves both signs, and the heads turn one round."""
    monkeypatch.setattr("cvrbench.training.session.probe_rows", lambda _: 10**6)  # least noise
    frequent = ("dataset.click_rate=0.5", "dataset.conversion_rate=0.5", "dataset.conflict=0")
    means = []
    for correlation in (1, 0):
        options = (f"model={model}", *frequent, f"dataset.correlation={correlation}")
        _, final, _ = finish(quick, tmp_path / str(correlation), *options, "trainer.epochs=2")
        looks = [look["sharing"]["gradient_cosine"] for look in final.state.history]
        matrices = ("trunk_0", "trunk_1", "experts_0", "experts_1")
        found = [pair["ctr-cvr"] for look in looks for n, pair in look.items() if n in matrices]
        means.append(sum(found) / len(found))
    alike, unrelated = means
    assert alike > 0.15
    assert abs(unrelated) < 0.1
