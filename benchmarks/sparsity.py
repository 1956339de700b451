"""What sparsity buys: one task's NCS network masked and compacted, counted and timed.

    python -m benchmarks.sparsity [OVERRIDE ...] [--train] [--data-dir DIR] [--json FILE]
    python -m benchmarks.sparsity dataset=kuairand --train
    cvrbench run experiment=whole_units
    python -m benchmarks.sparsity --runs results

The default NCS network on a dataset (`synthetic` unless an override names another), cut to several
densities in three ways:

- `random`: every connection has the same chance; needs no training.
- `initial`: the largest initial weights, one threshold over all layers; needs no training.
- `imp`, with `--train`: what the default search finds, in a run of one epoch. Trained weights are
  larger where they are needed, so that whole units lose all their connections sooner.

`masked` is the task's dense network with zeros in it: what it costs is the same at every density.
`compacted` is the same network without the units and fields that carry nothing. Both are timed in
turns in one process on one thread, `trained` (all tasks, masks multiplied in) with them; a ratio is
the median over rounds of calls, with quartiles. Ratios, not times, are comparable between machines.

`--runs` takes finished runs instead: what each strategy's network of the task, as `cvrbench export
--task` writes it, reaches on the test rows, counts, and takes in onnxruntime; times in turns as
above, against the first network of the table.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.latency import (
    Contender,
    Latency,
    Spread,
    first_rows,
    measure_latency,
    measure_savings,
    select,
)
from rich.console import Console
from rich.table import Table
from torch import nn

from cvrbench.config.compose import compose
from cvrbench.data.batches import Features
from cvrbench.data.dataset import Dataset
from cvrbench.data.registry import ensure
from cvrbench.masks.ranking import keep_best, random_scores
from cvrbench.report.comparison import compare as compare_runs
from cvrbench.report.tables import interval
from cvrbench.runs import experiment
from cvrbench.runs.load import load_trained
from cvrbench.runs.store import ResultStore
from cvrbench.serving.compaction import Savings, compare, cost_as_trained
from cvrbench.serving.export import Part, part_of, save_onnx, tensor_inputs
from cvrbench.strategies import build_network
from cvrbench.strategies.ncs import NCS

DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
BATCHES = (1, 512)
Times = dict[int, tuple[Latency, ...]]
"""Rows of a call -> times as trained, masked and compacted."""


def untrained(dataset: Dataset, overrides: list[str]) -> Iterator[tuple[str, float, NCS]]:
    """Networks as they begin, cut at random and by their initial weights."""
    config = compose(["model=ncs", *overrides]).config
    torch.manual_seed(config.seed)
    network = build_network(config, dataset.schema)
    assert isinstance(network, NCS)
    whole = network.masks
    ways = {
        "random": random_scores(whole, config.seed, identical=False),
        "initial": {name: weight.abs() for name, weight in network.masked().items()},
    }
    for way, scores in ways.items():
        for density in DENSITIES:
            network.set_masks(keep_best(scores, whole, density, "global"))
            yield way, density, network


def trained(overrides: list[str], results: Path) -> Iterator[tuple[str, float, NCS]]:
    """Networks of short runs of iterative magnitude pruning."""
    for density in DENSITIES[1:]:
        wanted = [
            "model.search=imp",
            f"model.density={density}",
            "trainer.epochs=1",
            f"results_dir={results}",
        ]
        record = experiment.run(compose(["model=ncs", *overrides, *wanted]))
        network = load_trained(results / "runs" / record.run_id).network
        assert isinstance(network, NCS)
        yield "imp", density, network


class Exported(nn.Module):
    """One task's network as it is served: a session of onnxruntime on one thread."""

    def __init__(self, part: Part, file: Path) -> None:
        import onnxruntime as ort

        super().__init__()
        save_onnx(part, file, {})
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.names = [tensor.name for tensor in tensor_inputs(part.schema)]
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def forward(self, features: Features) -> Any:
        """Return the probabilities."""
        feed = {name: getattr(features, name).numpy() for name in self.names}
        return self.session.run(None, feed)


