"""Peers' own model, loader and optimiser, as their examples use them.

Binary cross-entropy and Adam over all parameters, the dense gradient of the whole embedding table
included; no L2 term. FuxiCTR's package has the blocks and the training step but leaves the models
to its examples, and its loader starts a Ray cluster: a shared bottom of its blocks is trained by
its step on ready tensors, which flatters it. PLE has one level with one shared and one specific
expert a task, because DeepCTR-Torch cannot have more shared experts than specific ones.
"""

import importlib.util
import itertools
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.training.shapes import Shape, draw
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

PACKAGES = {
    "deepctr_torch": "deepctr-torch",
    "torch_rechub": "torch-rechub",
    "fuxictr": "fuxictr",
}
ABLE = {
    "shared_bottom": {*PACKAGES},
    "mmoe": {"deepctr_torch", "torch_rechub"},
    "ple": {"deepctr_torch", "torch_rechub"},
    "aitm": {"torch_rechub"},
}
"""Strategy -> the peers that have it."""


def installed(strategy: str) -> list[str]:
    """Name the peers that can train a strategy here."""
    able = ABLE.get(strategy, set())
    return [name for name in PACKAGES if name in able and importlib.util.find_spec(name)]


def build(peer: str, strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    """Give a training step of a peer."""
    builders = {"deepctr_torch": _deepctr, "torch_rechub": _rechub, "fuxictr": _fuxictr}
    return builders[peer](strategy, shape, n_batches)


def _step(network: nn.Module, loader: DataLoader) -> Callable[[int], None]:
    """Their loader, binary cross-entropy on the two probabilities, Adam over all parameters."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def step(_number: int) -> None:
        inputs, labels = next(batches)
        predicted = network(inputs)
        loss = sum(F.binary_cross_entropy(predicted[:, t], labels[:, t]) for t in range(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _deepctr(strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import multitask

    data = draw(shape, n_batches)
    columns = [SparseFeat(str(i), s, embedding_dim=shape.dim) for i, s in enumerate(shape.sizes)]
    tasks = {"task_types": ("binary", "binary"), "task_names": ("ctr", "cvr")}
    plain = {"l2_reg_embedding": 0, "l2_reg_linear": 0, "tower_dnn_hidden_units": shape.tower}
    plain |= tasks
    gates = {"expert_dnn_hidden_units": shape.hidden, "gate_dnn_hidden_units": ()}
    builders = {
        "shared_bottom": lambda: multitask.SharedBottom(
            columns, bottom_dnn_hidden_units=shape.hidden, **plain
        ),
        "mmoe": lambda: multitask.MMOE(columns, num_experts=shape.n_experts, **gates, **plain),
        "ple": lambda: multitask.PLE(
            columns, shared_expert_num=1, specific_expert_num=1, num_levels=1, **gates, **plain
        ),
    }
    # As its BaseModel.fit does: all ids as one float tensor.
    rows = TensorDataset(torch.from_numpy(data.ids).float(), torch.from_numpy(data.labels).float())
    return _step(builders[strategy](), DataLoader(rows, batch_size=shape.batch, shuffle=True))


def _rechub(strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.multi_task import AITM, MMOE, PLE, SharedBottom
    from torch_rechub.utils.data import DataGenerator

    data = draw(shape, n_batches)
    features = [
        SparseFeature(name=str(i), vocab_size=s, embed_dim=shape.dim)
        for i, s in enumerate(shape.sizes)
    ]
    types = ["classification", "classification"]
    expert = {"dims": list(shape.hidden), "activation": "relu"}
    towers = [{"dims": list(shape.tower), "activation": "relu"}] * 2
    builders = {
        "shared_bottom": lambda: SharedBottom(features, types, expert, towers),
        "mmoe": lambda: MMOE(features, types, shape.n_experts, expert, towers),
        "ple": lambda: PLE(features, types, 1, 1, 1, expert, towers),
        "aitm": lambda: AITM(features, 2, expert, towers),
    }
    columns = {str(i): data.ids[:, i].astype(np.int64) for i in range(len(shape.sizes))}
    loader, *_ = DataGenerator(columns, data.labels.astype(np.float32)).generate_dataloader(
        x_val=columns, y_val=data.labels, x_test=columns, y_test=data.labels,
        batch_size=shape.batch,
    )  # fmt: skip
    return _step(builders[strategy](), loader)


def _fuxictr(_strategy: str, shape: Shape, n_batches: int) -> Callable[[int], None]:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import MultiTaskModel

    class SharedBottom(MultiTaskModel):
        def __init__(self, feature_map: FeatureMap) -> None:
            names = ["binary_classification"] * 2
            super().__init__(
                feature_map,
                task=names,
                num_tasks=2,
                model_root=tempfile.mkdtemp(),
                verbose=0,
                metrics=["AUC"],
            )
            self.embedding = FeatureEmbedding(feature_map, shape.dim)
            self.bottom = MLP_Block(shape.width, hidden_units=list(shape.hidden))
            self.towers = nn.ModuleList(
                MLP_Block(shape.hidden[-1], hidden_units=list(shape.tower), output_dim=1)
                for _ in range(2)
            )
            self.compile("adam", "binary_crossentropy", 0.001)

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            shared = self.bottom(self.embedding(self.get_inputs(inputs)).flatten(1))
            logits = [tower(shared) for tower in self.towers]
            pairs = zip(feature_map.labels, self.output_activation, logits, strict=True)
            return {f"{label}_pred": activation(logit) for label, activation, logit in pairs}

    data = draw(shape, n_batches)
    feature_map = FeatureMap("benchmark", ".")
    feature_map.labels = ["y", "z"]
    for i, size in enumerate(shape.sizes):
        feature_map.features[str(i)] = {"source": "", "type": "categorical", "vocab_size": size}
    feature_map.num_fields = len(shape.sizes)
    feature_map.set_column_index()
    columns = {str(i): torch.from_numpy(data.ids[:, i].copy()) for i in range(len(shape.sizes))}
    columns |= {name: torch.from_numpy(data.labels[:, i].copy()) for i, name in enumerate("yz")}
    network = SharedBottom(feature_map)
    network.train()
    network._max_gradient_norm = 10

    def step(number: int) -> None:
        first = number % n_batches * shape.batch
        rows = {name: column[first : first + shape.batch] for name, column in columns.items()}
        network.train_step(rows)

    return step
