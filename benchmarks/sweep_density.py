"""Does a sweep find the density that is best? The truth is measured first, on a grid.

On the default planted log every density of a grid is trained with several seeds; then sweeps, which
know nothing of it, search the same interval with other seeds. Shown are the curve, the densities
that are as good as its best within the seeds' noise, and where each sweep ended up.

The objective is CTR AUC and the masks are random: there density matters on this log, because sparse
networks stay on a plateau of training. For CVR AUC the curve is flat within its noise, and any
density would be "found".

    python -m benchmarks.sweep_density [ROWS] [SEEDS] [TRIALS]
"""

import math
import statistics
import sys
import tempfile
from pathlib import Path

from cvrbench.config.compose import compose
from cvrbench.config.runtime import LocalConfig
from cvrbench.runs import experiment
from cvrbench.sweep.run_study import tune
from cvrbench.sweep.study import check_studies, plan_studies

GRID = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
INTERVAL = "tag(log,interval(0.05,1))"


def main(rows: int, n_seeds: int, n_trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "model=ncs", "model.search=random", f"dataset.rows={rows}", "trainer.threads=1",
            f"data_dir={folder}/data", f"results_dir={folder}/results",
            "protocol.score_test=false",
        ]  # fmt: skip
        curve = measure(common, n_seeds, Path(folder) / "searches")
        means = {density: statistics.mean(values) for density, values in curve.items()}
        best = max(means, key=means.__getitem__)
        # Seeds are few: their spread is taken to be the same at every density.
        spread = math.sqrt(statistics.mean(statistics.variance(v) for v in curve.values()))
        noise = 2 * spread * math.sqrt(2 / n_seeds)
        region = [d for d in GRID if means[d] >= means[best] - noise]
        print(f"\n{rows:,} rows, CTR AUC on validation, {n_seeds} seeds, noise {noise:.4f}\n")
        for density, mean in means.items():
            print(f"  {density:5.2f}  {mean:.4f}{'  <- region' if density in region else ''}")
        print(f"\nregion: {min(region)} to {max(region)}, best {best}")
        for number in range(2):
            found = search([*common[:-1], f"seed={number}"], n_trials)
            inside = min(region) <= found <= max(region)
            print(
                f"  sweep {number}, {n_trials} trials: density {found:.3f}, "
                f"{'in' if inside else 'NOT in'} the region",
                flush=True,
            )


def measure(common: list[str], n_seeds: int, searches: Path) -> dict[float, list[float]]:
    """CTR AUC of every density of the grid, per seed."""
    found = {}
    for density in GRID:
        values = []
        for seed in range(n_seeds):
            cell = compose([*common, f"model.density={density}", f"seed={seed}"])
            record = experiment.run(cell, searches=searches)
            values.append(record.metrics["valid"]["ctr_auc"])
        found[density] = values
        print(f"  grid {density}: {statistics.mean(values):.4f}", flush=True)
    return found


def search(words: list[str], n_trials: int) -> float:
    """Give the density that one sweep found."""
    (plan,) = plan_studies(
        [*words, f"model.density={INTERVAL}", f"trials={n_trials}", "objectives=[ctr_auc]"],
        multirun=False,
    )
    check_studies([plan])
    summary = tune(
        plan, LocalConfig(kind="local"), on_summary=nobody, on_trial=nobody, on_done=nobody
    )
    return float(summary.trials[summary.best[0]].params["model.density"])


def nobody(*_: object) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [200_000, 2, 8][len(given) :]))
