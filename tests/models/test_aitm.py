"""AITM against numbers of torch-rechub 0.9.0's, computed on the same weights."""

import pytest
import torch
from torch import Tensor, nn

from cvrbench.config.model import AITMConfig
from cvrbench.config.schema import ClickSpaceConfig, ExposureSpaceConfig
from cvrbench.data.batches import Batch
from cvrbench.data.schema import Numeric, Schema, Task
from cvrbench.nn import Output
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_strategy
from cvrbench.strategies.aitm import AITM
from tests.models.conftest_models import make_schema

ROWS, WIDTH, HIDDEN, K = 4, 6, 7, 5
# Their batch norm, which the authors' code has not, was taken out; a tower is a linear map.
THEIRS = {
    2: [
        [-0.816814431847279, -0.41884682416680974],
        [-0.817316077871007, -0.29610880674437945],
        [-0.6636293184352089, -0.042908764454614334],
        [-0.8293172063678431, -0.27534824990330103],
    ],
    3: [
        [-0.816814431847279, -0.41884682416680974, -0.2833240806821276],
        [-0.817316077871007, -0.29610880674437945, -0.16456087387366405],
        [-0.6636293184352089, -0.042908764454614334, -0.12079248557825129],
        [-0.8293172063678431, -0.27534824990330103, -0.3368686685480827],
    ],
}


def fill(*shape: int, shift: float) -> Tensor:
    n = torch.Size(shape).numel()
    return torch.sin(torch.arange(n).double() * 1.3 + 1.7 * shift).view(shape) * 0.5


def chain_of(n_tasks: int) -> Schema:
    names = ["click", "cart", "buy"][:n_tasks]
    tasks = [
        Task(name=name, label=name, **({"parent": names[t - 1], "joint": f"j{t}"} if t else {}))
        for t, name in enumerate(names)
    ]
    return Schema(
        name="chain",
        categorical=(),
        multivalued=(),
        numeric=tuple(Numeric(name=f"x{i}", mean=0.0, std=1.0) for i in range(WIDTH)),
        tasks=tuple(tasks),
        group=None,
        rows={},
        fingerprint="chain",
    )


class Given(nn.Module):
    """An encoder that gives what it is given."""

    width = WIDTH

    def forward(self, features: Tensor) -> Tensor:
        return features


def settings(**changes: object) -> AITMConfig:
    plain = {"embedding_dim": 4, "hidden": (HIDDEN, K), "tower": (), "dropout": 0.0}
    return AITMConfig(kind="aitm", **{**plain, "calibrator": 0.6, **changes})


@pytest.mark.parametrize("n_tasks", [2, 3])
def test_logits_are_those_of_torch_rechub_on_the_same_weights(n_tasks):
    network = AITM(settings(), chain_of(n_tasks), Given(), ()).double().eval()
    with torch.no_grad():
        for t in range(n_tasks):
            for layer, (n_in, n_out) in enumerate([(WIDTH, HIDDEN), (HIDDEN, K)]):
                network.networks.weights[layer][t] = fill(n_in, n_out, shift=t + 10 * layer)
                network.networks.biases[layer][t] = fill(n_out, shift=t + 10 * layer + 5)
            network.towers.head[t] = fill(K, 1, shift=t + 50)
            network.towers.bias[t] = fill(1, shift=t + 55)[0]
        for t in range(n_tasks - 1):
            transfer = network.transfers[str(t + 1)]
            transfer.information.weights[0][0] = fill(K, K, shift=t + 60)
            transfer.information.biases[0][0] = fill(K, shift=t + 65)
            for weight, shift in ((transfer.query, 70), (transfer.key, 80), (transfer.value, 90)):
                weight[0] = fill(K, K, shift=t + shift)
    found = network(fill(ROWS, WIDTH, shift=0.3) * 4).logits
    torch.testing.assert_close(found, torch.tensor(THEIRS[n_tasks], dtype=torch.double))


def test_the_calibrator_is_the_mean_excess_over_the_parent():
    schema = chain_of(3)
    network = AITM(settings(calibrator=0.5), schema, Given(), ())
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 1.0, 1.5]])
    p = logits.sigmoid()
    expected = 0.5 * ((p[0, 1] - p[0, 0]) / 2 + (p[1, 2] - p[1, 1]) / 2)
    exposure = build_objective(ExposureSpaceConfig(kind="exposure_space"), schema)
    found = network.auxiliary(Output(logits), Batch(None, logits), exposure)
    torch.testing.assert_close(found, expected)
    click = build_objective(ClickSpaceConfig(kind="click_space"), schema)
    assert network.auxiliary(Output(logits), Batch(None, logits), click) == 0


def test_without_a_parent_there_is_nothing_to_transfer():
    network = build_strategy(settings(), make_schema(1))
    assert len(network.transfers) == 0
    exposure = build_objective(ExposureSpaceConfig(kind="exposure_space"), make_schema(1))
    assert network.auxiliary(Output(torch.zeros(2, 1)), Batch(None, None), exposure) is None


def test_a_child_learns_from_what_its_parent_hands_on():
    network = build_strategy(settings(), make_schema(2))
    transfer = network.transfers["1"]
    assert isinstance(transfer, nn.Module)
    own, parent = torch.randn(2, 8, K, requires_grad=True)
    transfer(own, parent).sum().backward()
    assert transfer.information.weights[0].grad.abs().sum() > 0
