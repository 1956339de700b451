"""Exact AUC and GAUC beside one sort of the scores, beside scikit-learn, and what they hold.

    python -m benchmarks.evaluation_speed [--rows 43000000] [--repeats 3]

43 M rows are Ali-CCP's test split: 3.9 per cent clicks, about 107 rows a user, float64 scores. The
floor is `numpy.sort` or `torch.sort` of the same array, whichever is faster. Every pass is a fresh
process that reads the arrays from disk first, so that its peak memory is its own; they take turns.
All use one core and are timed by its own seconds, which leave out what else the machine does.
Scores of two decimals show ties: sorting them is cheaper, and ratios to it are larger.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from benchmarks.figures import Figure, print_table

from cvrbench import metrics
from cvrbench.data.schema import Schema, Task
from cvrbench.metrics.evaluation import score

Array = npt.NDArray[Any]
ROWS, QUICK_ROWS = 43_000_000, 300_000
ROWS_PER_USER = 107
MOST_SORTS, LEAST_TIMES, LARGEST_ERROR = 1.5, 3.0, 1e-12
TASKS = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
)


class Rows(NamedTuple):
    """What is evaluated, `[rows]` each."""

    clicks: Array
    scores: Array
    users: Array


class Pass(NamedTuple):
    """One run of one piece of work."""

    value: float
    seconds: float
    bytes_per_row: float
    """Peak beyond the inputs; NaN where the system does not tell."""


def draw(rows: int, folder: Path) -> None:
    """Write rows that look like a test split's predictions."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-3.6, 1.1, rows)
    scores = 1 / (1 + np.exp(-logits))
    np.save(folder / "scores.npy", scores)
    np.save(folder / "tied.npy", scores.round(2))
    np.save(folder / "clicks.npy", (rng.random(rows) < scores).astype(np.uint8))
    np.save(folder / "users.npy", rng.integers(0, rows // ROWS_PER_USER + 1, rows))


def sort_by_numpy(rows: Rows) -> float:
    return float(np.sort(rows.scores)[-1])


def sort_by_torch(rows: Rows) -> float:
    import torch

    torch.set_num_threads(1)
    return float(torch.sort(torch.from_numpy(rows.scores))[0][-1])


def auc(rows: Rows) -> float:
    return metrics.auc(rows.clicks, rows.scores)


def gauc(rows: Rows) -> float:
    return metrics.gauc(rows.clicks, rows.scores, rows.users).value


def scikit_learn(rows: Rows) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(rows.clicks, rows.scores))


def validation(rows: Rows) -> float:
    """What training asks of a split at every look: AUC and log loss in three spaces."""
    labels = np.stack([rows.clicks, rows.clicks & (rows.users % 50 == 0)], axis=1)
    conditional = np.stack([rows.scores, rows.scores], axis=1)
    schema = Schema(
        name="rows", categorical=(), multivalued=(), numeric=(), tasks=TASKS, group="user",
        rows={}, fingerprint="",
    )  # fmt: skip
    found = score(schema, labels, conditional, conditional**2, rows.users, kinds=("auc", "logloss"))
    return found.metrics["ctcvr_auc"] or 0.0


Work = Callable[[Rows], float]


def one_pass(folder: Path, work: Work, scores: str) -> Pass:
    """Read the rows, warm up on a few, and do the work once; in a process of its own."""
    rows = Rows(*(np.load(folder / f"{name}.npy") for name in ("clicks", scores, "users")))
    work(Rows(*(column[:20_000] for column in rows)))
    held = _memory("VmRSS", forget_peak=True)
    begun = time.process_time()
    value = work(rows)
    seconds = time.process_time() - begun
    return Pass(value, seconds, (_memory("VmHWM") - held) / len(rows.scores))


def _memory(kind: str, *, forget_peak: bool = False) -> float:
    """Bytes that Linux says this process holds, or held at most; NaN elsewhere."""
    status, peak = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.is_file():
        return float("nan")
    if forget_peak:
        peak.write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith(kind))
    return 1024.0 * int(line.split()[1])


def in_turns(
    folder: Path, works: dict[str, Work], scores: str, repeats: int
) -> dict[str, list[Pass]]:
    """Do each work that often, one after the other."""
    found: dict[str, list[Pass]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found[name].append(pool.submit(one_pass, folder, work, scores).result())
    return found


def measure(*, quick: bool, rows: int | None = None, repeats: int = 3) -> Iterator[Figure]:
    """Measure the floor, ours and scikit-learn's, then ties."""
    rows = rows or (QUICK_ROWS if quick else ROWS)
    works: dict[str, Work] = {
        "numpy": sort_by_numpy, "auc": auc, "gauc": gauc, "validation": validation,
        "scikit-learn": scikit_learn, "torch": sort_by_torch,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        draw(rows, Path(folder))
        found = in_turns(Path(folder), works, "scores", 1 if quick else repeats)
        # Few rows fit a cache, where sorting them costs less for each.
        yield from _distinct(found, None if quick else MOST_SORTS)
        of_ties = {name: works[name] for name in ("numpy", "auc", "gauc", "scikit-learn")}
        tied = in_turns(Path(folder), of_ties, "tied", 1 if quick else repeats)
        for name in ("auc", "gauc"):
            yield _beside_sort(f"tied/{name}", tied[name], tied["numpy"], None)
        yield _error("tied/auc", tied)


def _distinct(found: dict[str, list[Pass]], most_sorts: float | None) -> Iterator[Figure]:
    floor = min(("numpy", "torch"), key=lambda name: _median(found[name]))
    for name in ("auc", "gauc"):
        yield _beside_sort(name, found[name], found[floor], most_sorts)
    yield _beside_sort("validation", found["validation"], found[floor], None)
    yield Figure(
        name="evaluate/auc/scikit-learn",
        value=_ratio(found["scikit-learn"], found["auc"]),
        unit="times faster",
        at_least=LEAST_TIMES,
        detail=f"{_median(found['scikit-learn']):.3g} s, ours {_median(found['auc']):.3g} s",
    )
    yield _error("auc", found)
    for name in ("auc", "gauc", "scikit-learn"):
        held = max(run.bytes_per_row for run in found[name])
        yield Figure(name=f"evaluate/{name}/memory", value=held, unit="bytes a row")


def _beside_sort(name: str, ours: list[Pass], floor: list[Pass], at_most: float | None) -> Figure:
    return Figure(
        name=f"evaluate/{name}/sort",
        value=_ratio(ours, floor),
        unit="sorts of the scores",
        at_most=at_most,
        detail=f"{_median(ours):.3g} s, one sort {_median(floor):.3g} s",
    )


def _error(name: str, found: dict[str, list[Pass]]) -> Figure:
    ours, theirs = found["auc"][0].value, found["scikit-learn"][0].value
    return Figure(
        name=f"evaluate/{name}/error",
        value=abs(ours - theirs),
        unit="from scikit-learn",
        at_most=LARGEST_ERROR,
        detail=f"AUC {ours:.6f}",
    )


def _ratio(above: list[Pass], below: list[Pass]) -> float:
    return statistics.median(a.seconds / b.seconds for a, b in zip(above, below, strict=True))


def _median(passes: list[Pass]) -> float:
    return statistics.median(one.seconds for one in passes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print_table(list(measure(quick=False, rows=options.rows, repeats=options.repeats)))


if __name__ == "__main__":
    main()
