"""How often does a test of two AUCs see a difference where there is none?

Two strategies of the same distribution are drawn many times, so that every finding is a false one.
Row i's score under strategy k and seed s is

    score = quality[k, s] * y_i + signal_i + own[k, i] + noise[k, s, i],

with `quality` varying from seed to seed (doubt about training) and `own`, what a strategy always
makes of a row, varying from row to row (doubt about the test rows). Four tests at 5 per cent, and
those with both doubts at 1 per cent too, where Holm's procedure reads p over 5 rows:

    seeds only   paired t-test over the seeds' differences
    rows only    DeLong's paired test of the first seed's two models
    both         `cvrbench.stats.difference.difference` with the variance of the seeds' mean over
                 redrawn rows
    both, once   the same with the variance of what the seeds have in common

    python -m benchmarks.false_positives [--repetitions 2000] [--json FILE]
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats as scipy_stats

from cvrbench.metrics import auc
from cvrbench.stats.difference import difference
from cvrbench.stats.influence import auc_influence, common_row_variance, row_variance

POSITIVES, NEGATIVES = 300, 900
LEVEL, SHARP_LEVEL = 0.05, 0.01
SITUATIONS = {
    "rows dominate": {"seed_spread": 0.02, "row_spread": 0.6},
    "both matter": {"seed_spread": 0.10, "row_spread": 0.3},
    "seeds dominate": {"seed_spread": 0.20, "row_spread": 0.02},
}
TESTS = ("seeds only", "rows only", "both", "both, once")
SHARP = ("both", "both, once")


def p_values(
    rng: np.random.Generator, seeds: int, *, seed_spread: float, row_spread: float
) -> tuple[float, ...]:
    """Draw one comparison without a difference; give each test's p-value."""
    labels = np.repeat([1, 0], [POSITIVES, NEGATIVES])
    signal = rng.standard_normal(len(labels))
    scores = np.empty((2, seeds, len(labels)))
    for strategy in scores:
        own = row_spread * rng.standard_normal(len(labels))
        for row in strategy:
            quality = 1.0 + seed_spread * rng.standard_normal()
            row[:] = quality * labels + signal + own + 0.3 * rng.standard_normal(len(labels))
    gains = [auc(labels, one) - auc(labels, other) for one, other in zip(*scores, strict=True)]
    influence = [
        auc_influence(labels, one) - auc_influence(labels, other)
        for one, other in zip(*scores, strict=True)
    ]
    by_seeds = float(scipy_stats.ttest_1samp(gains, 0.0).pvalue)
    first = gains[0] / math.sqrt(row_variance(influence[0], labels))
    by_both = difference(gains, row_variance(np.mean(influence, axis=0), labels)).p
    once = difference(gains, common_row_variance(np.array(influence), labels)).p
    return by_seeds, float(2 * scipy_stats.norm.sf(abs(first))), by_both, once


def main() -> None:
    """Simulate every situation and print the share of false findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rates there as well")
    options = parser.parse_args()

    settings = [(name, seeds) for name in SITUATIONS for seeds in (3, 5, 10)]
    rates = []
    for name, seeds in track(settings, console=Console(stderr=True), transient=True):
        rng = np.random.default_rng([options.seed, seeds, list(SITUATIONS).index(name)])
        drawn = [p_values(rng, seeds, **SITUATIONS[name]) for _ in range(options.repetitions)]
        p = dict(zip(TESTS, np.array(drawn).T, strict=True))
        shares = {test: (p[test] < LEVEL).mean() for test in TESTS}
        shares |= {f"{test}, at 1 %": (p[test] < SHARP_LEVEL).mean() for test in SHARP}
        rates.append({"situation": name, "seeds": seeds, **shares})

    out = Console()
    columns = list(rates[0])[2:]
    table = Table("situation", "seeds", *columns, box=None, pad_edge=False)
    for rate in rates:
        cells = (f"{rate[column]:.1%}" for column in columns)
        table.add_row(rate["situation"], str(rate["seeds"]), *cells)
    out.print(table)
    for level in (LEVEL, SHARP_LEVEL):
        error = 1.96 * math.sqrt(level * (1 - level) / options.repetitions)
        out.print(
            f"{options.repetitions:,} draws each; an honest test gives {level:.1%} ± {error:.1%}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
