"""Training throughput beside two peers and beside the floor of the step's own matrix products.

    python benchmarks/training_throughput.py [--steps 12] [--repeats 5] [--threads 2]

Shape: 23 categorical fields with Ali-CCP's cardinalities (1.56 M ids in all, Zipf-skewed),
embedding 16, experts 256-128 (MMoE four; PLE one shared and one per task, one level, because
DeepCTR-Torch cannot have more shared experts than specific ones), towers 64, batch 4096, float32,
no dropout. Each contender trains on the same rows with the same threads, in a process of its own,
so that no one's settings of the memory allocator serve another; they take turns, so that a slow
moment of the machine meets all.

Ours is a step of `training.fit`: gather, forward, loss, backward, both optimisers. Peers run
their own model, loader and optimiser, as their examples do: binary cross-entropy and Adam over all
parameters, the dense gradient of the whole embedding table included; no L2 term.

The floor is the forward and backward matrix products of the step alone, on ready tensors of the
same shapes: nothing that computes this network can be faster than it.

Ratios, not rates, are comparable between machines.
"""

import argparse
import importlib.util
import itertools
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from cvrbench.data.batches import SplitTensors
from cvrbench.data.schema import Categorical, Schema, Task
from cvrbench.memory import keep_freed_memory
from cvrbench.objectives import Objective
from cvrbench.strategies.mmoe import MMoE
from cvrbench.strategies.ple import PLE
from cvrbench.strategies.shared_bottom import SharedBottom
from cvrbench.training.optimizers import build_optimizers

SIZES = (
    238636, 98, 14, 3, 8, 4, 4, 3, 5, 467299, 6930, 263943, 106400, 5889, 104831, 51879, 37149, 4,
    12223, 116741, 58015, 33786, 56136,
)  # fmt: skip
DIM, HIDDEN, TOWER, BATCH, ZIPF_POWER = 16, (256, 128), (64,), 4096, 4
TRAINER = SimpleNamespace(
    embedding_optimizer="rowwise_adagrad",
    embedding_learning_rate=0.01,
    embedding_weight_decay=0.0,
    learning_rate=0.001,
    weight_decay=0.0,
)
Step = Callable[[int], None]
Product = tuple[int, int, int]


class Data(NamedTuple):
    """The same rows for everyone."""

    sizes: tuple[int, ...]
    ids: np.ndarray
    """`[rows, fields]`, local to the field."""
    labels: np.ndarray


class Options(NamedTuple):
    """What the command line asked for."""

    steps: int
    repeats: int
    threads: int


def draw(n_batches: int) -> Data:
    rng = np.random.default_rng(0)
    rows = BATCH * n_batches
    skewed = (rng.random(rows) ** ZIPF_POWER for _ in SIZES)
    columns = [(u * size).astype(np.int32) for u, size in zip(skewed, SIZES, strict=True)]
    return Data(SIZES, np.stack(columns, axis=1), (rng.random((rows, 2)) < 0.1).astype(np.uint8))


def ours(name: str, data: Data) -> Step:
    schema = Schema(
        name="benchmark",
        categorical=tuple(Categorical(name=str(i), size=s) for i, s in enumerate(data.sizes)),
        multivalued=(),
        numeric=(),
        tasks=(Task(name="ctr", label="y"), Task(name="cvr", label="z")),
        group=None,
        rows={},
        fingerprint="",
    )
    common = {"embedding_dim": DIM, "hidden": HIDDEN, "tower": TOWER, "dropout": 0.0}
    builders = {
        "shared_bottom": lambda: SharedBottom(schema, **common),
        "mmoe": lambda: MMoE(schema, n_experts=4, n_gates=2, **common),
        "ple": lambda: PLE(schema, levels=1, n_shared_experts=1, n_specific_experts=1, **common),
    }
    network = builders[name]()
    optimizers = build_optimizers(network, TRAINER)
    objective = Objective(kind="exposure_space", chains=((0,), (1,)))
    starts = np.cumsum([0, *data.sizes])[:-1]
    rows = torch.from_numpy((data.ids + starts).astype(np.int32))
    split = SplitTensors(rows, torch.zeros(len(rows), 0), torch.from_numpy(data.labels), ())

    def step(number: int) -> None:
        first = number * BATCH % len(rows)
        batch = split.gather(torch.arange(first, first + BATCH))
        loss = objective.losses(network(batch.features), batch.labels).sum()
        optimizers.zero_grad()
        loss.backward()
        optimizers.step()

    return step


def peer_step(network: nn.Module, loader: DataLoader) -> Step:
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


def deepctr(name: str, data: Data) -> Step:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import multitask

    columns = [SparseFeat(str(i), s, embedding_dim=DIM) for i, s in enumerate(data.sizes)]
    tasks = {"task_types": ("binary", "binary"), "task_names": ("ctr", "cvr")}
    plain = {"l2_reg_embedding": 0, "l2_reg_linear": 0, "tower_dnn_hidden_units": TOWER, **tasks}
    gates = {"expert_dnn_hidden_units": HIDDEN, "gate_dnn_hidden_units": ()}
    builders = {
        "shared_bottom": lambda: multitask.SharedBottom(
            columns, bottom_dnn_hidden_units=HIDDEN, **plain
        ),
        "mmoe": lambda: multitask.MMOE(columns, num_experts=4, **gates, **plain),
        "ple": lambda: multitask.PLE(
            columns, shared_expert_num=1, specific_expert_num=1, num_levels=1, **gates, **plain
        ),
    }
    # As its BaseModel.fit does: all ids as one float tensor.
    rows = TensorDataset(torch.from_numpy(data.ids).float(), torch.from_numpy(data.labels).float())
    return peer_step(builders[name](), DataLoader(rows, batch_size=BATCH, shuffle=True))


