"""Make a published table and its pictures anew: the runs, the report, the files in docs/images.

    python -m benchmarks.published                     what there is, and what it takes
    python -m benchmarks.published readme comparison   run, print the tables, write the pictures
    python -m benchmarks.published ladder --workers 2  two runs at a time, of one thread each

Each name has a results folder of its own below `--results`, in which finished runs are only read,
so that a stopped command goes on. Raw data must be where `cvrbench data prepare` finds them below
`--data`. Tables are printed in Markdown; they belong on the page that is named, with the day, the
version and `NUMBERS` that stand above them.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import cvrbench
from cvrbench.config.folder import find_conf
from cvrbench.runs.record import NUMBERS

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SEEDS = "seed=0..4"
SIX = "model=single_task,shared_embedding,shared_bottom,mmoe,ple,ncs"
EIGHT = "model=single_task,shared_embedding,shared_bottom,omoe,mmoe,cgc,ple,ncs"
BOTH = "dataset=kuairand,census_income"
SMALL = "dataset=synthetic dataset.rows=40000"
WATCH = "dataset=kuairand_watch objective.losses={cvr:{kind:mse}}"
FRESH = "seed=5..9"
METHODS = ",".join(kind for kind in find_conf().groups["balancing"] if kind != "weighted")
WEIGHTS = "{cvr:0.1},{cvr:0.3},{cvr:3.0},{cvr:10.0}"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Tables and pictures of one page."""

    page: str
    runs: tuple[str, ...]
    """Command lines of `cvrbench` that train, without `trainer.threads` and folders."""
    tables: str
    """The command line that prints the tables: of `cvrbench`, or `python -m`."""
    minutes: int
    """Processor time on one thread of an idle AMD EPYC, by old records; about."""
    pictures: tuple[str, ...] = ()
    """Files in docs/images: a figure of the report without the key of its data."""


PUBLISHED = {
    "readme": Published(
        page="README.md",
        runs=("run model=ncs", "run -m model=single_task,shared_bottom,mmoe,ncs seed=0,1,2"),
        tables="cvrbench report --format md",
        minutes=5,
        pictures=("synthetic.png",),
    ),
    "comparison": Published(
        page="docs/results/comparison-on-kuairand.md",
        runs=(
            f"run -m {BOTH} {SEEDS} {SIX}",
            f"run -m {BOTH} {SEEDS} model=ncs model.search=random,identical",
            f"run -m {BOTH} {SEEDS} model=ncs model.search=shuffled,unshared model.search.base=imp",
        ),
        tables="cvrbench report --format md",
        minutes=110,
        pictures=(
            *(f"{kind}-kuairand.png" for kind in ("forest", "seesaw", "learning", "cost")),
            *("calibration-kuairand.png", "forest-census_income.png", "ranks.png"),
        ),
    ),
    "watch": Published(
        page="docs/results/comparison-on-kuairand.md",
        runs=(
            f"run -m {WATCH} {SEEDS} {SIX}",
            f"run -m {WATCH} {SEEDS} model=ncs model.search=random,identical",
            f"run -m {WATCH} {SEEDS} model=ncs model.search=shuffled,unshared "
            "model.search.base=imp",
        ),
        tables="cvrbench report --metric cvr_rmse --format md",
        minutes=60,
    ),
    "scarcity": Published(
        page="docs/results/scarce-conversions.md",
        runs=("run experiment=conversion_scarcity dataset=kuairand",),
        tables="cvrbench report --baseline single_task --format md",
        minutes=45,
        pictures=("scarcity-kuairand.png",),
    ),
    "ladder": Published(
        page="docs/results/ncs-ladder.md",
        runs=(
            *(
                f"run experiment=ncs_ablation {data}"
                for data in (
                    "dataset=kuairand",
                    "dataset=kuairand_like",
                    *(f"{SMALL} dataset.conflict={conflict}" for conflict in (0, 1, 3)),
                )
            ),
            *(
                f"run -m dataset=kuairand,kuairand_like {FRESH} {rest}"
                for rest in (
                    "model=shared_embedding,shared_bottom",
                    "model=ncs model.search=learned,random",
                    "model=ncs model.search=one_shot model.search.epochs=0.5",
                )
            ),
        ),
        tables="python -m benchmarks.ladder_table {results}",
        minutes=100,
    ),
    "tuned": Published(
        page="docs/results/tuned-strategies.md",
        runs=(f"sweep -m {EIGHT} dataset=kuairand sweep=equal_budget pruner=median",),
        tables="cvrbench report --format md",
        minutes=70,
    ),
    "debiasing": Published(
        page="docs/results/debiasing.md",
        runs=(
            *(f"run experiment=debiasing {SMALL} dataset.selection_bias={n}" for n in (0, 1, 2)),
            *(f"run experiment=debiasing_kuairand dataset=kuairand{of}" for of in ("", "_like")),
        ),
        tables="cvrbench report --format md",
        minutes=70,
    ),
    "balancing": Published(
        page="docs/results/balancing.md",
        runs=tuple(
            f"run -m {data} {SEEDS} model=shared_bottom {rest}"
            for data in (SMALL, "dataset=kuairand,kuairand_like")
            for rest in (f"balancing={METHODS}", f"balancing=weighted balancing.weights={WEIGHTS}")
        ),
        tables="cvrbench report --baseline shared_bottom --format md",
        minutes=150,
    ),
}
"""Name -> what is published under it. What other benchmarks print stands in their own modules."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PUBLISHED, []])
    parser.add_argument("--results", type=Path, default=Path("results") / "published")
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for name in options.names:
        make(PUBLISHED[name], options.results / name, options.data, options.workers)
    if not options.names:
        for name, one in PUBLISHED.items():
            print(f"{name:12} {one.minutes:4} min  {one.page}")
            print(*(f"{'':21}cvrbench {line}" for line in one.runs), sep="\n")


def make(published: Published, results: Path, data: Path, workers: int) -> None:
    """Train what is missing, print the tables, write the pictures."""
    where = [f"results_dir={results}", f"data_dir={data}", "trainer.threads=1"]
    for line in published.runs:
        alone = ["launcher.together=1"] if line.startswith("run") else []
        at_once = [f"workers={workers}"] if workers > 1 else alone
        _call("cvrbench", *shlex.split(line), *where, *at_once)
    print(f"\nfor {published.page}: {date.today()}, {cvrbench.__version__}, numbers {NUMBERS}\n")
    module, *words = shlex.split(published.tables.format(results=results).removeprefix("python -m"))
    figures = results / "figures"
    own = [str(results), "--figures", str(figures)] if module == "cvrbench" else []
    _call(module, *words, *own)
    for picture in published.pictures:
        stem = Path(picture).stem
        found = [
            p for p in figures.glob(f"{stem}*.png") if p.stem.count("-") <= stem.count("-") + 1
        ]
        if len(found) == 1:
            shutil.copyfile(found[0], IMAGES / picture)
        print(f"{picture}: {'written' if len(found) == 1 else f'{len(found)} figures fit'}")


def _call(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
