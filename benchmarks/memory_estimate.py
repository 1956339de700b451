"""How near the memory estimate of a run is to what the run then takes.

    python -m benchmarks.memory_estimate [--quick]

Each shape is prepared, estimated (`cvrbench.runs.memory`) and run by `cvrbench run` in a
process of its own, whose largest resident size the kernel keeps (`VmHWM`). Against it stands what a
process holds when it is about to begin, what the run needs, and the pages of mapped labels.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from benchmarks.figures import Figure, print_table

BRIEF = ("trainer.epochs=1", "trainer.evaluations_per_epoch=4", "trainer.device=cpu")
TABLE = (
    "dataset.rows=200000",
    "dataset.n_fields=16",
    "dataset.cardinality=400000",
    "dataset.zipf=0",
    "dataset.min_count=1",
    "trainer.batch_size=2048",
)
SHAPES: dict[str, tuple[str, ...]] = {
    "small": ("model=shared_bottom", "trainer.batch_size=2048"),
    "table": (*TABLE, "model=shared_bottom"),
    "table_adam": (*TABLE, "model=shared_bottom", "trainer.embedding_optimizer=adam"),
    "table_lazy": (*TABLE, "model=shared_bottom", "trainer.embedding_optimizer=lazy_adam"),
    "table_per_task": (*TABLE, "model=single_task"),
    "table_ncs": (*TABLE, "model=ncs"),
    "table_imp": (*TABLE, "model=ncs", "model.search=imp", "model.search.epochs=1"),
    "candidates": (
        *TABLE,
        "dataset.cardinality=20000",
        "model=ncs",
        "model.search=random",
        "model.search.rounds=4",
        "model.search.choice=joint",
        "model.search.epochs=2",
    ),
    "batch_mmoe": ("model=mmoe", "trainer.batch_size=32768", "model.hidden=[512,256]"),
    "batch_ple": ("model=ple", "trainer.batch_size=32768"),
    "evaluation": (
        "model=ple",
        "trainer.batch_size=4096",
        "trainer.eval_batch_size=100000",
        "dataset.rows=500000",
    ),
    "lists": (
        "dataset=table",
        "dataset.ids=[user]",
        "dataset.lists=[history]",
        "dataset.tasks=[{name: ctr, label: click}]",
        "dataset.min_count=1",
        "model=shared_bottom",
        "trainer.batch_size=8192",
    ),
    "rows": (
        "dataset.rows=3000000",
        "dataset.n_fields=16",
        "model=shared_bottom",
        "trainer.batch_size=16384",
    ),
}
QUICK = ("small", "table", "batch_ple")
PREPARE = "from cvrbench.runs import planning as p; p.check_plan(plan)"
ESTIMATE = """
import psutil, torch
from pathlib import Path
from cvrbench.runs import experiment, memory
from cvrbench.data.registry import ensure
config = plan[0].config
held = psutil.Process().memory_info().rss
dataset = ensure(config.dataset, plan[0].choices["dataset"], Path(config.data_dir))
pages = sum(split.labels.nbytes for split in (dataset.train, dataset.valid, dataset.test))
print(held + memory.estimate(config, dataset, torch.device("cpu")).needed + pages)
"""
COMPOSE = """
import sys
from cvrbench.config.compose import compose
plan = [compose(sys.argv[1:])]
"""
RUN = """
import sys
from cvrbench.cli.app import main
code = main()
status = open("/proc/self/status").read().split("VmHWM:")[1]
print(int(status.split()[0]) * 1024)
sys.exit(code)
"""


def compare(name: str, folder: Path) -> tuple[int, int]:
    """Return the estimate and the measured peak of a shape, in bytes.

    Args:
        name: One of `SHAPES`.
        folder: Where data and results go.
    """
    places = [f"data_dir={folder / 'data'}", f"results_dir={folder / 'results'}"]
    words = [*BRIEF, *SHAPES[name], *places]
    if name == "lists":
        words.append(f"dataset.path={_write_lists(folder / 'log.parquet')}")
    _python(COMPOSE + PREPARE, words)
    told = _python(COMPOSE + ESTIMATE, words)
    return int(told), int(_python(RUN, ["run", "--force", "--json", *words]).splitlines()[-1])


def _write_lists(path: Path, rows: int = 200_000, length: int = 50) -> Path:
    rng = np.random.default_rng(0)
    columns = {
        "user": rng.integers(0, 50_000, rows),
        "history": rng.integers(0, 300_000, (rows, length), dtype=np.int32),
        "click": rng.integers(0, 2, rows),
    }
    frame = pl.DataFrame(columns).with_columns(pl.col("history").arr.to_list())
    frame.write_parquet(path)
    return path


def measure(*, quick: bool) -> Iterator[Figure]:
    """Yield the estimate of every shape as a share of the measured peak."""
    for name in QUICK if quick else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            told, measured = compare(name, Path(folder))
        yield Figure(
            name=f"memory/{name}",
            value=told / measured,
            unit="of the measured peak",
            at_least=1 / 1.5,
            at_most=1.5,
            detail=f"{told / 1e9:.2f} GB estimated, {measured / 1e9:.2f} GB measured",
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print_table(list(measure(quick=parser.parse_args().quick)))


def _python(code: str, words: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