def rechub(name: str, data: Data) -> Step:
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.multi_task import MMOE, PLE
    from torch_rechub.models.multi_task import SharedBottom as RechubSharedBottom
    from torch_rechub.utils.data import DataGenerator

    features = [
        SparseFeature(name=str(i), vocab_size=s, embed_dim=DIM) for i, s in enumerate(data.sizes)
    ]
    types = ["classification", "classification"]
    expert = {"dims": list(HIDDEN), "activation": "relu"}
    towers = [{"dims": list(TOWER), "activation": "relu"}] * 2
    builders = {
        "shared_bottom": lambda: RechubSharedBottom(features, types, expert, towers),
        "mmoe": lambda: MMOE(features, types, 4, expert, towers),
        "ple": lambda: PLE(features, types, 1, 1, 1, expert, towers),
    }
    columns = {str(i): data.ids[:, i].astype(np.int64) for i in range(len(data.sizes))}
    loader, *_ = DataGenerator(columns, data.labels.astype(np.float32)).generate_dataloader(
        x_val=columns, y_val=data.labels, x_test=columns, y_test=data.labels, batch_size=BATCH
    )
    return peer_step(builders[name](), loader)


PEERS = {"deepctr_torch": deepctr, "torch_rechub": rechub}


def products(name: str) -> list[Product]:
    """Rows, inner and outer size of every forward matrix product of a step."""
    width = len(SIZES) * DIM
    n_experts = {"shared_bottom": 1, "mmoe": 4, "ple": 3}[name]
    experts = [(BATCH, width, HIDDEN[0])] * n_experts + [(BATCH, HIDDEN[0], HIDDEN[1])] * n_experts
    n_mixed = {"shared_bottom": 0, "mmoe": 4, "ple": 2}[name]
    gates = [(BATCH, width, n_mixed)] * 2 if n_mixed else []
    towers = [(BATCH, HIDDEN[1], TOWER[0])] * 2 + [(BATCH, TOWER[0], 1)] * 2
    return experts + gates + towers


def floor(name: str, _data: Data) -> Step:
    """Only the products: forward, and backward with respect to input and weight."""
    ready = [
        (torch.randn(m, k), torch.randn(k, n), torch.randn(m, n)) for m, k, n in products(name)
    ]
    out = [(torch.empty(m, n), torch.empty(m, k), torch.empty(k, n)) for m, k, n in products(name)]

    def step(_number: int) -> None:
        for (x, weight, grad), (y, grad_x, grad_weight) in zip(ready, out, strict=True):
            torch.mm(x, weight, out=y)
            torch.mm(grad, weight.T, out=grad_x)
            torch.mm(x.T, grad, out=grad_weight)

    return step


class Contender:
    """A step in a process of its own, run on demand."""

    def __init__(self, kind: str, strategy: str, sizes: tuple[int, ...], options: Options) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (kind, strategy, sizes, options, other)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        self.pipe.recv()

    def seconds(self) -> float:
        """Mean time of a step over one turn."""
        self.pipe.send("go")
        return float(self.pipe.recv())

    def stop(self) -> None:
        self.pipe.send("stop")
        self.process.join()


def serve(
    kind: str, strategy: str, sizes: tuple[int, ...], options: Options, pipe: Connection
) -> None:
    """Build a contender, warm it up, and time a turn whenever asked."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = draw(options.steps)._replace(sizes=sizes)
    if kind == "ours":
        keep_freed_memory()  # as every run of ours does
    step = {"ours": ours, "floor": floor, **PEERS}[kind](strategy, data)
    for number in range(3):
        step(number)
    pipe.send("ready")
    while pipe.recv() == "go":
        begun = time.perf_counter()
        for number in range(options.steps):
            step(number)
        pipe.send((time.perf_counter() - begun) / options.steps)


def compare(contenders: dict[str, Contender], repeats: int) -> dict[str, float]:
    """Median time of a step, the contenders taking turns."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            found[name].append(contender.seconds())
    for contender in contenders.values():
        contender.stop()
    return {name: statistics.median(values) for name, values in found.items()}


def strategies(console: Console, options: Options) -> None:
    here = [name for name in PEERS if importlib.util.find_spec(name)]
    for name in PEERS.keys() - set(here):
        console.print(f"{name} is left out: pip install {name.replace('_', '-')}")
    table = Table("strategy", "examples/s", "floor / ours", *(f"{name} / ours" for name in here))
    for strategy in ("shared_bottom", "mmoe", "ple"):
        kinds = ("ours", "floor", *here)
        contenders = {kind: Contender(kind, strategy, SIZES, options) for kind in kinds}
        times = compare(contenders, options.repeats)
        ratios = [f"{times[name] / times['ours']:.2f}" for name in ("floor", *here)]
        table.add_row(strategy, f"{BATCH / times['ours']:,.0f}", *ratios)
    console.print("time of a step, in units of ours: below 1 is faster, above 1 slower")
    console.print(table)


def vocabulary(console: Console, options: Options) -> None:
    grown = tuple(max(size, round(size * 10e6 / sum(SIZES))) for size in SIZES)
    contenders = {  # the same ids: only the table grows
        "small": Contender("ours", "shared_bottom", SIZES, options),
        "large": Contender("ours", "shared_bottom", grown, options),
    }
    times = compare(contenders, options.repeats)
    ratio = times["large"] / times["small"]
    console.print(
        f"a table of {sum(grown):,} ids instead of {sum(SIZES):,} costs {ratio:.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = Options(**vars(parser.parse_args()))
    console = Console(width=100)
    console.print(f"torch {torch.__version__}, {options.threads} threads, batch {BATCH}")
    strategies(console, options)
    vocabulary(console, options)


if __name__ == "__main__":
    main()
