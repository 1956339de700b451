"""Laws that every sharing strategy obeys, over every member of the config union."""

import pytest
import torch

from cvrbench.data.batches import Features
from tests.models.conftest_models import KINDS, build, make_batch, make_schema


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_logits_have_one_column_per_task_and_are_finite(kind: str, n_tasks: int) -> None:
    schema = make_schema(n_tasks)
    logits = build(kind, schema)(make_batch(schema).features).logits
    assert logits.shape == (16, n_tasks)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("kind", KINDS)
def test_towers_can_be_left_out(kind: str) -> None:
    schema = make_schema()
    assert build(kind, schema, tower=())(make_batch(schema).features).logits.shape == (16, 2)


@pytest.mark.parametrize("kind", ["single_task", "shared_embedding", "shared_bottom"])
@pytest.mark.parametrize("tower", [(), (5,)])
def test_trunks_can_be_left_out(kind: str, tower: tuple[int, ...]) -> None:
    schema = make_schema()
    network = build(kind, schema, hidden=(), tower=tower)
    assert network(make_batch(schema).features).logits.shape == (16, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_influence_each_other(kind: str) -> None:
    schema = make_schema(multivalued=False)
    network = build(kind, schema)
    features = make_batch(schema).features
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shuffled = Features(
        features.rows[order],
        features.bag_rows,
        features.bag_weights,
        features.bag_segments,
        features.numeric[order],
    )
    torch.manual_seed(1)  # for strategies that draw in training
    logits = network(shuffled).logits
    torch.manual_seed(1)
    torch.testing.assert_close(logits, network(features).logits[order])


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_fixes_the_initial_weights(kind: str) -> None:
    schema = make_schema()
    first, again, other = (build(kind, schema, seed) for seed in (0, 0, 1))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.encoder.table, other.encoder.table)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind: str) -> None:
    schema = make_schema(3)
    network = build(kind, schema)
    network(make_batch(schema, rows=256).features).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        grad = parameter.grad
        assert (grad.to_dense() if grad.is_sparse else grad).abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_overfits_a_few_rows(kind: str) -> None:
    schema = make_schema()
    network, batch = build(kind, schema, hidden=(32, 16)), make_batch(schema, rows=8)
    for module in network.modules():
        if hasattr(module, "sparse"):
            module.sparse = False
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(300):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(batch.features).logits, batch.labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
