"""Everything that only a GPU can answer, in one command of at most eight minutes.

    python -m benchmarks.gpu [--out gpu.json] [--seconds 480]
    python -m benchmarks.gpu --cpu-rehearsal        every branch, small, where there is no GPU

Needs nothing beside an installed cvrbench with a CUDA build of torch; scikit-learn, where it is
installed, is a second opinion on the AUC. Parts run in the order of `PARTS`; one that fails or for
which no time is left is said so and the others go on. Exit code 1 where a check failed or a part
did.

1. *same*: one pass of every strategy, objective, balancing and interaction on the device beside the
   CPU, on copied weights: loss and every gradient, the look-up's included. What draws random
   numbers in training (SNR's gates, `balancing=random`) is compared in evaluation alone.
2. *waits*: how often a training step makes the host wait for the device; aim: never.
3. *auc*: the AUC computed on the device, beside the CPU's; aim: the same bits.
4. *steps*: a step's time by strategy, shape and mode (fp32, bf16, compiled), beside the floor: its
   matrix products alone and the bytes of its embedding vectors at the rate of a gather.
5. *epoch*: Ali-CCP's shape, 42 M rows of 23 fields with 1.56 M ids resident on the device, one
   epoch of MMoE; aim: 10 seconds.
6. *seeds*: eight seeds as one program beside one, whole runs; aim: 1.5 times.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import polars as pl
import torch
from benchmarks import many_seeds
from benchmarks.figures import Figure, print_table
from benchmarks.suite import describe_machine
from benchmarks.training import floor, ours
from benchmarks.training.shapes import ALICCP_SIZES, REFERENCE, SMALL, ZIPF_POWER, Shape
from torch import Tensor, nn

from cvrbench.balancing import build_balancing
from cvrbench.config.compose import compose
from cvrbench.config.model import ModelConfig
from cvrbench.config.schema import BalancingConfig, Config, InteractionConfig, ObjectiveConfig
from cvrbench.data.batches import Batch, SplitTensors
from cvrbench.data.registry import ensure
from cvrbench.data.schema import Schema
from cvrbench.errors import CvrbenchError
from cvrbench.metrics import auc as cpu_auc
from cvrbench.metrics import on_tensors
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_network
from cvrbench.training.loop import forward_of
from cvrbench.training.step import train_step

GRADIENT_TOLERANCE = 1e-3
"""Of a parameter's largest gradient: sums of thousands of fp32 products in another order."""
WARM_UP = 5


class Scale(NamedTuple):
    """How much is measured: on a GPU, or in a rehearsal."""

    device: torch.device
    rows: int
    """Rows of the log of *same*, and a hundredth of those of *auc*."""
    steps: int
    epoch_rows: int
    shapes: tuple[Shape, ...]
    epoch_batches: tuple[int, ...]

    @property
    def is_gpu(self) -> bool:
        """Whether what is measured means anything."""
        return self.device.type == "cuda"


GPU = Scale(torch.device("cuda"), 20_000, 50, 42_000_000, (REFERENCE, SMALL), (4096, 32_768))
TINY = Shape("tiny", dim=4, hidden=(16, 8), tower=(8,), batch=256)
REHEARSAL = Scale(torch.device("cpu"), 2_000, 2, 2_000, (TINY,), (256,))


class Passes:
    """Stands for the optimisers of a step: keeps the gradients and moves nothing."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def zero_grad(self) -> None:
        """Forget the gradients before."""
        self.network.zero_grad(set_to_none=True)

    def step(self, _mask: object) -> None:
        """Leave the weights as they are."""

    def gradients(self) -> dict[str, Tensor]:
        """Return parameter -> its gradient, dense, on the host; without those that have none."""
        found = {n: p.grad for n, p in self.network.named_parameters() if p.grad is not None}
        return {n: (g.to_dense() if g.is_sparse else g).cpu() for n, g in found.items()}


def same(scale: Scale) -> Iterator[Figure]:
    """Compare one pass of everything that can be chosen, on copied weights."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        _write_log(log, scale.rows)
        columns = ["dataset.ids=[user,item]", "dataset.lists=[tags]", "dataset.numbers=[age]"]
        table = compose(["dataset=table", f"dataset.path={log}", *columns])
        dataset = ensure(table.config.dataset, "table", Path(folder))
        split = SplitTensors.load(dataset.train, dataset.schema, torch.device("cpu"))
        batch = split.gather(torch.arange(min(512, len(split))))
        for name, options in _choices():
            config = compose([*options, "model.dropout=0"]).config
            worst, draws = _differ(config, dataset.schema, batch, scale.device)
            yield Figure(
                name=f"same/{name}",
                value=worst,
                unit="of the largest",
                at_most=GRADIENT_TOLERANCE,
                detail="predictions alone: training draws" if draws else "loss and gradients",
            )


