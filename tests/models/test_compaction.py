"""A task's network without what carries nothing gives the logits that the trained one gives."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.latency import Contender, Latency, Spread, measure_latency, select
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from cvrbench.data.schema import Schema
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import whole_units
from cvrbench.serving.compaction import (
    Layer,
    TaskNetwork,
    compact,
    compare,
    cost_as_trained,
    cost_of_task,
    task_network,
)
from cvrbench.strategies import build_strategy
from cvrbench.strategies.ncs import NCS
from tests.models.conftest_models import KINDS, build, chosen, make_batch, make_schema

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def ncs(schema: Schema, *, tower=(5,), hidden=(16, 9), masked=("trunk",), own=False, seed=0) -> NCS:
    """A network whose weights are all drawn: biases and embeddings of a size that matters."""
    sizes = {"hidden": hidden, "tower": tower, "masked": masked}
    network = build("ncs", schema, seed, dropout=0.3, **sizes)
    if own:
        network.split()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.5)
    return network.eval()


def cut(network: NCS, density: float, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    keep = network.masks.keep
    drawn = {name: torch.rand(k.shape, generator=g) < density for name, k in keep.items()}
    network.set_masks(MaskSet(network.tasks, drawn))


def edit(network: NCS, **layers) -> None:
    """Set masks by name: `trunk_0=f`, where f changes `[tasks, in, out]` in place."""
    keep = dict(network.masks.keep)
    for name, change in layers.items():
        change(keep[name])
    network.set_masks(MaskSet(network.tasks, keep))


def logits_of(network: NCS, schema: Schema, task: int, rows: int = 12):
    """The trained network's logits, the masked plain one's and the compacted one's."""
    full = make_schema(len(schema.tasks))
    features = select(make_batch(full, rows).features, full, schema)
    alone = task_network(network, schema, task)
    small = compact(alone)
    with torch.inference_mode():
        seen = select(features, schema, small.network.schema)
        trained, plain = network(features).logits[:, task], alone(features).logits[:, 0]
        return trained, plain, small.network(seen).logits[:, 0], small


def check(network: NCS, schema: Schema):
    found = []
    for task in range(len(schema.tasks)):
        trained, plain, small, compaction = logits_of(network, schema, task)
        torch.testing.assert_close(plain, trained, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(small, trained, rtol=1e-5, atol=1e-5)
        found.append(compaction)
    return found


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("tower", [(), (5,), (6, 3)])
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_logits_stay_what_they_were(density, tower, n_tasks, own):
    schema = make_schema(n_tasks)
    network = ncs(schema, tower=tower, own=own)
    cut(network, density)
    check(network, schema)


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5])
def test_masks_over_whole_units_take_the_multiply_adds_away(density):
    schema = make_schema(2)
    network = ncs(schema, hidden=(32, 16))
    cut(network, density)
    network.set_masks(whole_units(network.masks))
    for task, found in enumerate(check(network, schema)):
        kept, cost = int(network.masks.flat()[task].sum()), cost_of_task(found.network)
        assert cost.multiply_adds == cost.connections  # no weight is a 0 that is multiplied
        _, last, _ = found.units
        assert cost.multiply_adds == kept + 5 * len(last) + 5  # and the tower's
        assert kept <= density * 1.2 * network.masks.flat().shape[1]


