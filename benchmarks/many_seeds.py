"""What do eight seeds cost that are trained as one program, and what do a search's candidates?

    python -m benchmarks.many_seeds [--quick] [--threads 2]

Runs from prepared data to record, as `cvrbench run` makes them: default models and trainer (batch
512), the synthetic log, two epochs. One seed alone and eight together, each contender in a process
of its own, in turns, on two threads. The run alone uses both threads in every operation; together,
each thread trains half of the seeds.

Within one run: the four candidates that `model.choice=joint` compares, and both tasks' own searches
(`model.together=false`), as one program and one after another.

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

from cvrbench import experiment
from cvrbench.config.compose import compose
from cvrbench.data.registry import ensure
from cvrbench.launch.together import run_together
from cvrbench.training import stages

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
            for record in run_together(cells):
                assert not isinstance(record, BaseException), record

    return step


SEARCHES = {
    "candidates": ("model.search=random", "model.choice=joint", "model.rounds=4"),
    "tasks": ("model.search=imp", "model.together=false", "model.early_bird=null"),
}
"""Runs that spend most of their time in trainings that can be one program."""


def build_search(options: tuple[str, ...], folder: Path, rows: int, as_one: bool) -> Step:
    if not as_one:
        stages.go_as_one = lambda _: False  # in this process, which is the contender's own

    def step(_number: int) -> None:
        with tempfile.TemporaryDirectory() as results:
            given = words(folder, rows, f"results_dir={results}", "trainer.epochs=1", *options)
            experiment.run(compose(given))

    return step


def measure_searches(folder: Path, rows: int, *, quick: bool, threads: int) -> Iterator[Figure]:
    """Whole runs whose searches train as one program, against the same one by one."""
    for name, search in SEARCHES.items():
        options = ("model=ncs", *search, f"model.search_epochs={1 if quick else 8}")
        contenders = {
            kind: Contender(
                build_search, options, folder, rows, kind == "as one", n_steps=1, threads=threads
            )
            for kind in ("as one", "in turn")
        }
        found = compare(contenders, 1 if quick else 3)
        seconds = {kind: statistics.median(turns) for kind, turns in found.items()}
        yield Figure(
            name=f"one_run/{name}",
            value=ratio(found["in turn"], found["as one"]),
            unit="times as fast as in turn",
            detail=f"{seconds['as one']:.2f} s as one, {seconds['in turn']:.2f} s in turn",
        )


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
        yield from measure_searches(folder, rows, quick=quick, threads=threads)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    print_table(list(measure(quick=options.quick, threads=options.threads)))


if __name__ == "__main__":
    main()