def of_runs(results: Path, task: str, rounds: int) -> Table:
    """Compare finished runs: what a task's network as exported reaches, counts and takes."""
    store = ResultStore(results)
    (comparison,) = compare_runs(store.records())
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in (
        "strategy", "seeds", f"{task} AUC", "multiply-adds",
        *(f"time of the first, batch {size}" for size in BATCHES),
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    parts: list[Part] = []
    contenders: dict[int, list[Contender]] = {size: [] for size in BATCHES}
    with tempfile.TemporaryDirectory() as temporary:
        for number, variant in enumerate(comparison.variants):
            trained = load_trained(results / "runs" / variant.runs[0].run_id)
            part = part_of(trained, task)
            parts.append(part)
            served = Exported(part, Path(temporary) / f"{number}.onnx")
            config, name = trained.config, trained.record.choices["dataset"]
            dataset = ensure(config.dataset, name, Path(config.data_dir))
            for size, of_size in contenders.items():
                rows = first_rows(dataset.valid, trained.schema, size)
                of_size.append(Contender(served, select(rows, trained.schema, part.schema)))
        measured = [measure_latency(of_size, rounds=rounds) for of_size in contenders.values()]
    for number, (variant, part) in enumerate(zip(comparison.variants, parts, strict=True)):
        table.add_row(
            variant.label,
            str(len(variant.runs)),
            interval(variant.estimate(f"{task}_auc")),
            f"{cost_as_trained(part.network, part.schema).multiply_adds:,}",
            *(ratio(times[number].ratio_to(times[0])) for times in measured),
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as of `cvrbench run`")
    parser.add_argument("--train", action="store_true", help="also cut trained networks")
    parser.add_argument("--runs", type=Path, help="results whose runs to export and compare")
    parser.add_argument("--task", default="cvr")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--data-dir", type=Path, help="folder of datasets; default: a passing one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.runs:
        Console(width=160).print(of_runs(options.runs, options.task, options.rounds))
        return
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = options.data_dir or Path(temporary)
        overrides = [*options.overrides, f"data_dir={data_dir}"]
        composed = compose(["model=ncs", *overrides])
        dataset = ensure(composed.config.dataset, composed.choices["dataset"], data_dir)
        found: list[tuple[str, float, Savings, Times]] = []

        def measure(networks: Iterator[tuple[str, float, NCS]]) -> None:
            for way, density, network in networks:
                savings = compare(network, dataset.schema, [options.task])
                place = (network, dataset.schema, savings, dataset.valid)
                times = {n: measure_savings(*place, n, rounds=options.rounds) for n in BATCHES}
                found.append((way, density, savings, times))

        measure(untrained(dataset, overrides))
        if options.train:
            measure(trained(overrides, Path(temporary) / "results"))
    show(found, options.task, composed.choices["dataset"])
    if options.json:
        plain = [
            {"mask": way, "density": density, **savings.to_json(), "seconds": plain_of(times)}
            for way, density, savings, times in found
        ]
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


def plain_of(times: Times) -> dict[str, dict[str, Any]]:
    """Times as median and quartiles."""
    names = ("trained", "masked", "compacted")
    return {
        str(n): {k: v.spread()._asdict() for k, v in zip(names, found, strict=True)}
        for n, found in times.items()
    }


def show(found: list[tuple[str, float, Savings, Times]], task: str, dataset: str) -> None:
    """Print the table, and above it what never changes with the density."""
    console = Console(width=140)
    _, _, first, measured = found[0]
    trained, masked = first.rows[:2]
    times = ", ".join(
        f"batch {size}: {1e3 * whole.spread().median:.3f} ms trained, "
        f"{1e3 * own.spread().median:.3f} ms masked ({ratio(own.ratio_to(whole))} of it)"
        for size, (whole, own, _) in measured.items()
    )
    console.print(f"{dataset}, {task}; torch {torch.__version__}, one thread")
    console.print(f"as trained, all tasks: {counts(trained.cost)}")
    console.print(f"{task} masked, whatever the density: {counts(masked.cost)}")
    console.print(times)
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in (
        "mask", "density", "units left out", "fields", "multiply-adds", "of masked", "not with 0",
        *(f"time of masked, batch {size}" for size in BATCHES),
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "mask" else "right")
    for way, density, savings, measured in found:
        table.add_row(*row(way, density, savings, measured, task))
    console.print(table)


def row(way: str, density: float, savings: Savings, times: Times, task: str) -> list[str]:
    """One line of the table."""
    _, masked, compacted = savings.rows
    compaction = savings.compactions[task]
    return [
        way,
        f"{density:g}",
        " ".join(map(str, compaction.removed)),
        str(len(compaction.unread_fields)),
        f"{compacted.cost.multiply_adds:,}",
        f"{compacted.cost.multiply_adds / masked.cost.multiply_adds:.1%}",
        f"{compacted.cost.connections:,}",
        *(ratio(small.ratio_to(own)) for _, own, small in times.values()),
    ]


def counts(cost: Any) -> str:
    """Its sizes in words."""
    return (
        f"{cost.dense_parameters:,} dense parameters, {cost.embedding_parameters:,} of embeddings, "
        f"{cost.multiply_adds:,} multiply-adds"
    )


def ratio(spread: Spread) -> str:
    """Median and quartiles."""
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


if __name__ == "__main__":
    main()
