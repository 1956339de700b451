"""What gates say of themselves."""

import math

import pytest
import torch

from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.gates import gate_facts
from tests.models.conftest_models import KINDS, build, make_batch, make_schema

GATED = {"mmoe": {}, "OMoE": {"gate": "common"}, "ple": {}, "CGC": {"levels": 1}}


def built(name: str, n_tasks: int = 2, **changes: object) -> SharingStrategy:
    kind = {"OMoE": "mmoe", "CGC": "ple"}.get(name, name)
    return build(kind, make_schema(n_tasks), **{**GATED[name], **changes})


def gate_weights(network: SharingStrategy) -> list[torch.nn.Parameter]:
    return [p for name, p in network.named_parameters() if "gate" in name]


def facts_of(network: SharingStrategy, n_tasks: int = 2):
    return network.gate_facts(make_batch(make_schema(n_tasks), rows=64).features)


def test_load_and_entropy_are_those_computed_by_hand():
    mixtures = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    (facts,) = gate_facts(mixtures, ["ctr"], [["a", "b", "c"]], level=1)
    assert (facts.level, facts.gate, facts.experts) == (1, "ctr", ("a", "b", "c"))
    assert facts.load == pytest.approx((0.75, 0.25, 0.0))
    assert facts.entropy == pytest.approx(math.log(2) / 2 / math.log(3))


def test_a_flat_load_can_hide_gates_that_are_sure_of_every_row():
    (facts,) = gate_facts(torch.eye(2)[None], ["ctr"], [["a", "b"]])
    assert facts.load == (0.5, 0.5)
    assert facts.entropy == 0


def test_one_expert_leaves_nothing_to_choose():
    (facts,) = gate_facts(torch.ones(1, 4, 1), ["ctr"], [["a"]])
    assert (facts.load, facts.entropy) == ((1.0,), 0.0)


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_every_gates_load_sums_to_one(name, n_tasks):
    found = facts_of(built(name, n_tasks), n_tasks)
    assert found
    for facts in found:
        assert sum(facts.load) == pytest.approx(1)
        assert len(facts.load) == len(facts.experts)
        assert 0 < facts.entropy < 1


@pytest.mark.parametrize("name", GATED)
def test_zero_weights_mix_all_alike_and_huge_ones_choose_one(name):
    network = built(name)
    with torch.no_grad():
        for weight in gate_weights(network):
            weight.zero_()
    for facts in facts_of(network):
        assert facts.entropy == pytest.approx(1)
        assert facts.load == pytest.approx([1 / len(facts.load)] * len(facts.load))
    with torch.no_grad():
        for weight in gate_weights(network):
            weight.copy_(1e6 * torch.randn(weight.shape))
    # The deepest level reads units that ReLU may have zeroed all at once: there no gate can choose.
    assert all(facts.entropy < 0.2 for facts in facts_of(network) if facts.level == 0)


def test_mmoe_has_a_gate_per_task_and_omoe_a_common_one():
    experts = ("expert_0", "expert_1", "expert_2")
    assert [(f.gate, f.experts) for f in facts_of(built("mmoe"))] == [
        ("ctr", experts),
        ("cvr", experts),
    ]
    assert [(f.gate, f.experts) for f in facts_of(built("OMoE"))] == [("common", experts)]


def test_ple_has_task_gates_at_every_level_and_shared_ones_below_the_last():
    found = facts_of(built("ple", levels=2, n_specific_experts=2, n_shared_experts=1))
    assert [(f.level, f.gate) for f in found] == [
        (0, "ctr"),
        (0, "cvr"),
        (0, "shared"),
        (1, "ctr"),
        (1, "cvr"),
    ]
    assert found[1].experts == ("cvr_0", "cvr_1", "shared_0")
    assert found[2].experts == ("ctr_0", "ctr_1", "cvr_0", "cvr_1", "shared_0")


@pytest.mark.parametrize("level", [0, 1])
def test_ples_names_are_those_of_the_experts_that_its_gates_weigh(level):
    """The experts that a name stands for are silenced: only a gate that has it feels it."""
    network = built("ple", levels=2, n_specific_experts=1, n_shared_experts=1)
    features = make_batch(make_schema(), rows=64).features
    before = network(features).logits
    owned = {"ctr_0": 0, "cvr_0": 1, "shared_0": 2}  # in the order of the parallel networks
    experts = network.levels[level].experts
    for name, place in owned.items():
        kept = experts.weights[-1].detach().clone()
        with torch.no_grad():
            experts.weights[-1][place] = 0
        moved = (network(features).logits - before).abs().sum(dim=0) > 0
        feels = [name in f.experts for f in network.gate_facts(features) if f.level == level][:2]
        if level == 1:  # below, the shared path brings every expert to every task
            assert moved.tolist() == feels, name
        else:
            assert moved.any()
        with torch.no_grad():
            experts.weights[-1].copy_(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_strategy_without_gates_says_nothing(kind):
    network = build(kind, make_schema())
    found = network.gate_facts(make_batch(make_schema()).features)
    assert bool(found) == bool(gate_weights(network))