def _write_log(path: Path, rows: int) -> None:
    """Write a log with ids, lists, numbers and two labels, drawn at random."""
    rng = np.random.default_rng(0)
    click = rng.random(rows) < 0.4
    columns = {
        "user": rng.integers(0, 50, rows),
        "item": rng.integers(0, 30, rows),
        "tags": [rng.integers(0, 12, n).tolist() for n in rng.integers(0, 5, rows)],
        "age": rng.normal(size=rows),
        "click": click,
        "conversion": click & (rng.random(rows) < 0.3),
    }
    pl.DataFrame(columns).write_parquet(path)


def _choices() -> Iterator[tuple[str, list[str]]]:
    """Yield every strategy, and every kind of the other axes with a shared bottom, by name."""
    more = {
        "attention": ["interaction.over={tags: item}"],
        "weighted": ["balancing.weights={cvr: 0.5}"],
    }
    for group, union in (
        ("model", ModelConfig),
        ("objective", ObjectiveConfig),
        ("balancing", BalancingConfig),
        ("interaction", InteractionConfig),
    ):
        for kind in kinds(union):
            base = [] if group == "model" else ["model=shared_bottom"]
            yield f"{group}/{kind}", [*base, f"{group}={kind}", *more.get(kind, [])]


def kinds(union: Any) -> list[str]:
    """Return the kinds of a config union as a user writes them."""
    return [kind for cls in get_args(union) for kind in get_args(cls.__annotations__["kind"])]


def _differ(
    config: Config, schema: Schema, batch: Batch, device: torch.device
) -> tuple[float, bool]:
    """Return how far the device is from the CPU, and whether training draws random numbers."""
    torch.manual_seed(0)
    network = build_network(config, schema)
    there = copy.deepcopy(network).to(device)
    once, again = (_pass(config, schema, network, batch, seed) for seed in (1, 2))
    draws = any(not torch.equal(once[name], again[name]) for name in once)
    moved = _to(batch, device)
    if not draws:
        return farthest(once, _pass(config, schema, there, moved, 1)), False
    with torch.inference_mode():
        ours_, theirs = (n.eval()(b.features) for n, b in ((network, batch), (there, moved)))
    return farthest({"logits": ours_.logits}, {"logits": theirs.logits.cpu()}), True


def _pass(
    config: Config, schema: Schema, network: Any, batch: Batch, seed: int
) -> dict[str, Tensor]:
    """Return the loss and the gradients of one training step that moves nothing."""
    torch.manual_seed(seed)
    names = [task.name for task in schema.tasks]
    balancing = build_balancing(config.balancing, names, names).to(batch.labels.device)
    objective, passes = build_objective(config.objective, schema), Passes(network)
    network.train()
    loss = train_step(network, objective, balancing, batch, passes)
    return {"loss": loss.cpu(), **passes.gradients()}


def farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the largest difference of two passes, each tensor's by its own largest entry."""
    if one.keys() != other.keys():
        return float("inf")
    scales = {name: float(tensor.abs().max()) for name, tensor in one.items()}
    floor_ = 1e-6 * max(scales.values())  # of gradients that are 0 but for rounding
    gaps = ((one[n] - other[n]).abs().max() / max(scales[n], floor_, 1e-30) for n in one)
    return max(map(float, gaps))


def _to(batch: Batch, device: torch.device) -> Batch:
    features = type(batch.features)(*(tensor.to(device) for tensor in batch.features))
    weights = None if batch.weights is None else batch.weights.to(device)
    return Batch(features, batch.labels.to(device), weights)


def waits(scale: Scale) -> Iterator[Figure]:
    """Count how often a step waits for the device."""
    shape = scale.shapes[-1]
    for strategy in kinds(ModelConfig):
        network = ours.network_of(strategy, shape).to(scale.device)
        train = ours.trainer_of(network, shape)
        split = resident(shape, 4 * shape.batch, scale.device)
        index = torch.arange(shape.batch, device=scale.device)
        for _ in range(WARM_UP):
            train(split.gather(index))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if scale.is_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            train(split.gather(index))
            if scale.is_gpu:
                torch.cuda.set_sync_debug_mode("default")
        found = [w for w in caught if "synchroniz" in str(w.message)]
        at = "; ".join(sorted({f"{Path(w.filename).name}:{w.lineno}" for w in found}))
        yield Figure(
            name=f"waits/{strategy}", value=len(found), unit="a step", at_most=0, detail=at
        )


