"""How often do tests of trained models find a difference where there is none, and cover one?

    python -m benchmarks.aa_study --out FILE.jsonl [--repetitions 250] [--slice 1/2]

Everything that is in doubt in a comparison is drawn anew in each repetition, on the planted log:

    seeds       5 trainings of `shared_bottom` against 5 of `shared_bottom` with other seeds (A/A:
                no difference is the truth), and 5 of `single_task` with the seeds of the first 5
    test rows   a chunk of users of its own, about 3,200 exposures of 160 users, out of one pool
                that no model has seen; the users are not in the training rows either

Training rows are the same throughout, as they are for a user of the toolkit. At 5 per cent:

    t           Student's paired t-test over seeds
    Wilcoxon    signed-rank test over seeds
    DeLong      of the first seed's two models, rows drawn one by one
    bootstrap   of the mean over seeds, test users redrawn, percentile interval
    both        `difference` with `row_variance` of the mean influence, rows by user
    both, once  `difference` with `common_row_variance`, which counts what rows do to one seed alone
                in the seeds' spread only

Coverage is that of each 95 % interval of `single_task` less `shared_bottom`; the truth a repetition
is held against is the mean over all other repetitions, which is known 15 times as sharply.

`--out` keeps one line per repetition. Those that it holds are not drawn again; `--slice K/N` draws
every N-th, so that several processes can share the work (about 20 minutes of one core in all).
"""

import argparse
import json
import math
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.aa_tables import LEVEL, METRICS, SEEDS, Row, kept, tables
from rich.console import Console
from rich.progress import track
from scipy import stats

from cvrbench.balancing import build_balancing
from cvrbench.config.compose import compose
from cvrbench.config.schema import Config
from cvrbench.data.batches import SplitTensors
from cvrbench.data.dataset import Dataset
from cvrbench.data.registry import ensure
from cvrbench.metrics.evaluation import score, selection_score
from cvrbench.metrics.spaces import spaces
from cvrbench.objectives import build_objective
from cvrbench.stats.difference import difference, row_difference, t_interval
from cvrbench.stats.influence import (
    Floats,
    Labels,
    Resampling,
    auc_draws,
    auc_influence,
    common_row_variance,
    row_variance,
)
from cvrbench.strategies import build_network
from cvrbench.system.rng import derive, numpy_stream
from cvrbench.training.callbacks import ignore
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.device import torch_settings
from cvrbench.training.evaluator import Predictions, predict
from cvrbench.training.loop import Callbacks, Task, TrainingJob, fit

DRAWS, CHUNKS = 300, 250
CPU = torch.device("cpu")
LOG = (
    "dataset=synthetic",
    "dataset.rows=810000",
    "dataset.users=40000",
    "dataset.items=300",
    "dataset.zipf=0.3",
    "dataset.click_rate=0.3",
    "dataset.conversion_rate=0.3",
    "dataset.split=user",
    "dataset.valid_fraction=0.0025",
    "dataset.test_fraction=0.9875",
)
TRAINER = (
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.epochs=2",
    "trainer.evaluations_per_epoch=1",
    "trainer.batch_size=512",
    "trainer.learning_rate=0.01",
    "trainer.embedding_learning_rate=0.05",
)
NETWORK = ("model.embedding_dim=8", "model.hidden=[32,16]", "model.tower=[8]")


@cache
def settings(model: str, folder: Path, *words: str) -> Config:
    """Compose a strategy's configuration, as the command line would; later words win."""
    ours = [f"model={model}", f"data_dir={folder}", *LOG, *TRAINER, *NETWORK]
    return compose([*ours, *words]).config


@dataclass
class Bench:
    """The log, and the trainings on it."""

    folder: Path
    dataset: Dataset
    chunks: int = CHUNKS

    def __post_init__(self) -> None:
        schema = self.dataset.schema
        self.train = SplitTensors.load(self.dataset.train, schema, CPU)
        self.valid = SplitTensors.load(self.dataset.valid, schema, CPU)
        self.pool = SplitTensors.load(self.dataset.test, schema, CPU)
        users, codes = np.unique(self.dataset.test.groups, return_inverse=True)
        self.chunk_of_row = numpy_stream(0, "chunks").integers(0, self.chunks, len(users))[codes]

    def predictions(self, config: Config, seed: int, rows: Labels) -> Predictions:
        """Train one network and predict the rows `[n]` of the pool."""
        config = replace(config, seed=seed)
        objective = build_objective(config.objective, self.dataset.schema)
        names = [task.name for task in self.dataset.schema.tasks]
        balancing = build_balancing(config.balancing, names, names)
        valid = self.dataset.valid

        def mean_auc(found: Predictions) -> tuple[float, dict[str, float | None]]:
            scores = score(self.dataset.schema, valid.labels, *found, kinds=("auc",))
            chosen = selection_score(scores.metrics, names, "mean_auc", scores.undefined)
            return chosen, scores.metrics

        with tempfile.TemporaryDirectory() as checkpoints, torch_settings(config.trainer, CPU):
            torch.manual_seed(derive(seed, "init"))
            network = build_network(config, self.dataset.schema)
            callbacks = Callbacks("train", StageFiles(Path(checkpoints), 0), ignore, lambda: False)
            fit(
                TrainingJob(
                    network,
                    self.train,
                    self.valid,
                    Task(objective, balancing, mean_auc),
                    config.trainer,
                    config.trainer.epochs,
                    seed,
                    callbacks,
                )
            )
            index = torch.from_numpy(rows)
            part = SplitTensors(*(tensor[index] for tensor in self.pool[:3]), (), None)
            return predict(network, part, objective, batch_size=8192)

    def repetition(self, number: int) -> Row:
        """Train all networks of a repetition and test them on its chunk."""
        rows = np.flatnonzero(self.chunk_of_row == number)
        seeds = [derive(number, "aa", k) for k in range(2 * max(SEEDS))]
        first, other = seeds[: max(SEEDS)], seeds[max(SEEDS) :]
        shared, single = (settings(of, self.folder) for of in ("shared_bottom", "single_task"))
        arms = {
            "first": [self.predictions(shared, seed, rows) for seed in first],
            "again": [self.predictions(shared, seed, rows) for seed in other],
            "alone": [self.predictions(single, seed, rows) for seed in first],
        }
        labels, groups = self.dataset.test.labels[rows], self.dataset.test.groups[rows]
        tasks = self.dataset.schema.tasks
        measured = {
            name: [
                {s.name: (s.take(s.label), s.take(s.predicted), s.take(groups)) for s in found}
                for found in (spaces(tasks, labels, *run) for run in runs)
            ]
            for name, runs in arms.items()
        }
        found: Row = {"repetition": number, "rows": len(rows), "users": len(np.unique(groups))}
        for metric in METRICS:
            per_arm = {a: [run[metric] for run in runs] for a, runs in measured.items()}
            found[metric] = compare_all(per_arm, number)
        return found


