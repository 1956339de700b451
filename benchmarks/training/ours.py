"""A step of `training.fit`: shuffle, gather, forward, loss, backward, both optimisers."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from benchmarks.training.shapes import Shape, draw, schema_of

from cvrbench.data.batches import SplitTensors
from cvrbench.masks.mask_set import MaskSet
from cvrbench.memory import keep_freed_memory
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.mmoe import MMoE
from cvrbench.strategies.ncs import NCS, Found
from cvrbench.strategies.ple import PLE
from cvrbench.strategies.shared_bottom import SharedBottom
from cvrbench.strategies.shared_embedding import SharedEmbedding
from cvrbench.strategies.single_task import SingleTask
from cvrbench.training.optimizers import build_optimizers

DENSITY = 0.5
TRAINER = SimpleNamespace(
    embedding_optimizer="rowwise_adagrad",
    embedding_learning_rate=0.01,
    embedding_weight_decay=0.0,
    learning_rate=0.001,
    weight_decay=0.0,
)
STRATEGIES = ("single_task", "shared_embedding", "shared_bottom", "mmoe", "ple", "ncs")


def build(strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    """Give a training step of one of our strategies."""
    keep_freed_memory()  # as every run of ours does
    data = draw(shape, n_batches)
    network = network_of(strategy, shape)
    optimizers = build_optimizers(network, TRAINER)
    objective = Objective(kind="exposure_space", chains=((0,), (1,)))
    starts = np.cumsum([0, *shape.sizes])[:-1]
    rows = torch.from_numpy((data.ids + starts).astype(np.int32))
    split = SplitTensors(rows, torch.zeros(len(rows), 0), torch.from_numpy(data.labels), (), None)
    weights = torch.ones(2)
    batches = split.batches(shape.batch, seed=0)  # with the thread that shuffles ahead

    def step(_number: int) -> None:
        batch = next(batches)
        loss = (objective.losses(network(batch.features), batch.labels) * weights).sum()
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()

    return step


def network_of(strategy: str, shape: Shape) -> SharingStrategy:
    """Build a strategy without dropout."""
    schema = schema_of(shape.sizes)
    common = {"embedding_dim": shape.dim, "hidden": shape.hidden, "tower": shape.tower}
    common |= {"dropout": 0.0}
    match strategy:
        case "single_task":
            return SingleTask(schema, **common)
        case "shared_embedding":
            return SharedEmbedding(schema, **common)
        case "shared_bottom":
            return SharedBottom(schema, **common)
        case "mmoe":
            return MMoE(schema, n_experts=shape.n_experts, n_gates=2, **common)
        case "ple":
            return PLE(schema, levels=1, n_shared_experts=1, n_specific_experts=1, **common)
        case _:
            return _masked(NCS(schema, **common, masked=("trunk",), step="joint",
                               masked_step="strict", search=_no_search))  # fmt: skip


def _masked(network: NCS) -> NCS:
    """The final training of NCS: random masks, half of the trunk each."""
    keep = {n: torch.rand(k.shape) < DENSITY for n, k in network.masks.keep.items()}
    network.set_masks(MaskSet(network.tasks, keep))
    return network


def _no_search(network: NCS, _lab: object) -> Found:
    return Found(masks=network.masks)
