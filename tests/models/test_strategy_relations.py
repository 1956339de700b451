"""Strategies reduce to each other where their equations say so, with copied weights."""

import pytest
import torch

from cvrbench.strategies.base import SharingStrategy
from tests.models.conftest_models import build, make_batch, make_schema

ROWS = 64


def copy_common(source: SharingStrategy, target: SharingStrategy, names: dict[str, str]) -> None:
    """Copy encoder and towers by name, and `names` (target -> source) besides."""
    state = dict(target.state_dict())
    given = source.state_dict()
    for name in state:
        if name in given and given[name].shape == state[name].shape:
            state[name] = given[name]
    for to, from_ in names.items():
        state[to] = given[from_].expand_as(state[to])
    target.load_state_dict(state)


def trunk_names(prefix: str) -> dict[str, str]:
    return {
        f"{prefix}.{part}.{layer}": f"trunk.{part}.{layer}"
        for part in ("weights", "biases")
        for layer in range(2)
    }


def test_ncs_with_all_ones_masks_is_shared_bottom() -> None:
    schema = make_schema()
    shared, ncs = build("shared_bottom", schema), build("ncs", schema, seed=1)
    copy_common(shared, ncs, {})
    batch = make_batch(schema, ROWS)
    torch.testing.assert_close(ncs(batch.features).logits, shared(batch.features).logits)


def test_ncs_with_all_ones_masks_has_the_gradients_of_shared_bottom() -> None:
    schema = make_schema()
    shared, ncs = build("shared_bottom", schema), build("ncs", schema, seed=1)
    copy_common(shared, ncs, {})
    batch = make_batch(schema, ROWS)
    for network in (shared, ncs):
        network(batch.features).logits.sigmoid().sum().backward()
    grads = dict(ncs.named_parameters())
    for name, parameter in shared.named_parameters():
        ours, theirs = grads[name].grad, parameter.grad
        assert ours is not None
        assert theirs is not None
        if theirs.is_sparse:
            ours, theirs = ours.to_dense(), theirs.to_dense()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gate", ["per_task", "common"])
def test_mmoe_with_one_expert_is_shared_bottom(gate: str) -> None:
    schema = make_schema()
    shared = build("shared_bottom", schema)
    mmoe = build("mmoe", schema, seed=1, n_experts=1, gate=gate)
    copy_common(shared, mmoe, trunk_names("experts"))
    batch = make_batch(schema, ROWS)
    torch.testing.assert_close(mmoe(batch.features).logits, shared(batch.features).logits)


def test_cgc_without_specific_experts_is_mmoe() -> None:
    schema = make_schema()
    mmoe = build("mmoe", schema, n_experts=3)
    cgc = build("ple", schema, seed=1, levels=1, n_shared_experts=3, n_specific_experts=0)
    names = {"levels.0.task_gates.weight": "gates.weight"}
    for part in ("weights", "biases"):
        for layer in range(2):
            names[f"levels.0.experts.{part}.{layer}"] = f"experts.{part}.{layer}"
    copy_common(mmoe, cgc, names)
    batch = make_batch(schema, ROWS)
    torch.testing.assert_close(cgc(batch.features).logits, mmoe(batch.features).logits)


def test_cgc_with_one_own_expert_per_task_and_none_shared_is_shared_embedding() -> None:
    schema = make_schema()
    apart = build("shared_embedding", schema)
    cgc = build("ple", schema, seed=1, levels=1, n_shared_experts=0, n_specific_experts=1)
    names = {
        f"levels.0.experts.{part}.{layer}": f"trunks.{part}.{layer}"
        for part in ("weights", "biases")
        for layer in range(2)
    }
    copy_common(apart, cgc, names)
    batch = make_batch(schema, ROWS)
    torch.testing.assert_close(cgc(batch.features).logits, apart(batch.features).logits)


def test_ple_without_shared_experts_has_no_gradient_across_tasks() -> None:
    schema = make_schema(multivalued=False)
    ple = build("ple", schema, levels=1, n_shared_experts=0, n_specific_experts=2)
    ple(make_batch(schema, ROWS).features).logits[:, 0].sum().backward()
    weight = ple.get_parameter("levels.0.experts.weights.0").grad
    assert weight is not None
    assert weight[:2].abs().sum() > 0
    assert torch.equal(weight[2:], torch.zeros_like(weight[2:]))


def test_single_task_shares_nothing() -> None:
    schema = make_schema()
    network = build("single_task", schema)
    network(make_batch(schema, ROWS).features).logits[:, 1].sum().backward()
    table = network.get_parameter("encoder.table").grad
    assert table is not None
    rows = table.coalesce().indices()[0]
    used = table.coalesce().values().abs().sum(1) > 0
    assert (rows[used] >= schema.vocabulary_size).all()
