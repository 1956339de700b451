"""The training step: what reaches the loss, alone and in a stack of replicas.

A stack is several networks under their common code. Whatever takes part in it says so (`stackable`)
and then moves each replica as the replica's own steps would.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cvrbench.balancing import Balancing
from cvrbench.config.compose import compose
from cvrbench.data.batches import BagTensors, Batch, Features, SplitTensors
from cvrbench.data.schema import Schema
from cvrbench.nn import FeatureEncoder, Output, Towers
from cvrbench.objectives import Objective
from cvrbench.objectives.exposure_space import ExposureSpace
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.loop import Task, TrainingJob
from cvrbench.training.optimizers import Optimizers, build_optimizers
from cvrbench.training.stacked_step import StackedStep, can_stack
from cvrbench.training.step import ON_ALL_TASKS, train_step, updates_of
from tests.models.conftest_models import (
    BALANCINGS,
    KINDS,
    OBJECTIVES,
    balancing_of,
    build,
    make_batch,
    make_schema,
    objective_of,
)
from tests.training.test_fit import Learned

SEEDS = (3, 7)
SCHEMA = make_schema(3)
TRAINER = compose(["trainer.learning_rate=0.01"]).config.trainer


class Replica(NamedTuple):
    """One network, and what it takes to train it."""

    network: SharingStrategy
    objective: Objective
    balancing: Balancing
    optimizers: Optimizers

    def step(self, batch: Batch) -> Tensor:
        network, objective, balancing, optimizers = self
        updates = updates_of(network, balancing)
        return train_step(network, objective, balancing, batch, optimizers, updates=updates)

    def weights(self) -> dict[str, Tensor]:
        """Copy everything that a step can move."""
        state = self.network.state_dict() | self.balancing.state_dict(prefix="balancing.")
        return {name: tensor.detach().clone() for name, tensor in state.items()}


def replica(network, objective, balancing, trainer=TRAINER) -> Replica:
    optimizers = build_optimizers(network.train(), trainer, balancing)
    return Replica(network, objective, balancing, optimizers)


def replicas(strategy: str, objective: str, balancing: str, trainer=TRAINER) -> list[Replica]:
    """Replicas of two seeds, with dropout."""
    goal = objective_of(objective, SCHEMA)
    return [
        replica(
            build(strategy, SCHEMA, seed, heads=goal.heads, dropout=0.3),
            goal,
            balancing_of(balancing, SCHEMA),
            trainer,
        )
        for seed in SEEDS
    ]


def rows_with_tags(n: int) -> SplitTensors:
    """Users, items, one to four weighted tags, an age and three labels, some of them hidden."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.stack(
        [torch.randint(50, (n,), generator=draw), torch.randint(30, (n,), generator=draw)]
    )
    counts = torch.randint(1, 5, (n,), generator=draw)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    n_tags = int(offsets[-1])
    tags = torch.randint(12, (n_tags,), generator=draw) + 80
    weights = torch.rand(n_tags, generator=draw) + 0.1
    return SplitTensors(
        rows=ids.T + torch.tensor([0, 50]),
        numeric=torch.randn(n, 1, generator=draw),
        labels=torch.randint(2, (n, 3), generator=draw).to(torch.uint8),
        bags=(BagTensors(offsets, tags, weights, False),),
        contexts=None,
        weights=(torch.rand(n, 3, generator=draw) > 0.3).float(),
    )


def stacked(members: Sequence[Replica], rows: SplitTensors, trainer=TRAINER) -> StackedStep:
    """Put replicas into one program; replica n draws from the generator of seed n."""
    requests = [
        TrainingJob(
            r.network, rows, rows, Task(r.objective, r.balancing, None), trainer, 1, s, None
        )
        for r, s in zip(members, SEEDS, strict=True)
    ]
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return StackedStep(requests, generators, [r.optimizers for r in members])


def assert_stacked_is_alone(
    alone: Sequence[Replica], members: Sequence[Replica], trainer=TRAINER, n_steps: int = 2
) -> None:
    """Train copies of the same replicas alone and in a stack."""
    rows = rows_with_tags(64 * n_steps)
    orders = torch.stack([next(rows.indices(64 * n_steps, seed)) for seed in SEEDS])
    before = [one.weights() for one in members]
    program = stacked(members, rows, trainer)
    together = torch.stack([program.step(index) for index in orders.split(64, dim=1)])
    program.release()
    for number, (one, seed) in enumerate(zip(alone, SEEDS, strict=True)):
        torch.manual_seed(seed)
        losses = [one.step(rows.gather(index)) for index in orders[number].split(64)]
        torch.testing.assert_close(torch.stack(losses), together[:, number], atol=1e-5, rtol=1e-5)
        now, start = members[number].weights(), before[number]
        for name, tensor in one.weights().items():
            torch.testing.assert_close(now[name], tensor, atol=1e-5, rtol=0, msg=name)
        assert any(not torch.equal(now[name], start[name]) for name in now)