@settings(max_examples=60)
@given(
    density=st.floats(0.0, 1.0),
    hidden=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    tower=st.lists(st.integers(1, 4), max_size=2),
    multivalued=st.booleans(),
    numeric=st.booleans(),
    masked=st.sets(st.sampled_from(["trunk", "biases", "towers", "embeddings"]), min_size=1),
    seed=st.integers(0, 2**16),
)
def test_logits_stay_what_they_were_whatever_is_masked(
    density, hidden, tower, multivalued, numeric, masked, seed
):
    schema = make_schema(2, multivalued=multivalued, numeric=numeric)
    network = ncs(schema, hidden=hidden, tower=tower, masked=tuple(masked), seed=seed)
    cut(network, density, seed)
    for compaction in check(network, schema):
        again = compact(compaction.network)
        assert not any(again.removed), "one compaction leaves nothing for a second"
        assert again.network.schema == compaction.network.schema


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("multivalued", [False, True])
def test_logits_stay_what_they_were_without_categorical_fields(density, multivalued):
    schema = replace(make_schema(multivalued=multivalued), categorical=())
    network = ncs(schema)
    cut(network, density)
    check(network, schema)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("unit", [0, 3, 7])
def test_a_unit_that_nothing_flows_into_goes_and_its_constant_stays(layer, unit):
    schema = make_schema()
    network = ncs(schema, hidden=(8, 8, 8))
    with torch.no_grad():
        network.trunk.biases[layer][0, 0, unit] = 3.0

    def silence(keep):
        keep[1, :, unit] = False

    edit(network, **{f"trunk_{layer}": silence})
    ctr, cvr = check(network, schema)
    assert ctr.removed == (0, 0, 0, 0)
    assert cvr.removed == tuple(int(number == layer) for number in range(4))
    assert cvr.folded == cvr.removed
    assert unit not in cvr.units[layer]
    # Without its constant the logits would be others: the fold is needed.
    with torch.no_grad():
        network.trunk.biases[layer][0, 0, unit] = 0.0
    other = logits_of(network, schema, 1)[0]
    with torch.no_grad():
        network.trunk.biases[layer][0, 0, unit] = 3.0
    assert (logits_of(network, schema, 1)[0] - other).abs().max() > 0.01


@pytest.mark.parametrize("layer", [0, 1])
def test_a_unit_that_nothing_reads_goes(layer):
    schema = make_schema()
    network = ncs(schema, hidden=(8, 8, 8))

    def unread(keep):
        keep[0, 5, :] = False

    edit(network, **{f"trunk_{layer + 1}": unread})
    ctr, cvr = check(network, schema)
    assert ctr.removed == tuple(int(number == layer) for number in range(4))
    assert ctr.folded == (0, 0, 0, 0)
    assert cvr.removed == (0, 0, 0, 0)


def test_death_spreads_up_and_down():
    schema = make_schema(1)
    network = ncs(schema, hidden=(4, 4, 4), tower=())

    def all_but_first(keep):
        keep[0] = False
        keep[0, 0, 0] = True

    # Unit 0 of the middle layer reads unit 0 below and is the only one read above.
    edit(network, trunk_1=all_but_first, trunk_2=all_but_first)
    (found,) = check(network, schema)
    assert found.units == ((0,), (0,), (0,))
    assert found.folded[1:] == tuple(
        int((network.trunk.biases[i][0, 0, 1:] > 0).sum()) for i in (1, 2)
    )


def test_a_task_without_connections_has_a_constant_logit():
    schema = make_schema()
    network = ncs(schema)
    cut(network, 0.0)
    ctr, _ = check(network, schema)
    assert ctr.removed == (16, 9, 5)
    assert [tuple(layer.weight.shape) for layer in ctr.network.layers] == [(4, 1)]
    assert ctr.unread_fields == ("user", "item", "tags", "age")
    # Its ids tell how many rows there are, so the smallest field stays.
    assert [field.name for field in ctr.network.schema.id_fields] == ["item"]


def test_a_field_that_is_not_read_leaves_the_table():
    schema = make_schema()
    network = ncs(schema)

    def blind(keep):
        keep[1, 0:4] = False  # user
        keep[1, 8:12] = False  # tags
        keep[1, 4] = False  # a column of item, which is looked up as a whole

    edit(network, trunk_0=blind)
    ctr, cvr = check(network, schema)
    assert (ctr.unread_fields, ctr.unread_columns) == ((), 0)
    assert (cvr.unread_fields, cvr.unread_columns) == (("user", "tags"), 9)
    assert cvr.network.encoder.table.shape == (30, 4)
    torch.testing.assert_close(cvr.network.encoder.table, network.encoder.table[50:80])
    assert cvr.network.layers[0].weight.shape[0] == 5


