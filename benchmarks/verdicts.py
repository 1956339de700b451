"""How often is a verdict wrong, and how small is the best set?

Tables of strategies are drawn many times with known means. The difference of two strategies has the
standard deviation `seeds` from seed to seed and `rows` from one draw of test rows to another; both
in AUC, and known truths in a column:

    alike      all means are equal
    one best   the first is 0.002 above all others, which are equal
    losers     all but the first three are 0.01 below these

For each: how often a strategy that is truly best was left out of the best set, how many were in it,
how often one alone was (a winner), and how often the bound on what a strategy gives up was wrong.

With `--rounds` the same of seeds in rounds (`seeds=auto`, at most 20): the share of the runs of 20
fixed seeds that it took, how often it left out a best one, and how often its best set is that of
the fixed seeds.

With `--level`, how often any of equally good strategies was left out, by how seeds spread.

    python -m benchmarks.verdicts [--rounds | --level] [--repetitions 500] [--json FILE]
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cvrbench.report import MARGIN, MOST_SEEDS
from cvrbench.stats.best import Best, Bools, Joint, best
from cvrbench.stats.sequential import decided, looks, share

DOUBTS = {"seeds": (0.001, 0.0002), "both": (0.001, 0.0005), "rows": (0.0003, 0.001)}
TRUTHS = {
    "alike": [0.0] * 9,
    "one best": [0.002, *[0.0] * 8],
    "losers": [0.0] * 3 + [-0.01] * 6,
}


def table(
    random: np.random.Generator,
    means: Sequence[float],
    seeds: int,
    doubt: tuple[float, float],
    spread: float | np.ndarray = 1.0,
) -> Joint:
    """Draw what a table's runs would say of such strategies, `spread` times as wide over seeds."""
    of_seeds, of_rows = (one / math.sqrt(2) for one in doubt)
    n = len(means)
    common = of_seeds * random.standard_normal(seeds)  # a seed that is easy for all
    noise = of_seeds * random.standard_normal((n, seeds)) * np.reshape(spread, (-1, 1))
    rows = of_rows * random.standard_normal((n, 1))
    values = 0.7 + np.array(means)[:, None] + common + noise + rows
    return Joint(values=values, of_rows=doubt[1] ** 2 * (1 - np.eye(n)))


def fixed_table(repetitions: int) -> list[dict[str, object]]:
    """Simulate tables of a fixed number of seeds."""
    found: list[dict[str, object]] = []
    situations = [(t, d, n) for t in TRUTHS for d in DOUBTS for n in (3, 5, 10)]
    for truth, doubt, seeds in track(situations, console=Console(stderr=True), transient=True):
        random = np.random.default_rng([seeds, [*TRUTHS].index(truth), [*DOUBTS].index(doubt)])
        means = np.array(TRUTHS[truth])
        top = means == means.max()
        judged = [
            best(table(random, TRUTHS[truth], seeds, DOUBTS[doubt])) for _ in range(repetitions)
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
    return found


SPREADS = {
    "equal": [1.0],
    "every second three times as wide": [1.0, 3.0],
    "one a tenth as wide": [0.1, *[1.0] * 8],
}


def level_table(repetitions: int) -> list[dict[str, object]]:
    """Simulate tables in which all means are equal, by how much seeds spread."""
    found: list[dict[str, object]] = []
    situations = [(n, seeds, name) for n in (4, 9) for seeds in (2, 3, 5) for name in SPREADS]
    for n, seeds, name in track(situations, console=Console(stderr=True), transient=True):
        random = np.random.default_rng([n, seeds, [*SPREADS].index(name)])
        spread = np.resize(SPREADS[name], n)
        out = {}
        for label, rows in (("any out, seeds matter", 0.0002), ("any out, both matter", 0.0007)):
            tables = (
                table(random, [0.0] * n, seeds, (0.001, rows), spread) for _ in range(repetitions)
            )
            out[label] = float(np.mean([not best(one).inside.all() for one in tables]))
        found.append({"strategies": n, "seeds": seeds, "spread": name, **out})
    return found


IN_ROUNDS = {
    "alike, seeds matter": ([0.0] * 6, (0.001, 0.0002)),
    "alike, rows matter": ([0.0] * 6, (0.0005, 0.001)),
    "three losers, seeds matter": ([0.0, -0.0002, -0.002, *[-0.01] * 3], (0.001, 0.0002)),
    "three losers, both matter": ([0.0, -0.0002, -0.0002, *[-0.01] * 3], (0.0008, 0.0006)),
    "one best": ([0.0, *[-0.004] * 2, *[-0.01] * 3], (0.001, 0.0005)),
}


def in_rounds(n: int, so_far: Callable[[Bools], Joint]) -> tuple[int, Best]:
    """Return the runs that rounds take of `n` rows, and what they find.

    Args:
        n: Strategies.
        so_far: Which runs there are, `[n, seeds]` -> what these say.
    """
    have, stopped = np.zeros(n, np.int64), set()
    for look in looks(MOST_SEEDS):
        have[[k for k in range(n) if k not in stopped]] = look
        joint = so_far(np.arange(look) < have[:, None])
        found = best(joint)
        spent = np.array([share(MOST_SEEDS, seeds) for seeds in have.tolist()])
        found = found._replace(p=np.minimum(found.p / spent, 1.0))
        stopped |= set(decided(joint, found, MARGIN, MOST_SEEDS))
        if len(stopped) == n:
            break
    return int(have.sum()), found


def _seen(whole: Joint, known: Bools) -> Joint:
    values = np.where(known, whole.values[:, : known.shape[1]], np.nan)
    return Joint(values=values, of_rows=whole.of_rows)


def rounds_table(repetitions: int) -> list[dict[str, object]]:
    """Simulate seeds in rounds beside fixed ones."""
    found: list[dict[str, object]] = []
    for name, (means, doubt) in IN_ROUNDS.items():
        random = np.random.default_rng([7, len(found)])
        top = np.array(means) == max(means)
        runs = lost = lost_fixed = same = 0
        for _ in range(repetitions):
            whole = table(random, means, MOST_SEEDS, doubt)
            n, one = in_rounds(len(means), partial(_seen, whole))
            fixed = best(whole)
            runs += n
            lost += int((~one.inside[top]).any())
            lost_fixed += int((~fixed.inside[top]).any())
            same += int((one.inside == fixed.inside).all())
        found.append(
            {
                "truth": name,
                "runs": runs / repetitions / len(means) / MOST_SEEDS,
                "any best out": lost / repetitions,
                "any best out, fixed": lost_fixed / repetitions,
                "same set": same / repetitions,
            }
        )
    return found


def main() -> None:
    """Simulate every situation and print how often each went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the rates there as well")
    parser.add_argument("--rounds", action="store_true", help="seeds in rounds, not fixed ones")
    parser.add_argument("--level", action="store_true", help="any best row out, all being alike")
    options = parser.parse_args()
    make = rounds_table if options.rounds else level_table if options.level else fixed_table
    found = make(options.repetitions)
    shown = Table(*found[0], box=None, pad_edge=False)
    for one in found:
        shown.add_row(*(_cell(key, value) for key, value in one.items()))
    Console().print(shown)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _cell(key: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if key == "set" else f"{value:.1%}"


if __name__ == "__main__":
    main()
