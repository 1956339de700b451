"""Magnitude pruning against torch.nn.utils.prune, and the laws of mask sets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from cvrbench.masks.magnitude import keep_rates, prune
from cvrbench.masks.mask_set import MaskSet


def layers(seed: int) -> list[nn.Linear]:
    torch.manual_seed(seed)
    return [nn.Linear(13, 7), nn.Linear(7, 5)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.2, 0.03])
def test_global_pruning_equals_torchs(seed: int, kept: float) -> None:
    ours, theirs = layers(seed), layers(seed)
    total = sum(layer.weight.numel() for layer in ours)
    keep = prune(
        [layer.weight for layer in ours],
        [torch.ones_like(layer.weight, dtype=torch.bool) for layer in ours],
        kept,
        "global",
    )
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in theirs],
        pruning_method=torch_prune.L1Unstructured,
        amount=total - round(kept * total),
    )
    for mask, layer in zip(keep, theirs, strict=True):
        assert torch.equal(mask, layer.weight_mask.bool())


@pytest.mark.parametrize("seed", range(3))
def test_iterated_layer_pruning_equals_torchs(seed: int) -> None:
    layer, theirs = layers(seed)[0], layers(seed)[0]
    keep = [torch.ones_like(layer.weight, dtype=torch.bool)]
    total = layer.weight.numel()
    for density in keep_rates(0.2, 4):
        keep = prune([layer.weight], keep, density, "layer")
        dropped = int(theirs.weight_mask.sum()) if hasattr(theirs, "weight_mask") else total
        torch_prune.l1_unstructured(theirs, "weight", amount=dropped - round(density * total))
    assert torch.equal(keep[0], theirs.weight_mask.bool())


def test_published_keep_rates() -> None:
    """Sun et al. 2020 and lt4rec: final rate 0.2 in 4 rounds."""
    assert [round(100 * rate, 2) for rate in keep_rates(0.2, 4)] == [66.87, 44.72, 29.91, 20.0]


@given(st.integers(0, 1000), st.floats(0.0, 1.0), st.floats(0.01, 100.0))
def test_count_is_exact_scale_free_and_nothing_revives(
    seed: int, density: float, scale: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (6, 5), generator=g).float()  # many ties
    before = torch.rand(6, 5, generator=g) < 0.7
    (after,) = prune([weight], [before], density, "global")
    assert int(after.sum()) == min(round(density * 30), int(before.sum()))
    assert not (after & ~before).any()
    (scaled,) = prune([weight * scale], [before], density, "global")
    assert torch.equal(after, scaled)


def test_mask_set_facts_by_hand() -> None:
    keep = torch.tensor([[[1, 0], [1, 0]], [[1, 1], [0, 0]]], dtype=torch.bool)
    masks = MaskSet(("ctr", "cvr"), (keep,))
    assert masks.density() == {"ctr": 0.5, "cvr": 0.5}
    assert masks.union_density() == 0.75
    torch.testing.assert_close(
        masks.overlap(), torch.tensor([[1.0, 1 / 3], [1 / 3, 1.0]], dtype=torch.float64)
    )
    assert masks.dead_units() == {"ctr": (1,), "cvr": (0,)}