def test_a_number_that_is_not_read_goes():
    schema = make_schema()
    network = ncs(schema)

    def blind(keep):
        keep[:, 12] = False

    edit(network, trunk_0=blind)
    for found in check(network, schema):
        assert found.unread_fields == ("age",)
        assert found.network.schema.numeric == ()


def test_a_mask_alone_saves_nothing_and_a_dead_unit_does():
    schema = make_schema()
    network = ncs(schema, hidden=(64, 32))
    dense = cost_of_task(task_network(network, schema, 0))
    cut(network, 0.5)
    alone = task_network(network, schema, 0)
    masked = cost_of_task(alone)
    assert (masked.multiply_adds, masked.dense_parameters) == (
        dense.multiply_adds,
        dense.dense_parameters,
    )
    assert masked.connections < 0.6 * masked.multiply_adds
    assert cost_of_task(compact(alone).network) == masked, "no unit is dead at this density"
    cut(network, 0.02)
    small = cost_of_task(compact(task_network(network, schema, 0)).network)
    assert small.multiply_adds < 0.6 * masked.multiply_adds
    assert small.connections <= masked.connections


@pytest.mark.parametrize("density", DENSITIES)
def test_multiply_adds_are_those_that_torch_counts(density):
    schema = make_schema()
    network = ncs(schema, hidden=(16, 9), tower=(5,))
    cut(network, density)
    features = make_batch(schema, rows=8).features

    def counted(plain, seen) -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            plain(seen)
        return counter.get_total_flops() // (2 * 8)

    alone = task_network(network, schema, 1)
    small = compact(alone).network
    by_hand = 13 * 16 + 16 * 9 + 9 * 5 + 5 * 1
    assert cost_of_task(alone).multiply_adds == counted(alone, features) == by_hand
    assert cost_of_task(small).multiply_adds == counted(
        small, select(features, schema, small.schema)
    )
    whole = cost_as_trained(network, schema)
    assert whole.multiply_adds == counted(network, features) == 2 * by_hand
    assert whole.embedding_parameters == 92 * 4
    assert whole.dense_parameters + 92 * 4 == sum(p.numel() for p in network.parameters())
    alone_too = task_network(network, schema, 0)
    kept = [cost_of_task(one).connections for one in (alone_too, alone)]
    assert whole.connections == sum(kept)


def test_kept_connections_are_the_masks():
    schema = make_schema()
    network = ncs(schema, tower=())
    cut(network, 0.3)
    for task, name in enumerate(network.tasks):
        cost = cost_of_task(task_network(network, schema, task))
        in_trunk = sum(int(keep[task].sum()) for keep in network.masks.keep.values())
        assert cost.connections == in_trunk + 9, name  # and the head of nine weights