def combinations() -> list[object]:
    """Every two of the three axes with each other; what every kind needs once is fast."""
    fast = {(s, "entire_space", "uncertainty") for s in KINDS}
    fast |= {("mmoe", o, "uncertainty") for o in OBJECTIVES}
    fast |= {("mmoe", "click_space", b) for b in BALANCINGS}
    pairs = {(s, o, "uncertainty") for s in KINDS for o in OBJECTIVES}
    pairs |= {("mmoe", o, b) for o in OBJECTIVES for b in BALANCINGS}
    pairs |= {(s, "click_space", b) for s in ("ncs", "single_task", "stem") for b in BALANCINGS}
    every = sorted(fast | pairs)
    return [pytest.param(*c, marks=[] if c in fast else [pytest.mark.slow]) for c in every]


@pytest.mark.parametrize(("strategy", "objective", "balancing"), combinations())
def test_a_step_of_a_stack_is_each_replicas_own_step(strategy, objective, balancing):
    members = replicas(strategy, objective, balancing)
    if not (can_stack(members[0].network) and members[0].balancing.stackable):
        assert not (type(members[0].network).stackable and type(members[0].balancing).stackable)
        return
    assert_stacked_is_alone(replicas(strategy, objective, balancing), members)


def test_what_a_balancing_learns_and_holds_is_each_replicas_own():
    def learned() -> list[Replica]:
        goal = objective_of("click_space", SCHEMA)
        return [replica(build("mmoe", SCHEMA, seed), goal, Learned(3)) for seed in SEEDS]

    assert_stacked_is_alone(learned(), members := learned(), n_steps=3)
    assert not torch.equal(*[one.balancing.logarithm for one in members])


def test_every_replica_of_a_stack_is_clipped_by_its_own_norm():
    clipped = replace(TRAINER, clip_norm=0.05)
    names = ("mmoe", "click_space", "equal")
    assert_stacked_is_alone(replicas(*names, clipped), replicas(*names, clipped), clipped)
    with pytest.raises(AssertionError):
        assert_stacked_is_alone(replicas(*names), replicas(*names, clipped), clipped)


class Toy(SharingStrategy):
    """A strategy that uses everything an `Output` and a strategy may add to a loss."""

    stackable = True

    def __init__(self, schema: Schema, *, penalty: float = 0.0, auxiliary: float = 0.0) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(schema, 4)
        self.towers = Towers(
            len(schema.tasks), self.encoder.width, (5,), dropout=0.0, heads=("other",)
        )
        self.size, self.share = penalty, auxiliary
        self.scale = nn.Parameter(torch.ones(3))
        self.offset = nn.Parameter(torch.zeros(()))  # which a stack has as a vector

    def forward(self, features: Features) -> Output:
        output: Output = self.towers(self.encoder(features))
        output = output._replace(logits=output.logits + self.offset)
        penalty = self.size * self.scale.square().sum() if self.training and self.size else None
        return output._replace(penalty=penalty)

    def auxiliary(self, output: Output, batch: Batch, objective: Objective) -> Tensor | None:
        """Draw the second task's logit to 1 where there was no click."""
        assert isinstance(objective, WithHead)
        off = (output.logits[..., 1] - 1).square() * (1 - batch.labels[..., 0])
        return self.share * off.mean(-1) if self.share else None


class WithHead(ExposureSpace):
    """Each label on all exposures, and by a second head once more."""

    heads = ("other",)

    def __init__(self, schema: Schema, share: float) -> None:
        super().__init__(schema)
        self.share = share

    def losses(self, output: Output, batch: Batch) -> Tensor:
        other = super().losses(output._replace(logits=output.extra["other"]), batch)
        return super().losses(output, batch) + self.share * other


def toys(*, head: float = 0.0, trainer=TRAINER, **shares: float) -> list[Replica]:
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        network, balancing = Toy(SCHEMA, **shares), balancing_of("equal", SCHEMA)
        found.append(replica(network, WithHead(SCHEMA, head), balancing, trainer))
    return found


BATCH = make_batch(SCHEMA, 64)


def test_a_penalty_is_added_to_the_loss_and_descended():
    plain, penalised = toys()[0], toys(penalty=0.7)[0]
    losses = [one.step(BATCH) for one in (plain, penalised)]
    torch.testing.assert_close(losses[1] - losses[0], torch.tensor(0.7 * 3))
    assert torch.equal(plain.network.scale, torch.ones(3))
    assert (penalised.network.scale < 1).all()
    assert penalised.network.eval()(BATCH.features).penalty is None


def test_an_auxiliary_loss_sees_labels_and_is_descended():
    plain, one = toys()[0], toys(auxiliary=0.7)[0]
    logits = one.network(BATCH.features).logits
    unclicked = BATCH.labels[:, 0] == 0
    off = (logits[unclicked, 1] - 1).square().sum() / len(logits)
    losses = [each.step(BATCH) for each in (plain, one)]
    torch.testing.assert_close(losses[1] - losses[0], 0.7 * off.detach())
    now = [each.weights()["towers.bias"] for each in (plain, one)]
    assert not torch.equal(*now)