Run = tuple[Labels, Floats, Labels]
"""Labels, scores and users of one space's rows."""


def compare_all(arms: dict[str, list[Run]], number: int) -> Row:
    """Test the two arms of one strategy, and the one against another, at every number of seeds."""
    labels, _, groups = arms["first"][0]
    resampling = Resampling(rows=len(labels), groups=groups, draws=DRAWS, seed=number)
    influence = {a: [auc_influence(labels, run[1]) for run in runs] for a, runs in arms.items()}
    draws = {a: [auc_draws(labels, run[1], resampling) for run in runs] for a, runs in arms.items()}
    own = {a: [auc_of(labels, run[1]) for run in runs] for a, runs in arms.items()}
    found: Row = {"rows": len(labels), "positives": int(labels.sum())}
    for name, one, another in (("same", "again", "first"), ("different", "alone", "first")):
        gains = np.subtract(own[one], own[another])
        moves = np.subtract(influence[one], influence[another])
        redrawn = np.subtract(draws[one], draws[another])
        found[name] = {
            str(n): verdicts(gains[:n], moves[:n], redrawn[:n], labels, groups) for n in SEEDS
        }
    return found


def auc_of(labels: Labels, scores: Floats) -> float:
    """AUC from midranks (Mann and Whitney 1947), so that nothing tests itself."""
    positives = int(labels.sum())
    ranks = stats.rankdata(scores)[labels == 1].sum()
    pairs = positives * (len(labels) - positives)
    return float((ranks - positives * (positives + 1) / 2) / pairs)


def verdicts(
    gains: Floats, moves: Floats, redrawn: Floats, labels: Labels, groups: Labels
) -> dict[str, Any]:
    """Every test's finding, and every interval, of some seeds' differences `[seeds]`."""
    mean, spread, _ = t_interval(gains.tolist())
    one = row_difference(gains[0], row_variance(moves[0], labels))
    codes = np.unique(groups, return_inverse=True)[1]
    of_users = np.array([np.bincount(codes, weights=seed) for seed in moves])
    both = difference(gains.tolist(), row_variance(of_users.mean(axis=0)))
    once = difference(gains.tolist(), common_row_variance(of_users))
    low, high = np.nanquantile(redrawn.mean(axis=0), (0.025, 0.975))
    return {
        "mean": mean,
        "of_seeds": both.of_seeds,
        "of_rows": both.of_rows,
        "of_rows_in_common": once.of_rows,
        "found": {
            "t": stats.ttest_1samp(gains, 0.0).pvalue < LEVEL,
            "Wilcoxon": stats.wilcoxon(gains).pvalue < LEVEL,
            "DeLong": one.p < LEVEL,
            "bootstrap": not low <= 0 <= high,
            "both": both.p < LEVEL,
            "both, once": once.p < LEVEL,
        },
        "interval": {
            "t": (mean - spread, mean + spread),
            "DeLong": (one.mean - one.half_width, one.mean + one.half_width),
            "bootstrap": (low, high),
            "both": (mean - both.half_width, mean + both.half_width),
            "both, once": (mean - once.half_width, mean + once.half_width),
        },
    }


def main() -> None:
    """Draw the repetitions that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=CHUNKS, help=f"at most {CHUNKS}")
    parser.add_argument("--slice", default="1/1", metavar="K/N", help="draw every N-th only")
    parser.add_argument("--out", type=Path, required=True, help="keep repetitions there")
    parser.add_argument("--data", type=Path, help="keep the prepared log there")
    options = parser.parse_args()
    part, parts = map(int, options.slice.split("/"))
    wanted = range(min(options.repetitions, CHUNKS))[part - 1 :: parts]

    done = {row["repetition"] for row in kept(options.out)}
    missing = [number for number in wanted if number not in done]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        if missing:
            config = settings("shared_bottom", folder)
            bench = Bench(folder, ensure(config.dataset, "synthetic", folder))
        for number in track(missing, console=Console(stderr=True), transient=True):
            line = json.dumps(bench.repetition(number)) + "\n"
            with options.out.open("a") as file:
                file.write(line)
    rows = [row for row in kept(options.out) if row["repetition"] < options.repetitions]
    print(f"{len(rows)} repetitions, at 5 per cent; an honest test gives")
    margin = 1.96 * math.sqrt(LEVEL * (1 - LEVEL) / len(rows))
    print(f"5.0 % ± {margin:.1%} false findings, an honest interval covers 95.0 % ± {margin:.1%}\n")
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
