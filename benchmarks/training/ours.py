"""A step of `training.fit`: shuffle, gather, forward, loss, backward, both optimisers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from benchmarks.training.shapes import Shape, draw, schema_of

from cvrbench.balancing import Balancing, build_balancing
from cvrbench.config.compose import compose
from cvrbench.data.batches import Batch, SplitTensors
from cvrbench.masks.mask_set import MaskSet
from cvrbench.objectives import Objective, build_objective
from cvrbench.strategies import build_network
from cvrbench.strategies.base import SharingStrategy
from cvrbench.strategies.ncs import NCS
from cvrbench.system.machine import keep_freed_memory
from cvrbench.training.optimizers import build_optimizers
from cvrbench.training.step import Forward, train_step

DENSITY = 0.5
CONFIG = compose(["objective=exposure_space", "balancing=equal"]).config
TRAINER = replace(
    CONFIG.trainer, embedding_learning_rate=0.01, weight_decay=0.0, embedding_weight_decay=0.0
)
STRATEGIES = ("single_task", "shared_embedding", "shared_bottom", "mmoe", "ple", "aitm", "ncs")


def build(strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    """Give a training step of one of our strategies."""
    keep_freed_memory()  # as every run of ours does
    data = draw(shape, n_batches)
    train = trainer_of(network_of(strategy, shape), shape)
    starts = np.cumsum([0, *shape.sizes])[:-1]
    rows = torch.from_numpy((data.ids + starts).astype(np.int32))
    split = SplitTensors(rows, torch.zeros(len(rows), 0), torch.from_numpy(data.labels), (), None)
    batches = split.batches(shape.batch, seed=0)  # with the thread that shuffles ahead
    return lambda _number: train(next(batches))


def trainer_of(
    network: SharingStrategy, shape: Shape, *, forward: Forward | None = None, bf16: bool = False
) -> Callable[[Batch], object]:
    """Give the training step of a network, each label learned on all rows (`train_step`)."""
    objective, balancing = goal_of(shape)
    optimizers = build_optimizers(network, TRAINER, balancing)
    return lambda batch: train_step(
        network, objective, balancing, batch, optimizers, forward=forward, bf16=bf16
    )


def goal_of(shape: Shape) -> tuple[Objective, Balancing]:
    """Give what a network of a shape is trained by."""
    schema = schema_of(shape.sizes)
    names = [task.name for task in schema.tasks]
    balancing = build_balancing(CONFIG.balancing, names, names)
    return build_objective(CONFIG.objective, schema), balancing


def network_of(strategy: str, shape: Shape) -> SharingStrategy:
    """Build a strategy without dropout."""
    sizes = {"embedding_dim": shape.dim, "hidden": shape.hidden, "tower": shape.tower}
    match strategy:
        case "mmoe":
            sizes |= {"n_experts": shape.n_experts, "gate": "per_task"}
        case "ple":
            sizes |= {"levels": 1, "n_shared_experts": 1, "n_specific_experts": 1}
        case "ncs":
            sizes |= {"masked": ("trunk",), "step": "joint"}
    model = replace(compose([f"model={strategy}"]).config.model, dropout=0.0, **sizes)
    network = build_network(replace(CONFIG, model=model), schema_of(shape.sizes))
    return _masked(network) if isinstance(network, NCS) else network


def _masked(network: NCS) -> NCS:
    """The final training of NCS: random masks, half of the trunk each."""
    keep = {n: torch.rand(k.shape) < DENSITY for n, k in network.masks.keep.items()}
    network.set_masks(MaskSet(network.tasks, keep))
    return network
