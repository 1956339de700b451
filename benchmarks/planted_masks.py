"""Logs whose true sub-networks are known, for `benchmarks.mask_recovery`.

Aligned teacher. theta0 are the first weights of the student's own trunk f (ReLU, no biases), M*_t
random masks, `a_t` and `b_t` a random linear head, scaled so that every logit has mean 0 and the
deviation `signal`:

    z_t = a_t . f(x; theta0 * M*_t) + b_t,   x ~ N(0, 1)
    P(click) = sigmoid(z_1),   P(conversion | click) = sigmoid(z_2)

so that the student, masked by M*_t and not yet trained, computes the teacher's last hidden layer: a
winning ticket exists at initialisation. Every layer of M*_t has the same density, and the tasks'
masks of a layer overlap by a given Jaccard similarity.

Relevant inputs. The same with a dense trunk that is not the student's, whose first layer reads, per
task, some inputs only: common ones and private ones; the rest is noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from cvrbench.config.compose import compose
from cvrbench.config.schema import Config
from cvrbench.data.dataset import Dataset
from cvrbench.data.registry import ensure
from cvrbench.data.schema import Numeric, Schema, Task
from cvrbench.masks.mask_set import MaskSet
from cvrbench.metrics import auc
from cvrbench.nn import parallel_mlp
from cvrbench.strategies import build_network
from cvrbench.strategies.ncs import NCS
from cvrbench.system.rng import derive, numpy_stream

TASKS = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
)
LABELS = tuple(task.label for task in TASKS)
N_COMMON, N_PRIVATE = 8, 6
"""Inputs relevant to both tasks, and to each alone, of those of `relevant_inputs`."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a planted log and its networks are."""

    n_train: int = 40_000
    n_valid: int = 10_000
    n_inputs: int = 32
    hidden: tuple[int, ...] = (64, 32)
    density: float = 0.2
    """Of the true masks, in every layer."""
    signal: float = 4.0
    """Deviation of the true logits."""
    known_heads: bool = False
    """Whether the student starts with the teacher's heads, instead of fresh ones."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input columns."""
        return tuple(f"x{i}" for i in range(self.n_inputs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A prepared planted log, and the truth behind it."""

    seed: int
    size: Size
    overrides: tuple[str, ...]
    """What composes its configuration."""
    dataset: Dataset
    truth: MaskSet
    """The teacher's masks; in `relevant_inputs`, everything behind a relevant input."""
    heads: Tensor
    """`[tasks, hidden, 1]`, the teacher's."""
    biases: Tensor
    """`[tasks]`, the teacher's."""
    best_auc: dict[str, float]
    """Task -> validation AUC of the true probabilities."""

    @property
    def is_aligned(self) -> bool:
        """Whether the truth names connections, and not only inputs."""
        return self.truth.flat().double().mean().item() < 2 * self.size.density

    @property
    def relevant(self) -> Tensor:
        """Which inputs matter to each task, `[tasks, inputs]`."""
        return self.truth.keep["trunk_0"].any(dim=2)

    def student(self, config: Config) -> NCS:
        """Build the network that is searched, as a run of `config` starts it."""
        network = _student(config, self.dataset.schema)
        if self.size.known_heads:
            with torch.no_grad():
                network.towers.head.copy_(self.heads)
                network.towers.bias.copy_(self.biases)
        return network


def aligned_teacher(folder: Path, *, seed: int, jaccard: float, size: Size) -> Planted:
    """Plant true masks in the student's own first weights."""
    rng = numpy_stream(seed, "planted", "masks")
    # No table of embeddings is drawn, so that the first draws are the trunk's in every schema.
    student = _student(compose(_overrides(folder, seed, size)).config, _schema(size))
    theta = [weight.detach().clone() for weight in student.trunk.weights]
    shapes = [weight.shape[1:] for weight in theta]
    keep = {f"trunk_{i}": _pair(s, size.density, jaccard, rng) for i, s in enumerate(shapes)}
    effective = [weight * mask for weight, mask in zip(theta, keep.values(), strict=True)]
    return _plant(folder, effective, MaskSet(student.tasks, keep), seed, size)


def relevant_inputs(folder: Path, *, seed: int, size: Size) -> Planted:
    """Plant a dense teacher with weights of its own that reads some of the inputs."""
    torch.manual_seed(derive(seed, "planted", "teacher"))
    order = torch.randperm(size.n_inputs)
    relevant = torch.zeros(len(TASKS), size.n_inputs, dtype=torch.bool)
    relevant[:, order[:N_COMMON]] = True
    for t, own in enumerate(order[N_COMMON : N_COMMON + N_PRIVATE * len(TASKS)].split(N_PRIVATE)):
        relevant[t, own] = True
    widths = (size.n_inputs, *size.hidden)
    keep = {
        f"trunk_{i}": torch.ones(len(TASKS), *shape, dtype=torch.bool)
        for i, shape in enumerate(pairwise(widths))
    }
    keep["trunk_0"] &= relevant[:, :, None]
    effective = [torch.randn(mask.shape) * mask / mask.shape[1] ** 0.5 for mask in keep.values()]
    return _plant(folder, effective, MaskSet(tuple(t.name for t in TASKS), keep), seed, size)


def _student(config: Config, schema: Schema) -> NCS:
    torch.manual_seed(derive(config.seed, "init"))
    network = build_network(config, schema)
    assert isinstance(network, NCS)
    return network


def _schema(size: Size) -> Schema:
    """What the prepared log's schema will be, as far as a network reads it."""
    numeric = tuple(Numeric(name=name, mean=0.0, std=1.0) for name in size.inputs)
    return Schema(
        name="planted",
        categorical=(),
        multivalued=(),
        numeric=numeric,
        tasks=TASKS,
        group=None,
        rows={},
        fingerprint="",
    )


def _overrides(folder: Path, seed: int, size: Size) -> tuple[str, ...]:
    return (
        f"seed={seed}",
        f"data_dir={folder}",
        "dataset=table",
        f"dataset.path={folder / 'planted.parquet'}",
        f"dataset.numbers=[{','.join(size.inputs)}]",
        "dataset.split=column",
        "dataset.split_column=part",
        "model=ncs",
        f"model.hidden=[{','.join(map(str, size.hidden))}]",
        "model.tower=[]",
        "model.dropout=0",
        f"model.density={size.density}",
        "trainer.device=cpu",
        "trainer.threads=1",
    )


def _pair(shape: Sequence[int], density: float, jaccard: float, rng: np.random.Generator) -> Tensor:
    """Draw two masks of one density and of a given overlap, `[2, *shape]` bool."""
    n = int(np.prod(shape))
    kept = round(density * n)
    # |A and B| = i and |A| = |B| = k give J = i / (2 k - i).
    common = round(2 * kept * jaccard / (1 + jaccard))
    order = rng.permutation(n)
    masks = torch.zeros(2, n, dtype=torch.bool)
    masks[0, order[:kept]] = True
    masks[1, order[kept - common : 2 * kept - common]] = True
    return masks.view(2, *shape)


def _plant(
    folder: Path, effective: Sequence[Tensor], truth: MaskSet, seed: int, size: Size
) -> Planted:
    """Draw rows from a teacher's effective weights, `[tasks, in, out]` each, and prepare them."""
    rng = numpy_stream(seed, "planted", "rows")
    n_test = size.n_valid // 10  # nobody looks at it, but every dataset has one
    x = rng.standard_normal((size.n_train + size.n_valid + n_test, size.n_inputs))
    x = x.astype(np.float32).astype(np.float64)
    heads, biases, logits = _teach(x, effective, rng, size.signal)
    chance = 1 / (1 + np.exp(-logits))
    drawn = rng.random(logits.shape) < chance
    drawn[:, 1] &= drawn[:, 0]
    parts = np.repeat(["train", "valid", "test"], [size.n_train, size.n_valid, n_test])
    columns = dict(zip(size.inputs, x.T, strict=True)) | {"part": parts}
    columns |= dict(zip(LABELS, drawn.astype(np.uint8).T, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns).write_parquet(folder / "planted.parquet")
    overrides = _overrides(folder, seed, size)
    config = compose(overrides).config
    seen = parts == "valid"
    clicked = seen & drawn[:, 0]
    return Planted(
        seed=seed,
        size=size,
        overrides=overrides,
        dataset=ensure(config.dataset, "table", folder),
        truth=truth,
        heads=heads,
        biases=biases,
        best_auc={
            TASKS[0].name: auc(drawn[seen, 0], chance[seen, 0]),
            TASKS[1].name: auc(drawn[clicked, 1], chance[clicked, 1]),
        },
    )


def _teach(
    x: Floats, effective: Sequence[Tensor], rng: np.random.Generator, signal: float
) -> tuple[Tensor, Tensor, Floats]:
    """Give the teacher's heads and biases, and its logits `[rows, tasks]`."""
    weights = [weight.double() for weight in effective]
    none = [weight.new_zeros(1, 1, weight.shape[2]) for weight in weights]
    hidden = parallel_mlp(torch.from_numpy(x), weights, none)  # [tasks, rows, hidden]
    heads = torch.from_numpy(rng.standard_normal((len(TASKS), hidden.shape[2], 1)))
    raw = (hidden @ heads)[:, :, 0]  # [tasks, rows]
    scale = signal / raw.std(dim=1)
    biases = -raw.mean(dim=1) * scale
    logits: Floats = (raw * scale[:, None] + biases[:, None]).T.numpy()
    return (heads * scale[:, None, None]).float(), biases.float(), logits
