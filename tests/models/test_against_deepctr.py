"""The strategies against DeepCTR-Torch, an implementation we did not write, with copied weights.

Its ESMM is our `shared_embedding` under `entire_space`.
"""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cvrbench.data.batches import Features
from cvrbench.data.schema import Categorical, Schema, Task
from cvrbench.strategies.base import SharingStrategy
from tests.models.conftest_models import build, objective_of, output, rows_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    multitask = pytest.importorskip("deepctr_torch.models.multitask")
    from deepctr_torch.inputs import SparseFeat

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs: deprecated calls of numpy and torch

DIM, EXPERT, TOWER, ROWS = 4, (8, 6), (5,), 32
SIZES = {"user": 50, "item": 30, "hour": 24}
SCHEMA = Schema(
    name="reference",
    categorical=tuple(Categorical(name=name, size=size) for name, size in SIZES.items()),
    multivalued=(),
    numeric=(),
    tasks=(
        Task(name="ctr", label="click"),
        Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
    ),
    group=None,
    rows={},
    fingerprint="reference",
)
COMMON = {"embedding_dim": DIM, "hidden": EXPERT, "tower": TOWER, "dropout": 0.0}


@pytest.fixture
def ids() -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([rng.integers(s, size=ROWS) for s in SIZES.values()], axis=1))


def theirs(model: str, **options: object) -> nn.Module:
    columns = [SparseFeat(name, size, embedding_dim=DIM) for name, size in SIZES.items()]
    torch.manual_seed(1)
    network = getattr(multitask, model)(
        columns,
        tower_dnn_hidden_units=TOWER,
        task_types=("binary", "binary"),
        task_names=("ctr", "cvr"),
        **options,
    )
    for parameter in network.parameters():  # its own start is so small that all outputs are 0.5
        nn.init.normal_(parameter, std=0.4)
    return network.double().eval()


def ours(kind: str, **changes: object) -> SharingStrategy:
    return build(kind, SCHEMA, **{**COMMON, **changes}).double().eval()


def logits(network: SharingStrategy, ids: Tensor) -> Tensor:
    starts = torch.tensor([0, *SIZES.values()]).cumsum(0)[:-1]
    empty = torch.empty(0, dtype=torch.long)
    numeric = torch.empty(len(ids), 0, dtype=torch.double)
    features = Features(ids + starts, empty, empty.double(), empty, numeric)
    return network(features).logits


def copy_table(network: SharingStrategy, source: nn.Module) -> None:
    tables = [source.embedding_dict[name].weight for name in SIZES]
    network.encoder.table.data.copy_(torch.cat(tables))


def copy_mlps(target: nn.Module, sources: list[nn.Module]) -> None:
    """Copy several of their DNNs into one of our parallel networks, in order."""
    for layer, (weight, bias) in enumerate(zip(target.weights, target.biases, strict=True)):
        linears = [source.linears[layer] for source in sources]
        weight.data.copy_(torch.stack([linear.weight.T for linear in linears]))
        bias.data.copy_(torch.stack([linear.bias for linear in linears])[:, None])


def copy_towers(network: SharingStrategy, source: nn.Module) -> None:
    copy_mlps(network.towers.network, list(source.tower_dnn))
    finals = [layer.weight.T for layer in source.tower_dnn_final_layer]
    network.towers.head.data.copy_(torch.stack(finals))
    biases = [layer.bias for layer in source.out]
    network.towers.bias.data.copy_(torch.cat([bias.view(1) for bias in biases]))


def copy_gates(gates: nn.Module, linears: list[nn.Linear]) -> None:
    gates.weight.data.copy_(torch.stack([linear.weight.T for linear in linears]))


