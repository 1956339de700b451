"""How often is a verdict wrong, and how small is the best set?

Tables of strategies are drawn many times with known means. The difference of two strategies has the
standard deviation `seeds` from seed to seed and `rows` from one draw of test rows to another; both
in AUC, and known truths in a column:

    alike      all means are equal
    one best   the first is 0.002 above all others, which are equal
    losers     all but the first three are 0.01 below these

For each: how often a strategy that is truly best was left out of the best set, how many were in it,
how often one alone was (a winner), and how often the bound on what a strategy gives up was wrong.

    python -m benchmarks.verdicts [--repetitions 500] [--json FILE]
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cvrbench.stats.best import Joint, best

DOUBTS = {"seeds": (0.001, 0.0002), "both": (0.001, 0.0005), "rows": (0.0003, 0.001)}
TRUTHS = {
    "alike": [0.0] * 9,
    "one best": [0.002, *[0.0] * 8],
    "losers": [0.0] * 3 + [-0.01] * 6,
}


def table(
    random: np.random.Generator, means: Sequence[float], seeds: int, doubt: tuple[float, float]
) -> Joint:
    """Draw what a table's runs would say of such strategies."""
    of_seeds, of_rows = (one / math.sqrt(2) for one in doubt)
    n = len(means)
    common = of_seeds * random.standard_normal(seeds)  # a seed that is easy for all
    noise = of_seeds * random.standard_normal((n, seeds))
    rows = of_rows * random.standard_normal((n, 1))
    values = 0.7 + np.array(means)[:, None] + common + noise + rows
    return Joint(values=values, of_rows=doubt[1] ** 2 * (1 - np.eye(n)))


def main() -> None:
    """Simulate every situation and print how often each went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the rates there as well")
    options = parser.parse_args()
    found = []
    situations = [(t, d, n) for t in TRUTHS for d in DOUBTS for n in (3, 5, 10)]
    for truth, doubt, seeds in track(situations, console=Console(stderr=True), transient=True):
        random = np.random.default_rng([seeds, [*TRUTHS].index(truth), [*DOUBTS].index(doubt)])
        means = np.array(TRUTHS[truth])
        top = means == means.max()
        judged = [
            best(table(random, TRUTHS[truth], seeds, DOUBTS[doubt]))
            for _ in range(options.repetitions)
        ]
        inside = np.array([one.inside for one in judged])
        wrong = [(one.loss < means.max() - means - 1e-12).any() for one in judged]
        found.append(
            {
                "truth": truth,
                "doubt": doubt,
                "seeds": seeds,
                "one best out": float((~inside[:, top]).mean()),
                "any best out": float((~inside[:, top]).any(axis=1).mean()),
                "set": float(inside.sum(axis=1).mean()),
                "winner": float((inside.sum(axis=1) == 1).mean()),
                "bound wrong": float(np.mean(wrong)),
            }
        )
    shown = Table(*found[0], box=None, pad_edge=False)
    for one in found:
        shown.add_row(
            *(
                f"{v:.1%}"
                if isinstance(v, float) and k != "set"
                else f"{v:.3g}"
                if isinstance(v, float)
                else str(v)
                for k, v in one.items()
            )
        )
    Console().print(shown)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
