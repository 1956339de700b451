"""SET and RigL: masks that change while the network trains, by hand and in training."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cvrbench.errors import RunInterrupted
from cvrbench.masks.mask_set import MaskSet
from cvrbench.strategies.ncs.dynamic_sparse import DynamicSparse, regrow, share_at
from cvrbench.training.optimizers import MaskedAdamW, build_optimizers
from tests.models.conftest_models import build, make_batch, make_schema
from tests.training.test_fit import Bench


def test_the_share_falls_as_a_cosine_to_0_at_three_quarters() -> None:
    shares = [share_at(step, 400, 0.3) for step in (0, 100, 150, 299, 300, 350)]
    assert shares[:3] == pytest.approx([0.3, 0.15 * (1 + math.cos(math.pi / 3)), 0.15])
    assert 0 < shares[3] < 1e-4
    assert shares[4:] == [0, 0]


def rows(*layers: list[list[float]]) -> dict[str, Tensor]:
    """Layers of one row: `[tasks][connections]` -> `[tasks, 1, connections]`."""
    return {f"trunk_{i}": torch.tensor(layer).double()[:, None] for i, layer in enumerate(layers)}


def kept(*layers: list[list[int]]) -> MaskSet:
    tasks = tuple("abc"[: len(layers[0])])
    return MaskSet(tasks, {name: t.bool() for name, t in rows(*layers).items()})


def as_lists(masks: MaskSet) -> list[list[list[int]]]:
    return [keep[:, 0].int().tolist() for keep in masks.keep.values()]


def test_the_smallest_go_and_the_largest_gains_come_by_hand() -> None:
    masks = kept([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]])
    common = rows([[0.9, 0.1, 0.2, 0.8, 0.3, 0.7, 5.0, 5.0]])
    gains = rows([[9, 9, 1, 9, 4, 3, 2, 5], [6, 1, 1, 9, 2, 9, 7, 3]])
    found = regrow(masks, common, gains, density=0.5, share=0.5, scope="global")
    # a loses 1 and 2, and of 1, 2, 4..7 gains 1 (again) and 7; b loses 2 and 4, and gains 6 and 0.
    assert as_lists(found) == [[[1, 1, 0, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 1, 1, 0]]]


def test_layers_keep_their_own_count_or_compete() -> None:
    masks = kept([[1, 1, 0, 0]], [[1, 1, 0, 0]])
    weights = rows([[0.1, 0.2, 0, 0]], [[0.8, 0.9, 0, 0]])
    gains = rows([[0, 0, 1, 2]], [[0, 0, 8, 9]])
    layer = regrow(masks, weights, gains, density=0.5, share=0.5, scope="layer")
    assert as_lists(layer) == [[[0, 1, 0, 1]], [[0, 1, 0, 1]]]
    everywhere = regrow(masks, weights, gains, density=0.5, share=0.5, scope="global")
    assert as_lists(everywhere) == [[[0, 0, 0, 0]], [[1, 1, 1, 1]]]


@given(
    st.integers(0, 500),
    st.integers(1, 3),
    st.floats(0.01, 1.0),
    st.floats(0.0, 0.99),
    st.sampled_from(["global", "layer"]),
)
def test_counts_never_change_and_the_strong_stay(seed, n_tasks, density, share, scope) -> None:
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> dict[str, Tensor]:
        shapes = {"trunk_0": (n, 6, 5), "trunk_1": (n, 5, 3)}
        return {n: torch.randint(5, shape, generator=g).double() for n, shape in shapes.items()}

    full = MaskSet(tuple("abc"[:n_tasks]), {n: t >= 0 for n, t in draw(n_tasks).items()})
    none = {name: torch.zeros_like(keep, dtype=torch.double) for name, keep in full.keep.items()}
    start = regrow(full, none, draw(n_tasks), density=density, share=0.0, scope=scope)
    weights = draw(1)
    after = regrow(start, weights, draw(n_tasks), density=density, share=share, scope=scope)
    groups = [start.flat()] if scope == "global" else [k.flatten(1) for k in start.keep.values()]
    others = [after.flat()] if scope == "global" else [k.flatten(1) for k in after.keep.values()]
    for old, new in zip(groups, others, strict=True):
        assert new.sum(1).tolist() == [round(density * old.shape[1])] * n_tasks
        n_lost = (old & ~new).sum(1)
        n_may_go = round(density * old.shape[1]) - round(density * (1 - share) * old.shape[1])
        assert (n_lost <= n_may_go).all()


def test_what_is_let_in_again_moves_as_under_an_adamw_of_its_own() -> None:
    """Dropped by all tasks and grown later: no moments and no clock are left."""
    ours = nn.Parameter(torch.ones(6))
    optimizer = MaskedAdamW([ours], lr=0.05, weight_decay=0.1)
    inside = torch.tensor([True, True, True, False, False, False])
    optimizer.update_mask = optimizer.anywhere = {ours: inside}
    g = torch.Generator().manual_seed(0)
    for step in range(9):
        if step == 3:
            inside[0] = False  # in place, as a search changes its masks
        if step == 5:
            inside[0] = True
            theirs = nn.Parameter(ours.detach().clone())
            reference = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.1)
        gradient = torch.randn(6, generator=g)
        ours.grad = gradient.clone()
        optimizer.step()
        if step >= 5:
            theirs.grad = gradient.clone()
            reference.step()
    torch.testing.assert_close(ours[0], theirs[0])
    assert (ours[1] - theirs[1]).abs() > 1e-4  # what stayed has moments that a fresh one lacks
    assert torch.equal(ours[3:], torch.ones(3))


def evolving(bench: Bench, **attributes: int) -> DynamicSparse:
    """Of 36 steps, 9 per epoch: masks change up to step 27."""
    network = DynamicSparse(bench.network, bench.config.model.search, seed=0, steps=36)
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


@pytest.fixture
def bench(quick_data, tmp_path):
    options = ("model=ncs", "model.density=0.25", "model.regrow_every=3", "model.regrow_share=0.5")
    return lambda search, *more, folder=tmp_path: Bench(
        quick_data, folder, *options, f"model.search={search}", *more
    )


def test_the_optimiser_forgets_what_the_search_drops(bench) -> None:
    one = bench("set")
    network = evolving(one)
    optimizers = build_optimizers(network, one.config.trainer, one.balancing)
    (turn,) = network.update_steps()
    weight = network.ncs.trunk.weights[0]
    used = network.update_mask()[weight]
    place, other = used.nonzero()[:2].tolist()
    for step in range(5):
        used[tuple(place)] = step != 3
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        network.ncs.encoder.table.grad = torch.ones_like(network.ncs.encoder.table).to_sparse(1)
        optimizers.step(turn.update_mask)
    clock = optimizers.dense.state[weight]["clock"]
    assert clock[tuple(place)] == 1
    assert clock[tuple(other)] == 5
    assert (clock[~used] == 0).all()


@pytest.mark.parametrize("growth", ["set", "rigl"])
@pytest.mark.parametrize("masked", ["[trunk]", "[trunk,biases,towers]"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_density_is_exact_at_every_step_and_excluded_weights_rest(
    bench, growth, masked, scope, monkeypatch
) -> None:
    one = bench(growth, f"model.masked={masked}", f"model.scope={scope}")
    network = evolving(one)
    ncs = network.ncs
    seen: list[tuple[MaskSet, dict[str, Tensor]]] = []

    def look() -> None:
        used = {n: network.update_mask()[p].expand_as(p).clone() for n, p in ncs.masked().items()}
        weights = {n: p.detach().clone() for n, p in ncs.masked().items()}
        seen.append((ncs.masks, {n: torch.stack([weights[n], used[n]]) for n in weights}))

    after_step = DynamicSparse.after_step

    def spy(self: DynamicSparse, step: int) -> bool:
        done = after_step(self, step)
        look()
        return done

    monkeypatch.setattr(DynamicSparse, "after_step", spy)
    look()
    one.fit(network, learning_rate=0.01, weight_decay=0.5, batch_size=512, patience=99)
    assert len(seen) == 19
    n = ncs.masks.flat().shape[1]
    changed = set()
    for step, ((before, old), (after, new)) in enumerate(pairwise(seen), 1):
        if scope == "global":
            assert after.flat().sum(1).tolist() == [round(0.25 * n)] * 2
        for keep in after.keep.values() if scope == "layer" else ():
            assert keep.flatten(1).sum(1).tolist() == [round(0.25 * keep[0].numel())] * 2
        if not torch.equal(after.flat(), before.flat()):
            changed.add(step)
        for name in old:
            (was, used), (now, uses) = old[name], new[name]
            grown = (uses > 0) & (used == 0)
            assert (now[grown] == 0).all()
            resting = (used == 0) & ~grown
            assert torch.equal(now[resting], was[resting])
            if name == "trunk_0":  # elsewhere whole units may be dead
                assert (now[used > 0] != was[used > 0]).double().mean() > 0.7
    assert changed == set(range(3, 19, 3))


def test_rigl_grows_by_the_tasks_own_dense_gradients() -> None:
    """Against each task alone, through a plain copy of its effective weights."""
    schema = make_schema(3)
    ncs = build("ncs", schema, search="rigl")
    batch = make_batch(schema, rows=64)
    settings = ncs.search.keywords["config"].search
    network = DynamicSparse(ncs, settings, seed=0, steps=100)
    weights = torch.tensor([1.0, 0.5, 2.0])
    ((network(batch.features).logits.square().mean(0)) * weights).sum().backward()
    gains = network._gains(step=2)
    for task in range(3):
        alone = {
            n: w[task : task + 1].detach().requires_grad_() for n, w in ncs.effective().items()
        }
        loss = weights[task] * ncs.through(batch.features, alone).logits[:, task].square().mean()
        for name, gradient in zip(alone, torch.autograd.grad(loss, [*alone.values()]), strict=True):
            torch.testing.assert_close(gains[name][task], gradient[0].abs())
            outside = ~ncs.masks.keep[name][task]
            assert gains[name][task][outside].abs().max() > 0


@pytest.mark.parametrize("growth", ["set", "rigl"])
@pytest.mark.parametrize("stop_after", [4, 11])
def test_a_resumed_search_ends_bit_for_bit_where_an_uninterrupted_one_ends(
    bench, tmp_path, growth, stop_after
) -> None:
    straight = bench(growth, folder=tmp_path / "straight")
    expected = straight.fit(evolving(straight), batch_size=512, patience=99)
    broken = bench(growth)
    with pytest.raises(RunInterrupted):
        broken.fit(evolving(broken), batch_size=512, patience=99, stop_after=stop_after)
    again = bench(growth)
    network = evolving(again)
    start = network.ncs.masks
    assert again.fit(network, batch_size=512, patience=99).state.history == expected.state.history
    for name, tensor in straight.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name
    assert (again.network.masks.flat() != start.flat()).double().mean() > 0.05


def test_random_growth_follows_from_seed_and_step_alone(bench) -> None:
    one = bench("set")
    first, again = (evolving(one)._gains(6)["trunk_0"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, evolving(one)._gains(9)["trunk_0"])
    assert not torch.equal(first, evolving(one, seed=1)._gains(6)["trunk_0"])