def test_an_objectives_own_heads_are_trained_by_it_alone():
    plain, one = toys()[0], toys(head=0.5)[0]
    start = plain.weights()
    extra = one.network(BATCH.features).extra["other"]
    expected = nn.functional.binary_cross_entropy_with_logits(
        extra, BATCH.labels, reduction="none"
    ).mean(0)
    losses = [each.step(BATCH) for each in (plain, one)]
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * expected.sum().detach())
    head = "towers.extra.other.bias"
    assert torch.equal(plain.weights()[head], start[head])
    assert (one.weights()[head] != start[head]).all()


@pytest.mark.parametrize(
    "shares", [{"penalty": 0.7}, {"auxiliary": 0.7}, {"head": 0.5}], ids=lambda s: next(iter(s))
)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_all_of_it_reaches_each_replica_of_a_stack(shares, clip_norm):
    assert can_stack(toys()[0].network)
    trainer = replace(TRAINER, clip_norm=clip_norm)

    def made(**given: float) -> list[Replica]:
        return toys(trainer=trainer, **given)

    assert_stacked_is_alone(made(**shares), made(**shares), trainer)
    # So that the law above can fail: without the term the same steps end elsewhere.
    with pytest.raises(AssertionError):
        assert_stacked_is_alone(made(), made(**shares), trainer)


CTR, CVR = SCHEMA.tasks[:2]
GRAPHS = {
    "two tasks": (CTR, CVR),
    "a chain of three": (CTR, CVR, replace(SCHEMA.tasks[2], parent="cvr")),
    "two parallel tasks": (CTR, replace(CVR, parent=None, joint=None)),
}


@pytest.mark.parametrize(
    "graph", [pytest.param(g, marks=[] if "parallel" in g else [pytest.mark.slow]) for g in GRAPHS]
)
@pytest.mark.parametrize("strategy", KINDS)
def test_every_strategy_trains_any_graph_of_tasks_and_goes_on_from_what_was_saved(strategy, graph):
    """Under every objective: steps, states, predictions, and each task's network by itself."""
    schema = replace(SCHEMA, tasks=GRAPHS[graph])
    batch = make_batch(schema, 64)
    for kind in OBJECTIVES:
        goal = objective_of(kind, schema)

        def made(seed: int, goal: Objective = goal) -> Replica:
            network = build(strategy, schema, seed, heads=goal.heads, dropout=0.3)
            return replica(network, goal, balancing_of("uncertainty", schema))

        one, other = made(0), made(1)
        before = one.weights()
        for seed in (1, 2):
            torch.manual_seed(seed)
            one.step(batch)
        assert any(not torch.equal(now, before[name]) for name, now in one.weights().items())
        for part, saved in zip(other, one, strict=True):
            if part is not other.objective:
                part.load_state_dict(deepcopy(saved.state_dict()))
        for each in (one, other):
            torch.manual_seed(3)
            each.optimizers.set_rate(1.0)  # as `fit` does before every step
            each.step(batch)
        for name, tensor in one.weights().items():
            assert torch.equal(tensor, other.weights()[name]), (kind, name)
        network = one.network.eval()
        with torch.inference_mode():
            output = network(batch.features)
            predicted = goal.predictions(output)
            for task in range(len(schema.tasks)):
                if (alone := network.only(task)) is not None:
                    logit = alone.eval()(batch.features).logits[:, 0]
                    torch.testing.assert_close(logit, output.logits[:, task], atol=1e-6, rtol=0)
        assert all(((p >= 0) & (p <= 1)).all() for p in predicted)


PARTS = ("trunk", "biases", "towers", "embeddings")
"""Parts of an NCS that can have masks, all at once."""


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("embedding_optimizer", ["rowwise_adagrad", "lazy_adam"])
@pytest.mark.parametrize("step", ["joint", "alternate"])
def test_a_weight_that_a_mask_excludes_never_moves(objective, embedding_optimizer, step) -> None:
    """Neither by another task's loss along a chain, nor by decay, momentum or an accumulator."""
    schema = make_schema()
    goal = objective_of(objective, schema)
    options = {"masked": PARTS, "step": step, "search": "random"}
    network = build("ncs", schema, heads=goal.heads, **options)
    draw = torch.Generator().manual_seed(0)
    for keep in network.keep.buffers():
        keep.copy_(torch.rand(keep.shape, generator=draw) < 0.5)
    trainer = replace(
        TRAINER,
        embedding_optimizer=embedding_optimizer,
        weight_decay=0.1,
        embedding_weight_decay=0.1,
    )
    one = replica(network, goal, balancing_of("equal", schema), trainer)
    moved = 0
    for number in range(6):
        batch = make_batch(schema, rows=64, seed=number)
        for update in network.update_steps() or (None,):
            allowed = network.update_mask() if update is None else update.update_mask
            before = {p: p.detach().clone() for p in network.masked().values()}
            updates = ON_ALL_TASKS if update is None else (update,)
            train_step(network, goal, one.balancing, batch, one.optimizers, updates=updates)
            for name, parameter in network.masked().items():
                may = allowed[parameter].expand_as(parameter)
                assert torch.equal(parameter[~may], before[parameter][~may]), name
                moved += int((parameter[may] != before[parameter][may]).sum())
    assert moved > 1000
