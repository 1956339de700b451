"""What do eight seeds cost that are trained as one program?

    python -m benchmarks.many_seeds [--quick] [--threads 2]

Runs from prepared data to record, as `cvrbench run` makes them: default models and trainer (batch
512), the synthetic log, two epochs. One seed alone and eight together, each contender in a process
of its own, in turns, on two threads.

Eight networks take eight times the products of one: what is gained is the rest, which is most of a
step of a small network and little of a large one.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, print_table
from benchmarks.turns import Contender, Step, compare, ratio

from cvrbench.config.compose import compose
from cvrbench.data.registry import ensure
from cvrbench.runs import experiment
from cvrbench.runs.experiment import run_stacked

SEEDS, THREADS = 8, 2
MODELS = ("shared_bottom", "single_task", "ncs", "mmoe")
SMALL = ("model.embedding_dim=8", "model.dropout=0")
"""The small shape of `training_throughput.py`: widths 128 and 64 as by default."""


def words(folder: Path, rows: int, *more: str) -> list[str]:
    never = ["trainer.patience=1000", "trainer.epochs=2", "trainer.device=cpu"]
    return ["dataset=synthetic", f"dataset.rows={rows}", f"data_dir={folder}", *never, *more]


def build(options: tuple[str, ...], folder: Path, rows: int, n_seeds: int, together: bool) -> Step:
    def step(_number: int) -> None:
        with tempfile.TemporaryDirectory() as results:
            given = words(folder, rows, f"results_dir={results}", *options)
            cells = [compose([*given, f"seed={seed}"]) for seed in range(n_seeds)]
            if not together:
                for cell in cells:
                    experiment.run(cell)
                return
            for record in run_stacked(cells):
                assert not isinstance(record, BaseException), record

    return step


def measure(*, quick: bool, threads: int = THREADS) -> Iterator[Figure]:
    rows, repeats, n_seeds = (6_000, 1, 2) if quick else (40_000, 3, SEEDS)
    models = MODELS[:1] if quick else MODELS
    shapes = [(model, (f"model={model}",)) for model in models]
    if not quick:
        shapes.append(("shared_bottom_small", ("model=shared_bottom", *SMALL)))
    with tempfile.TemporaryDirectory() as data:
        folder = Path(data)
        ensure(compose(words(folder, rows)).config.dataset, "synthetic", folder)
        for name, options in shapes:
            given = (options, folder, rows)
            contenders = {
                "one": Contender(build, *given, 1, False, n_steps=1, threads=threads),
                "together": Contender(build, *given, n_seeds, True, n_steps=1, threads=threads),
            }
            found = compare(contenders, repeats)
            times = ratio(found["together"], found["one"])
            one, together = (statistics.median(found[key]) for key in ("one", "together"))
            yield Figure(
                name=f"many_seeds/{name}",
                value=times,
                unit="times one seed",
                at_most=None if quick else 3.0,
                detail=f"{n_seeds} together {together:.2f} s, one {one:.2f} s: "
                f"{n_seeds / times:.1f} times as fast as in turn",
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    print_table(list(measure(quick=options.quick, threads=options.threads)))


if __name__ == "__main__":
    main()