def assert_same(network: SharingStrategy, reference: nn.Module, ids: Tensor) -> None:
    """Same probabilities, and same gradient of their sum with respect to the embeddings."""
    mine, other = logits(network, ids).sigmoid(), reference(ids.double())
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    mine.sum().backward()
    other.sum().backward()
    expected = torch.cat([reference.embedding_dict[name].weight.grad for name in SIZES])
    gradient = network.encoder.table.grad
    assert gradient is not None
    torch.testing.assert_close(gradient.to_dense(), expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 1e-3


def shared_bottom_pair() -> tuple[SharingStrategy, nn.Module]:
    reference = theirs("SharedBottom", bottom_dnn_hidden_units=EXPERT)
    network = ours("shared_bottom")
    copy_table(network, reference)
    copy_mlps(network.trunk, [reference.bottom_dnn])
    copy_towers(network, reference)
    return network, reference


def mmoe_pair() -> tuple[SharingStrategy, nn.Module]:
    reference = theirs(
        "MMOE", num_experts=3, expert_dnn_hidden_units=EXPERT, gate_dnn_hidden_units=()
    )
    network = ours("mmoe", n_experts=3, gate="per_task")
    copy_table(network, reference)
    copy_mlps(network.experts, list(reference.expert_dnn))
    copy_gates(network.gates, list(reference.gate_dnn_final_layer))
    copy_towers(network, reference)
    return network, reference


def ple_pair(levels: int = 2) -> tuple[SharingStrategy, nn.Module]:
    reference = theirs(
        "PLE",
        shared_expert_num=1,
        specific_expert_num=2,
        num_levels=levels,
        expert_dnn_hidden_units=EXPERT,
        gate_dnn_hidden_units=(),
    )
    network = ours("ple", levels=levels, n_shared_experts=1, n_specific_experts=2)
    copy_table(network, reference)
    for level, extraction in enumerate(network.levels):
        specific = [e for task in reference.specific_experts[level] for e in task]
        # It builds as many shared experts as specific ones, and reads the first of them.
        shared = list(reference.shared_experts[level][0])[:1]
        copy_mlps(extraction.experts, [*specific, *shared])
        copy_gates(extraction.task_gates, list(reference.specific_gate_dnn_final_layer[level]))
        if extraction.shared_gate is not None:
            copy_gates(extraction.shared_gate, [reference.shared_gate_dnn_final_layer[level]])
    copy_towers(network, reference)
    return network, reference


def cgc_pair() -> tuple[SharingStrategy, nn.Module]:
    return ple_pair(levels=1)


PAIRS = [shared_bottom_pair, mmoe_pair, cgc_pair, ple_pair]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_strategy_is_that_of_deepctr(pair, ids):
    assert_same(*pair(), ids)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_comparison_can_fail(pair, ids):
    network, reference = pair()
    with torch.no_grad():
        network.towers.bias[0] += 1e-6
    with pytest.raises(AssertionError):
        assert_same(network, reference, ids)


def test_entire_space_on_shared_embeddings_is_esmm(ids):
    columns = [SparseFeat(name, size, embedding_dim=DIM) for name, size in SIZES.items()]
    torch.manual_seed(1)
    reference = multitask.ESMM(columns, tower_dnn_hidden_units=EXPERT).double().eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.4)
    network = ours("shared_embedding", tower=())
    copy_table(network, reference)
    copy_mlps(network.trunks, [reference.ctr_dnn, reference.cvr_dnn])
    finals = [reference.ctr_dnn_final_layer, reference.cvr_dnn_final_layer]
    network.towers.head.data.copy_(torch.stack([layer.weight.T for layer in finals]))
    network.towers.bias.data.fill_(reference.out.bias.item())  # one bias serves both of its heads
    objective = objective_of("entire_space", SCHEMA)
    mine = objective.predictions(output(logits(network, ids))).joint
    torch.testing.assert_close(mine, reference(ids.double()), rtol=1e-10, atol=1e-12)
    labels = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]).repeat(8, 1).double()
    expected = nn.functional.binary_cross_entropy(reference(ids.double()), labels, reduction="none")
    got = objective.losses(output(logits(network, ids)), rows_of(labels))
    torch.testing.assert_close(got, expected.mean(0), rtol=1e-9, atol=1e-12)


def test_a_masked_trunk_is_one_pruned_by_torch(ids):
    network = ours("ncs")
    generator = torch.Generator().manual_seed(2)
    for keep in network.keep.buffers():
        keep.copy_(torch.rand(keep.shape, generator=generator) < 0.4)
    encoded = logits_input(network, ids)
    for task in range(2):
        layers: list[nn.Module] = []
        parts = zip(
            network.trunk.weights, network.trunk.biases, network.keep.buffers(), strict=True
        )
        for weight, bias, keep in parts:
            linear = nn.Linear(weight.shape[1], weight.shape[2]).double()
            linear.weight.data.copy_(weight[0].T)
            linear.bias.data.copy_(bias.view(-1))
            torch_prune.custom_from_mask(linear, "weight", keep[task].T)
            layers += [linear, nn.ReLU()]
        hidden = nn.Sequential(*layers)(encoded)
        expected = network.towers(hidden).logits[:, task]
        torch.testing.assert_close(logits(network, ids)[:, task], expected, rtol=1e-10, atol=1e-12)


def logits_input(network: SharingStrategy, ids: Tensor) -> Tensor:
    starts = torch.tensor([0, *SIZES.values()]).cumsum(0)[:-1]
    return network.encoder.table[(ids + starts).reshape(-1)].view(len(ids), -1)
