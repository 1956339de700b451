"""Ranking against torch.nn.utils.prune, and the laws of mask sets, drawn and found."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from cvrbench.errors import ConfigError
from cvrbench.masks.mask_set import MaskSet
from cvrbench.masks.ranking import (
    erk_densities,
    keep_best,
    keep_rates,
    overlapping,
    random_scores,
    redrawn,
    shuffled,
    whole_units,
)
from cvrbench.masks.saliency import GradientSums, agreeing, snip


def layers(seed: int) -> list[nn.Linear]:
    torch.manual_seed(seed)
    return [nn.Linear(13, 7), nn.Linear(7, 5)]


def everything(*shapes: tuple[int, ...], tasks: tuple[str, ...] = ("ctr",)) -> MaskSet:
    keep = {
        f"trunk_{i}": torch.ones(len(tasks), *shape, dtype=torch.bool)
        for i, shape in enumerate(shapes)
    }
    return MaskSet(tasks, keep)


def magnitudes(*weights: Tensor) -> dict[str, Tensor]:
    return {f"trunk_{i}": weight.detach().abs()[None] for i, weight in enumerate(weights)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.2, 0.03])
def test_global_pruning_equals_torchs(seed: int, kept: float) -> None:
    ours, theirs = layers(seed), layers(seed)
    weights = [layer.weight for layer in ours]
    total = sum(weight.numel() for weight in weights)
    among = everything(*[w.shape for w in weights])
    masks = keep_best(magnitudes(*weights), among, kept, "global")
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in theirs],
        pruning_method=torch_prune.L1Unstructured,
        amount=total - round(kept * total),
    )
    for mask, layer in zip(masks.keep.values(), theirs, strict=True):
        assert torch.equal(mask[0], layer.weight_mask.bool())


@pytest.mark.parametrize("seed", range(3))
def test_iterated_layer_pruning_equals_torchs(seed: int) -> None:
    layer, theirs = layers(seed)[0], layers(seed)[0]
    masks = everything(layer.weight.shape)
    total = layer.weight.numel()
    for density in keep_rates(0.2, 4):
        masks = keep_best(magnitudes(layer.weight), masks, density, "layer")
        dropped = int(theirs.weight_mask.sum()) if hasattr(theirs, "weight_mask") else total
        torch_prune.l1_unstructured(theirs, "weight", amount=dropped - round(density * total))
    assert torch.equal(masks.keep["trunk_0"][0], theirs.weight_mask.bool())


def test_published_keep_rates() -> None:
    """Sun et al. 2020 and lt4rec: final rate 0.2 in 4 rounds."""
    assert [round(100 * rate, 2) for rate in keep_rates(0.2, 4)] == [66.87, 44.72, 29.91, 20.0]


@given(st.integers(0, 1000), st.floats(0.0, 1.0), st.floats(0.01, 100.0))
def test_count_is_exact_scale_free_and_nothing_revives(
    seed: int, density: float, scale: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (6, 5), generator=g).float()  # many ties
    before = MaskSet(("ctr",), {"trunk_0": torch.rand(1, 6, 5, generator=g) < 0.7})
    after = keep_best(magnitudes(weight), before, density, "global").keep["trunk_0"]
    kept = before.keep["trunk_0"]
    assert int(after.sum()) == min(round(density * 30), int(kept.sum()))
    assert not (after & ~kept).any()
    scaled = keep_best(magnitudes(weight * scale), before, density, "global")
    assert torch.equal(after, scaled.keep["trunk_0"])


@given(st.integers(0, 1000), st.sampled_from(["global", "layer"]))
def test_each_task_is_ranked_by_its_own_scores(seed: int, scope: str) -> None:
    g = torch.Generator().manual_seed(seed)
    shapes, tasks = ((6, 5), (5, 4)), ("a", "b", "c")
    scores = {f"trunk_{i}": torch.rand(3, *shape, generator=g) for i, shape in enumerate(shapes)}
    together = keep_best(scores, everything(*shapes, tasks=tasks), 0.3, scope)
    for t in range(3):
        alone = {name: score[t : t + 1] for name, score in scores.items()}
        own = keep_best(alone, everything(*shapes), 0.3, scope)
        assert all(torch.equal(own.keep[n][0], together.keep[n][t]) for n in own.keep)


def test_mask_set_facts_by_hand() -> None:
    keep = torch.tensor([[[1, 0], [1, 0]], [[1, 1], [0, 0]]], dtype=torch.bool)
    masks = MaskSet(("ctr", "cvr"), {"trunk_0": keep})
    assert masks.density() == {"ctr": 0.5, "cvr": 0.5}
    assert masks.union_density() == 0.75
    torch.testing.assert_close(
        masks.overlap(), torch.tensor([[1.0, 1 / 3], [1 / 3, 1.0]], dtype=torch.float64)
    )
    assert masks.dead_units() == {"ctr": (1,), "cvr": (0,)}
    facts = masks.facts()
    assert facts["all"] == facts["trunk_0"]
    assert facts["all"]["connections"] == 4
    assert facts["all"]["private"] == {"ctr": 0.25, "cvr": 0.25}
    assert (facts["all"]["shared"], facts["all"]["union"]) == (0.25, 0.75)
    assert facts["all"]["unused"] == 0.25


def test_a_unit_is_dead_where_nothing_of_it_is_read_on() -> None:
    first = torch.ones(1, 2, 3, dtype=torch.bool)
    second = torch.tensor([[[1, 1], [0, 0], [0, 1]]], dtype=torch.bool)  # unit 1 is not read
    first[0, :, 2] = False  # unit 2 is not written
    masks = MaskSet(("ctr",), {"trunk_0": first, "trunk_1": second})
    assert masks.dead_units() == {"ctr": (2, 0)}


def test_a_tasks_own_layers_are_no_shared_ones() -> None:
    tower = torch.tensor([[[1]], [[0]]], dtype=torch.bool)
    trunk = torch.ones(2, 1, 1, dtype=torch.bool)
    masks = MaskSet(("ctr", "cvr"), {"trunk_0": trunk, "tower_0": tower})
    assert masks.overlap()[0, 1] == 1
    assert masks.union_density() == 1
    assert set(masks.facts()) == {"trunk_0", "all"}
    assert masks.density() == {"ctr": 1.0, "cvr": 0.5}


@given(st.integers(0, 1000))
def test_shuffling_changes_which_and_neither_how_many_nor_how_shared(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    keep = {f"trunk_{i}": torch.rand(2, 8, 6 - i, generator=g) < 0.4 for i in range(2)}
    before = MaskSet(("ctr", "cvr"), keep)
    after = shuffled(before, seed)
    assert before.facts() == after.facts()
    assert not torch.equal(before.flat(), after.flat())


@given(st.integers(0, 1000))
def test_redrawing_keeps_every_layers_densities_and_the_overlap_of_chance(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    one = {f"trunk_{i}": torch.rand(1, 80, 60 - i, generator=g) < 0.1 + 0.3 * i for i in range(2)}
    before = MaskSet(("ctr", "cvr"), {n: k.expand(2, -1, -1) for n, k in one.items()})
    after = redrawn(before, seed)
    for name, keep in after.keep.items():
        assert keep.flatten(1).sum(1).tolist() == before.keep[name].flatten(1).sum(1).tolist()
        d = keep[0].double().mean().item()
        overlap = after.facts()[name]["jaccard"][0][1]
        assert overlap == pytest.approx(d / (2 - d), abs=0.04)  # before it was 1


@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_whole_units_keep_no_more_connections_and_all_of_each_unit(seed: int, density: float):
    like = everything((20, 16), (16, 8), tasks=("ctr", "cvr"))
    before = keep_best(random_scores(like, seed, identical=False), like, density, "global")
    after = whole_units(before)
    first, second = (keep for keep in after.keep.values())
    for t in range(2):
        hidden, last = first[t].any(dim=0), second[t].any(dim=0)
        assert torch.equal(first[t], hidden.expand(20, 16))
        assert torch.equal(second[t], hidden[:, None] & last)
        kept, k = int(before.flat()[t].sum()), int(hidden.sum())
        sizes = [20 * n + n * max(1, round(n / 2)) for n in range(1, 17)]
        assert k == max([n for n, size in enumerate(sizes, 1) if size <= kept], default=1)
        assert int(after.flat()[t].sum()) == sizes[k - 1]
        # No unit that is left out had more connections, in and out, than one that stays.
        ins = before.keep["trunk_0"][t].double().mean(0)
        score = ins + before.keep["trunk_1"][t].double().mean(1)
        assert hidden.all() or score[hidden].min() >= score[~hidden].max()


@given(st.floats(0.01, 1))
def test_erk_keeps_the_density_and_gives_small_layers_more(density: float) -> None:
    shapes = {"trunk_0": (112, 128), "trunk_1": (128, 64), "trunk_2": (64, 8), "trunk_3": (8, 4)}
    found = erk_densities(shapes, density)
    sizes = {name: i * o for name, (i, o) in shapes.items()}
    kept = sum(found[name] * size for name, size in sizes.items())
    assert kept == pytest.approx(density * sum(sizes.values()))
    scale = {n: found[n] * sizes[n] / sum(shapes[n]) for n in shapes if found[n] < 1}
    assert not scale or max(scale.values()) == pytest.approx(min(scale.values()))
    assert all(0 < one <= 1 for one in found.values())
    like = everything(*shapes.values(), tasks=("ctr", "cvr"))
    masks = keep_best(random_scores(like, 0, identical=False), like, density, "erk")
    for name, keep in masks.keep.items():
        assert keep.flatten(1).sum(1).tolist() == [round(found[name] * sizes[name])] * 2


def test_random_masks_of_one_draw_are_nested_and_overlap_by_chance() -> None:
    like = everything((60, 50), (50, 40), tasks=("ctr", "cvr"))
    scores = random_scores(like, seed=3, identical=False)
    dense, sparse = (keep_best(scores, like, d, "global") for d in (0.5, 0.2))
    assert not (sparse.flat() & ~dense.flat()).any()
    chance = 0.2**2 / (2 * 0.2 - 0.2**2)
    assert sparse.overlap()[0, 1].item() == pytest.approx(chance, abs=0.02)
    same = keep_best(random_scores(like, seed=3, identical=True), like, 0.2, "global")
    assert same.overlap()[0, 1] == 1


@given(
    st.integers(2, 4), st.floats(0.02, 0.2), st.floats(0, 1), st.integers(0, 1000), st.booleans()
)
def test_prescribed_overlap_and_density_hold_in_every_layer(n, density, overlap, seed, wide):
    like = everything((40, 50 if wide else 7), (50 if wide else 7, 9), tasks="abcd"[:n])
    masks = overlapping(like, density, overlap, seed)
    for name, keep in masks.keep.items():
        flat = keep.flatten(1)
        kept = round(density * flat.shape[1])
        assert flat.sum(1).tolist() == [kept] * n
        for one, other in combinations(flat.numpy(), 2):
            common = (one & other).sum()  # J = c / (2 k - c), so c = 2 k J / (1 + J)
            assert abs(common - 2 * kept * overlap / (1 + overlap)) <= 0.5, name
    again = overlapping(like, density, overlap, seed)
    assert torch.equal(masks.flat(), again.flat())


def test_masks_that_must_meet_cannot_be_kept_apart():
    like = everything((10, 10), tasks=("ctr", "cvr"))
    with pytest.raises(ConfigError, match=r"meet in more than that in trunk_0; .* at least 0\.2,"):
        overlapping(like, 0.6, 0.1, 0)  # 60 and 60 of 100 have 20 in common, of 100
    assert overlapping(like, 0.6, 0.2, 0).overlap()[0, 1].item() == pytest.approx(0.2)


def test_snip_tells_what_removing_a_connection_costs_to_first_order() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(16, 4, dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        return (x @ w[0]).tanh().square().mean()

    (gradient,) = torch.autograd.grad(loss(weight), weight)
    score = snip({"trunk_0": weight.detach()}, {"trunk_0": gradient})["trunk_0"]
    step = 1e-6
    for i in range(4):
        for j in range(3):
            less = weight.detach().clone()
            less[0, i, j] *= 1 - step
            change = abs(loss(less) - loss(weight.detach())) / step
            assert score[0, i, j].item() == pytest.approx(change.item(), rel=1e-4)


def test_a_connection_is_shared_where_gradients_agree_and_goes_to_the_needier_else() -> None:
    g = torch.tensor([[[1.0, 1.0, -3.0]], [[2.0, -2.0, 1.0]]])  # [tasks, in=1, out=3]
    sums = GradientSums(
        products={"trunk_0": g[:, None] * g[None, :]},
        need={"trunk_0": g.abs()},
        total={"trunk_0": g},
    )
    masks = agreeing(sums, everything((1, 3), tasks=("ctr", "cvr")))
    assert masks.keep["trunk_0"].int().tolist() == [[[1, 0, 1]], [[1, 1, 0]]]
