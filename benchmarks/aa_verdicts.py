"""How often is a verdict on trained models wrong, with fixed seeds and with seeds in rounds?

    python -m benchmarks.aa_verdicts --pool DIR [--seeds 120] [--tables 400]

Networks are trained on about 19,000 rows of a planted log and predict a pool of
400,000 rows of users that none has seen; the pool is cut into 100 tests of about 4,000 rows. A
table takes one of these tests and 20 seeds for each of its rows:

    alike   four rows, which are one strategy under different seeds: no difference is the truth
    losers  `shared_bottom`, `mmoe`, `ple` under the same 20 seeds, and each of them trained so
            slowly that it is clearly worse

For each: how often a row of `alike` is called worse than another (a false finding), or none of the
three that are trained well is left; with 5 and with 20 seeds for every row, and in rounds
as `cvrbench run seeds=auto` adds seeds, which share of the 20 seeds' runs these take, and how often
their best set is that of 20 seeds. Rates have their standard error.

`DIR` keeps the predictions, so that a study that was stopped goes on.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.aa_study import Bench, settings
from benchmarks.verdicts import in_rounds
from rich.console import Console
from rich.progress import track

from cvrbench.data.registry import ensure
from cvrbench.metrics import auc
from cvrbench.report import MOST_SEEDS
from cvrbench.stats import best as best_set
from cvrbench.stats.best import Best, Bools, Joint, best, joint
from cvrbench.stats.influence import Floats, auc_influence, effective_groups, per_group
from cvrbench.system.rng import numpy_stream

LOG = (
    "dataset.rows=420000",
    "dataset.users=21000",
    "dataset.valid_fraction=0.005",
    "dataset.test_fraction=0.95",
)
SLOWLY = ("trainer.learning_rate=0.0002", "trainer.embedding_learning_rate=0.001")
TESTS = 100
SHARED = ("shared_bottom", "mmoe", "ple")
FEW = 5
best_set.DRAWS = 1000  # for speed: enough to tell p below 5 % from p above it, on average
Table = tuple[Floats, list[dict[int, Floats]], float]
"""AUC `[rows, seeds]`, how far each user moves it, and degrees of freedom of that."""


class Pool:
    """Predictions of every trained network on all tests."""

    def __init__(self, folder: Path, seeds: int) -> None:
        config = settings("shared_bottom", folder, *LOG)
        self.bench = Bench(folder, ensure(config.dataset, "synthetic", folder), TESTS)
        self.folder, self.seeds = folder, seeds
        labels, chunks = self.bench.dataset.test.labels, self.bench.chunk_of_row
        self.rows = [np.flatnonzero(chunks == test) for test in range(TESTS)]
        self.clicked = [rows[labels[rows, 0] == 1] for rows in self.rows]

    def train(self) -> None:
        """Train what is missing."""
        everything = np.arange(len(self.bench.dataset.test.labels))
        wanted = [
            (m, slow, s) for m in SHARED for slow in (False, True) for s in self._seeds(m, slow)
        ]
        missing = [one for one in wanted if not self._file(*one).exists()]
        for model, slow, seed in track(missing, console=Console(stderr=True), transient=True):
            config = settings(model, self.folder, *LOG, *(SLOWLY if slow else ()))
            found = self.bench.predictions(config, seed, everything)
            partial = self.folder / "partial.npy"
            np.save(partial, np.asarray(found.conditional, np.float32))
            partial.rename(self._file(model, slow, seed))

    def _seeds(self, model: str, slow: bool) -> range:
        return range(self.seeds if model == "shared_bottom" and not slow else self.seeds // 3)

    def _file(self, model: str, slow: bool, seed: int) -> Path:
        return self.folder / f"{model}{'-slow' if slow else ''}-{seed}.npy"

    def table(self, rows: Sequence[tuple[str, bool, Sequence[int]]], test: int, task: int) -> Table:
        """Return what runs of some strategies and seeds say on one test."""
        index = self.rows[test] if task == 0 else self.clicked[test]
        own = self.bench.dataset.test
        labels = own.labels[index, task]
        users = np.unique(own.groups[index], return_inverse=True)[1]
        values = np.full((len(rows), MOST_SEEDS), np.nan)
        influences: list[dict[int, Floats]] = [{} for _ in rows]
        for k, (model, slow, seeds) in enumerate(rows):
            for place, seed in enumerate(seeds):
                scores = np.load(self._file(model, slow, seed), mmap_mode="r")[index, task]
                predicted = scores.astype(np.float64)
                values[k, place] = auc(labels, predicted)
                influences[k][place] = per_group(auc_influence(labels, predicted), users, labels)
        return values, influences, effective_groups(users) - 1

    def rows_of(self, kind: str, number: int) -> list[tuple[str, bool, Sequence[int]]]:
        """Draw the rows of one table."""
        random = numpy_stream(number, kind)
        if kind == "alike":
            drawn = random.permutation(self.seeds)[: 4 * MOST_SEEDS].reshape(4, -1)
            return [("shared_bottom", False, seeds.tolist()) for seeds in drawn]
        seeds = random.permutation(self.seeds // 3)[:MOST_SEEDS].tolist()
        return [(model, slow, seeds) for slow in (False, True) for model in SHARED]


def _joint(table: Table, known: Bools) -> Joint:
    values, influences, freedom = table
    there = np.where(known, values[:, : known.shape[1]], np.nan)
    some = [
        {k: of[k] for k in np.flatnonzero(own)} for of, own in zip(influences, known, strict=True)
    ]
    return joint(there, some, None, freedom)


def judge(kind: str, table: Table) -> dict[str, float]:
    """Return what verdicts on one table find."""
    n = len(table[0])

    def wrong(found: Best) -> bool:
        return not (found.inside.all() if kind == "alike" else found.inside[: len(SHARED)].any())

    few, many = (best(_joint(table, np.ones((n, seeds), np.bool_))) for seeds in (FEW, MOST_SEEDS))
    runs, rounds = in_rounds(n, lambda known: _joint(table, known))
    return {
        "wrong, 5 seeds": wrong(few),
        "wrong, 20 seeds": wrong(many),
        "wrong, in rounds": wrong(rounds),
        "runs": runs / n / MOST_SEEDS,
        "same set": bool((rounds.inside == many.inside).all()),
        "rounds has more": bool((rounds.inside & ~many.inside).any()),
        "losers out": not rounds.inside[len(SHARED) :].any(),
        "best set": int(rounds.inside.sum()),
    }


def lines(pool: Pool, kinds: Sequence[str], tables: int) -> Iterator[str]:
    """Yield the figures, a line per kind of table and metric."""
    for kind in kinds:
        for task, name in enumerate(("CTR", "CVR")):
            tests = [pool.table(pool.rows_of(kind, k), k % TESTS, task) for k in track_few(tables)]
            found: list[dict[str, Any]] = [judge(kind, one) for one in tests]
            cells = []
            for key in found[0]:
                of = np.array([float(one[key]) for one in found])
                error = of.std() / math.sqrt(len(of))
                scale, unit = (1, "") if key == "best set" else (100, " %")
                cells.append(f"{key} {scale * of.mean():.1f} ± {scale * error:.1f}{unit}")
            yield f"{kind}, {name} AUC: {'; '.join(cells)}"


def track_few(n: int) -> Any:
    """Return the numbers of the tables, with a bar."""
    return track(range(n), console=Console(stderr=True), transient=True)


def main() -> None:
    """Train what is missing, draw the tables and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, required=True, help="keep log and predictions there")
    parser.add_argument(
        "--seeds", type=int, default=120, help="of shared_bottom; a third of others"
    )
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--kinds", nargs="+", default=["alike", "losers"])
    options = parser.parse_args()
    options.pool.mkdir(parents=True, exist_ok=True)
    pool = Pool(options.pool, options.seeds)
    pool.train()
    for line in lines(pool, options.kinds, options.tables):
        print(line, flush=True)


if __name__ == "__main__":
    main()