def auc(scale: Scale) -> Iterator[Figure]:
    """Hold the device's AUC against the CPU's, and time both."""
    rows = 100 * scale.rows
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(rows, generator=generator, dtype=torch.float64)
    ties = (scores * 100).round() / 100
    labels = (torch.rand(rows, generator=generator) < 0.2 * scores).to(torch.uint8)
    for name, values in (("distinct", scores), ("ties", ties)):
        here, there = labels.to(scale.device), values.to(scale.device)
        _wait(scale.device)
        begun = time.perf_counter()
        found = on_tensors.auc(here, there)
        seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        expected = cpu_auc(labels.numpy(), values.numpy())
        behind = f"{rows:,} rows in {seconds:.3f} s; the CPU {time.perf_counter() - begun:.2f} s"
        try:
            from sklearn.metrics import roc_auc_score
        except ImportError:
            behind += "; scikit-learn is not installed"
        else:
            off = abs(found - roc_auc_score(labels.numpy(), values.numpy()))
            behind += f"; off scikit-learn's by {off:.0e}"
        yield Figure(
            name=f"auc/{name}",
            value=abs(found - expected),
            unit="off the CPU's",
            at_most=0.0,
            detail=behind,
        )


def steps(scale: Scale) -> Iterator[Figure]:
    """Time a step in every mode beside the floor of the device."""
    for shape in scale.shapes:
        for strategy in ("shared_bottom", "mmoe", "ple", "ncs"):
            with torch.device(scale.device):
                ground = floor.build(strategy, shape, 2)
            least = _time(ground, scale)
            for mode in ("fp32", "bf16", "compiled", "compiled bf16"):
                if "compiled" in mode and not (scale.is_gpu and strategy in {"mmoe", "ncs"}):
                    continue  # half a minute each; a CPU may have no compiler
                with _step(strategy, shape, scale, mode) as step:
                    seconds = _time(step, scale)
                    launched = _launches(step) if scale.is_gpu else 0
                yield Figure(
                    name=f"steps/{shape.name}/{strategy}/{mode.replace(' ', '_')}",
                    value=least / seconds,
                    unit="of the fp32 floor",
                    detail=f"{seconds * 1e3:.2f} ms, {shape.batch / seconds:,.0f} rows/s, "
                    f"{launched} launches; floor {least * 1e3:.2f} ms",
                )


@contextmanager
def _step(
    strategy: str, shape: Shape, scale: Scale, mode: str
) -> Iterator[Callable[[int], object]]:
    """Give a training step in a mode, from resident rows."""
    torch.manual_seed(0)
    network = ours.network_of(strategy, shape).to(scale.device)
    split = resident(shape, 16 * shape.batch, scale.device)
    with forward_of(network, compiled="compiled" in mode) as forward:
        train = ours.trainer_of(network, shape, forward=forward, bf16="bf16" in mode)
        batches = split.batches(shape.batch, seed=0)
        yield lambda _number: train(next(batches))


