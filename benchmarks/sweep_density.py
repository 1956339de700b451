"""Does a sweep find the density that is best? The truth is measured first, on a grid.

On the default planted log (fewer rows) every density of a grid is trained with several seeds; then
sweeps, which know nothing of it, search the same interval with other seeds. Shown are the curve,
the densities that are as good as its best within the seeds' noise, and where each sweep ended up.

    python benchmarks/sweep_density.py [ROWS] [SEEDS] [TRIALS]
"""

import statistics
import sys
import tempfile
from pathlib import Path

from cvrbench import experiment
from cvrbench.config.compose import compose
from cvrbench.config.launcher import LocalConfig
from cvrbench.stats import t_interval
from cvrbench.sweep.conduct import tune
from cvrbench.sweep.plan import check_studies, plan_studies

GRID = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
INTERVAL = "tag(log,interval(0.02,1))"


def main(rows: int, n_seeds: int, n_trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "model=ncs", f"dataset.rows={rows}", "trainer.threads=1", f"data_dir={folder}/data",
            f"results_dir={folder}/results", "protocol.score_test=false",
        ]  # fmt: skip
        curve = measure(common, n_seeds, Path(folder) / "searches")
        best = max(curve, key=lambda density: curve[density].mean)
        noise = curve[best].half_width or 0.0
        region = [d for d in GRID if curve[d].mean >= curve[best].mean - noise]
        print(f"\n{rows:,} rows, CVR AUC on validation, {n_seeds} seeds\n")
        for density, estimate in curve.items():
            mark = "  <- region" if density in region else ""
            print(f"  {density:5.2f}  {estimate.mean:.4f} ± {estimate.half_width:.4f}{mark}")
        print(f"\nregion: {min(region)} to {max(region)}, best {best}")
        for number in range(3):
            found, spent, reused = search([*common[:-1], f"seed={number}"], n_trials)
            inside = min(region) <= found <= max(region)
            saved = 100 * reused / (spent + reused)
            print(
                f"  sweep {number}: density {found:.3f}, {'in' if inside else 'NOT in'} the "
                f"region; {spent:,} examples, {saved:.0f} % saved by sharing"
            )


def measure(common: list[str], n_seeds: int, searches: Path):
    """Mean and interval of every density of the grid."""
    found = {}
    for density in GRID:
        values = []
        for seed in range(n_seeds):
            cell = compose([*common, f"model.density={density}", f"seed={seed}"])
            record = experiment.run(cell, searches=searches)
            values.append(record.metrics["valid"]["cvr_auc"])
        found[density] = t_interval(values)
        print(f"  grid {density}: {statistics.mean(values):.4f}", flush=True)
    return found


def search(words: list[str], n_trials: int) -> tuple[float, int, int]:
    """Density, examples and examples saved of one sweep."""
    (plan,) = plan_studies(
        [*words, f"model.density={INTERVAL}", f"trials={n_trials}", "seeds=[1000,1001]"],
        multirun=False,
    )
    check_studies([plan])
    summary = tune(plan, LocalConfig(kind="local"), on_summary=lambda _: None, on_trial=nobody)
    best = summary.trials[summary.best[0]]
    return (
        float(best.params["model.density"]),
        int(summary.spent["examples"]),
        int(summary.spent["reused"]),
    )


def nobody(_number: int, _now: object) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [40_000, 3, 12][len(given) :]))