def test_the_trained_network_is_left_as_it_was():
    schema = make_schema()
    network = ncs(schema)
    cut(network, 0.05)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    small = compact(task_network(network, schema, 0)).network
    with torch.no_grad():
        for layer in (*small.weights, *small.biases):
            layer.zero_()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_building_leaves_the_random_state_alone():
    schema = make_schema()
    network = ncs(schema)
    state = torch.get_rng_state()
    compact(task_network(network, schema, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_strategy_without_masks_is_counted_as_a_whole():
    schema = make_schema()
    network = build("shared_bottom", schema, hidden=(16,), tower=())
    cost = cost_as_trained(network, schema)
    assert cost.multiply_adds == cost.connections == 13 * 16 + 2 * 16
    assert not isinstance(network, TaskNetwork)


class Recorded(TaskNetwork):
    """A network that writes down when it is called, on how many threads."""

    def __init__(self, name: str, calls: list) -> None:
        schema = make_schema()
        super().__init__(schema, torch.zeros(92, 4), [Layer(torch.ones(13, 1), torch.zeros(1))])
        self.name, self.calls = name, calls

    def forward(self, features):
        self.calls.append((self.name, torch.get_num_threads(), self.training))
        return super().forward(features)


def test_networks_are_timed_in_turns():
    calls: list = []
    features = make_batch(make_schema()).features
    contenders = [Contender(Recorded(name, calls), features) for name in "abc"]
    before = torch.get_num_threads()
    measured = measure_latency(contenders, rounds=6, warm_up=3)
    assert [len(latency.seconds) for latency in measured] == [6, 6, 6]
    order = "".join(name for name, _, _ in calls)
    assert order == 3 * "aabbccbbccaaccaabb", "each goes first as often, after a call of its own"
    assert {call[1:] for call in calls} == {(1, False)}
    assert torch.get_num_threads() == before


def test_times_are_compared_round_by_round():
    slow, fast = Latency((4.0, 40.0, 8.0)), Latency((1.0, 10.0, 4.0))
    assert slow.ratio_to(fast) == Spread(4.0, 3.0, 4.0)
    assert slow.spread() == Spread(8.0, 6.0, 24.0)


@pytest.mark.parametrize(
    ("density", "words"), [(1.0, "nothing to save"), (0.5, "save nothing"), (0.02, "left out")]
)
def test_savings_are_told_plainly(density, words):
    schema = make_schema()
    network = ncs(schema, hidden=(64, 32))
    cut(network, density)
    savings = compare(network, schema, ["cvr"])
    assert [row.name for row in savings.rows] == ["as trained", "cvr masked", "cvr compacted"]
    (sentence,) = savings.sentences
    assert words in sentence
    trained, masked, _ = savings.rows
    assert trained.cost.multiply_adds == 2 * masked.cost.multiply_adds
    assert json.loads(json.dumps(savings.to_json()))["networks"][2]["task"] == "cvr"


@pytest.mark.parametrize("strategy", ["single_task", "mmoe"])
def test_what_a_task_without_masks_saves_is_told(strategy):
    schema = make_schema(3)
    network = build(strategy, schema, hidden=(16, 9)).eval()
    assert task_network(network, schema, 0) is None
    savings = compare(network, schema, ["like"])
    whole, alone = (row.cost for row in savings.rows)
    assert savings.compactions == {}
    if strategy == "single_task":
        assert 3 * alone.multiply_adds == whole.multiply_adds
        assert 3 * alone.embedding_parameters == whole.embedding_parameters
    else:
        gate = network.experts.n * (network.encoder.width + 9)  # and its mixture
        assert whole.multiply_adds - alone.multiply_adds == 2 * (gate + 9 * 5 + 5)
    assert "like alone takes" in savings.sentences[0]


@pytest.mark.parametrize("interaction", ["none", "dot", "all_dots", "cross"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_tasks_copy_has_its_logits_and_fewer_parameters(kind, interaction):
    schema = make_schema(3)
    torch.manual_seed(0)
    model = chosen("model", kind, **({"levels": 3} if kind == "ple" else {}))
    network = build_strategy(model, schema, interaction=chosen("interaction", interaction))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    if isinstance(network, NCS):
        cut(network, 0.5)
    network.eval()
    features, before = make_batch(schema, 7).features, repr(network.state_dict())
    sizes = {sum(p.numel() for p in network.parameters())}
    with torch.inference_mode():
        for task in range(3):
            if (own := network.only(task)) is None:
                pytest.skip("a task of this strategy is served by the whole network")
            logits = own(features).logits
            assert logits.shape == (7, 1)
            expected = network(features).logits[:, task : task + 1]
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
            assert sum(p.numel() for p in own.parameters()) < max(sizes)
    assert repr(network.state_dict()) == before