def epoch(scale: Scale) -> Iterator[Figure]:
    """Train MMoE on as many rows as Ali-CCP has, resident."""
    rows = scale.epoch_rows
    shape = scale.shapes[0]
    split = resident(shape, rows, scale.device)
    size = sum(t.nbytes for t in (split.rows, split.labels)) / 2**30
    for batch in scale.epoch_batches:
        sized = shape._replace(batch=batch)
        for mode in ("fp32", "bf16"):
            torch.manual_seed(0)
            train = ours.trainer_of(
                ours.network_of("mmoe", sized).to(scale.device), sized, bf16=mode == "bf16"
            )
            n_steps = -(-rows // batch)
            stream = split.batches(batch, seed=0)
            for _ in range(WARM_UP):
                train(next(stream))
            _wait(scale.device)
            begun, taken = time.perf_counter(), 0
            while taken < n_steps and time.perf_counter() - begun < 15:  # then told by what it did
                for _ in range(min(200, n_steps - taken)):
                    train(next(stream))
                    taken += 1
                _wait(scale.device)
            seconds = (time.perf_counter() - begun) * n_steps / taken
            stream.close()
            yield Figure(
                name=f"epoch/mmoe/{batch}/{mode}",
                value=seconds,
                unit="s",
                at_most=10.0 if scale.is_gpu else None,
                detail=f"{rows:,} rows, {size:.1f} GiB; {rows / seconds:,.0f} rows/s; "
                + ("" if taken == n_steps else f"told from {taken} of {n_steps} steps"),
            )


def seeds(scale: Scale) -> Iterator[Figure]:
    """Train one seed and eight as one program, from prepared data to record."""
    rows, n_seeds = (40_000, 8) if scale.is_gpu else (scale.rows, 2)
    device = (f"trainer.device={scale.device.type}",)
    with tempfile.TemporaryDirectory() as data:
        folder = Path(data)
        ensure(compose(many_seeds.words(folder, rows)).config.dataset, "synthetic", folder)
        for model in ("shared_bottom", "mmoe"):
            given = ((f"model={model}", *device), folder, rows)
            one = many_seeds.build(*given, 1, False)
            together = many_seeds.build(*given, n_seeds, True)
            one(0)  # the first run of a process also loads what the device needs
            times = [_seconds(one, scale), _seconds(together, scale)]
            yield Figure(
                name=f"seeds/{model}",
                value=times[1] / times[0],
                unit="times one seed",
                at_most=1.5 if scale.is_gpu else None,
                detail=f"{n_seeds} together {times[1]:.2f} s, one {times[0]:.2f} s",
            )


def resident(shape: Shape, rows: int, device: torch.device) -> SplitTensors:
    """Draw rows with Ali-CCP's fields on a device: skewed ids, one label in ten."""
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.empty(rows, len(ALICCP_SIZES), dtype=torch.int32, device=device)
    starts = np.cumsum([0, *shape.sizes])
    for field, size in enumerate(shape.sizes):
        drawn = torch.rand(rows, generator=generator, device=device) ** ZIPF_POWER
        ids[:, field] = (drawn * size).int().clamp_(max=size - 1) + int(starts[field])
    labels = torch.rand(rows, 2, generator=generator, device=device) < 0.1
    numeric = torch.empty(rows, 0, device=device)
    return SplitTensors(ids, numeric, labels.to(torch.uint8), (), None)


def _time(step: Callable[[int], object], scale: Scale) -> float:
    """Return a step's seconds, the least of three turns, after a warm-up."""
    for number in range(WARM_UP if scale.is_gpu else 1):
        step(number)
    turns = 3 if scale.is_gpu else 1
    many = lambda _number: [step(number) for number in range(scale.steps)]  # noqa: E731
    return min(_seconds(many, scale) for _ in range(turns)) / scale.steps


def _seconds(step: Callable[[int], object], scale: Scale) -> float:
    _wait(scale.device)
    begun = time.perf_counter()
    step(0)
    _wait(scale.device)
    return time.perf_counter() - begun


def _launches(step: Callable[[int], object]) -> int:
    """Count what a step sends to the device: kernels, or graphs of them."""
    with torch.profiler.profile() as profile:
        for number in range(3):
            step(number)
    names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaGraphLaunch")
    return sum(event.count for event in profile.key_averages() if event.key in names) // 3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


PARTS = {part.__name__: part for part in (same, waits, auc, steps, epoch, seeds)}


def measure(scale: Scale, seconds: float) -> tuple[list[Figure], dict[str, str]]:
    """Return the figures of all parts, and part -> why it ended before its end."""
    figures: list[Figure] = []
    ended: dict[str, str] = {}
    begun = time.monotonic()
    for name, part in PARTS.items():
        print(f"{name} ... after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        try:
            for figure in part(scale):
                figures.append(figure)
                if time.monotonic() - begun > seconds:
                    ended[name] = "no time was left"
                    break
        except (CvrbenchError, RuntimeError, ValueError, TypeError, KeyError) as error:
            traceback.print_exc()
            ended[name] = f"{type(error).__name__}: {error}"
    return figures, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a JSON file for machine, figures and failures")
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing after so many")
    parser.add_argument("--cpu-rehearsal", action="store_true")
    options = parser.parse_args()
    if not options.cpu_rehearsal and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --cpu-rehearsal runs every branch on the CPU")
    torch.backends.cuda.matmul.allow_tf32 = False  # compared with a CPU's fp32
    scale = REHEARSAL if options.cpu_rehearsal else GPU
    figures, ended = measure(scale, options.seconds)
    print_table(figures)
    for name, why in ended.items():
        print(f"{name} ended early: {why}")
    if options.out is not None:
        gpu = torch.cuda.get_device_properties(0) if scale.is_gpu else None
        kept = {
            "machine": describe_machine() | {"gpu": None if gpu is None else gpu.name},
            "ended": ended,
            "figures": [asdict(figure) for figure in figures],
        }
        options.out.write_text(json.dumps(kept, indent=1))
    missed = [f.name for f in figures if f.name.startswith(("same", "auc")) and not f.is_met]
    sys.exit(1 if missed or any(why != "no time was left" for why in ended.values()) else 0)


if __name__ == "__main__":
    main()
