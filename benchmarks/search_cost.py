"""What a mask search costs, and whether the cheap pipelines lose AUC against the naive one.

    python -m benchmarks.search_cost [dataset=kuairand ...] [--seeds 3]

Trains shared-bottom, NCS with its default search, iterative pruning as it is by default, and the
naive pipeline of the papers (each task alone, full epochs, no early end: tasks x rounds trainings
and the joint one; or one more each, to choose a candidate by validation) one after the other, seed
by seed in one process, so that a machine's mood meets all of them. Prints, per pipeline, wall clock
and training examples as multiples of shared-bottom's, and the mean AUC of every task.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from cvrbench import compose, run
from cvrbench.runs.record import RunRecord

NAIVE = ("model.together=false", "model.search.epochs=4", "model.early_bird=null")
PIPELINES = {
    "shared_bottom": ("model=shared_bottom",),
    "ncs (gradient_conflict)": ("model=ncs",),
    "imp": ("model=ncs", "model.search=imp"),
    "one_shot": ("model=ncs", "model.search=one_shot", "model.search.epochs=0.5"),
    "imp, naive": ("model=ncs", "model.search=imp", *NAIVE),
    "imp, naive, choosing": ("model=ncs", "model.search=imp", *NAIVE, "model.choice=validation"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", default=["dataset=synthetic"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    records: dict[str, list[RunRecord]] = {name: [] for name in PIPELINES}
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"results_dir={folder}", f"trainer.threads={options.threads}"]
        for seed in range(options.seeds):
            for name, words in PIPELINES.items():
                cell = compose([*options.overrides, *words, f"seed={seed}", *fixed])
                records[name].append(run(cell))
    _print(records, Path(options.overrides[0]).name)


def _print(records: dict[str, list[RunRecord]], title: str) -> None:
    base = records["shared_bottom"]
    spaces = list(base[0].counts["test"])
    print(f"{title}, {len(base)} seeds")
    print(f"| pipeline | wall clock | examples | {' | '.join(f'{s} AUC' for s in spaces)} |")
    print("|---|---:|---:|" + "---:|" * len(spaces))
    for name, runs in records.items():
        pairs = list(zip(runs, base, strict=True))
        clock = mean(r.seconds["total"] / b.seconds["total"] for r, b in pairs)
        examples = mean(sum(r.examples.values()) / sum(b.examples.values()) for r, b in pairs)
        aucs = [mean(r.metrics["test"][f"{space}_auc"] or 0 for r in runs) for space in spaces]
        numbers = " | ".join(f"{auc:.4f}" for auc in aucs)
        print(f"| {name} | {clock:.2f} | {examples:.2f} | {numbers} |")


if __name__ == "__main__":
    main()
