"""The tables of `benchmarks.aa_study`, from the lines that it keeps."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]
LEVEL, SEEDS = 0.05, (3, 5)
TESTS = ("t", "Wilcoxon", "DeLong", "bootstrap", "both", "both, once")
COVERING = ("t", "DeLong", "bootstrap", "both", "both, once")
METRICS = {"ctr": "CTR AUC", "cvr": "CVR AUC (clicked)", "ctcvr": "CTCVR AUC"}
Hits = Callable[[Sequence[Row], str, str], list[bool]]
"""Repetitions of one metric, number of seeds, test -> whether each repetition is a hit."""


def kept(file: Path) -> list[Row]:
    """Give the repetitions that were drawn before."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Give the two Markdown tables, line by line."""
    yield from table("False findings in %, A/A", TESTS, rows, false_findings)
    yield ""
    yield from table("Coverage in %", COVERING, rows, coverage)
    yield ""
    for metric, label in METRICS.items():
        of = [row[metric] for row in rows]
        rest = {k: np.mean([row[k] for row in of]) for k in ("rows", "positives")}
        truth = np.mean([row["different"]["5"]["mean"] for row in of])
        parts = {
            kind: np.sqrt(
                [
                    np.mean([row[kind]["5"][part] for row in of])
                    for part in ("of_seeds", "of_rows", "of_rows_in_common")
                ]
            )
            for kind in ("same", "different")
        }
        told = "; ".join(
            f"{kind}: seed {seed:.4f}, rows {both:.4f}, in common {common:.4f}"
            for kind, (seed, both, common) in parts.items()
        )
        yield (
            f"{label}: {rest['rows']:,.0f} rows, {rest['positives']:,.0f} positives; "
            f"true difference {truth:+.4f}; deviation by one seed, and of the mean by rows: {told}"
        )


def table(title: str, tests: Sequence[str], rows: Sequence[Row], hits: Hits) -> Iterator[str]:
    """Give one table: a line per metric and number of seeds."""
    yield f"| {title} | seeds | {' | '.join(tests)} |"
    yield "|---" * (len(tests) + 2) + "|"
    for metric, label in METRICS.items():
        for seeds in SEEDS:
            of = [row[metric] for row in rows]
            cells = [cell(hits(of, str(seeds), test)) for test in tests]
            yield f"| {label} | {seeds} | {' | '.join(cells)} |"


def false_findings(rows: Sequence[Row], seeds: str, test: str) -> list[bool]:
    """Give whether each repetition found a difference between a strategy and itself."""
    return [row["same"][seeds]["found"][test] for row in rows]


def coverage(rows: Sequence[Row], seeds: str, test: str) -> list[bool]:
    """Give whether each repetition's interval holds what all others found on average."""
    means = np.array([row["different"][str(max(SEEDS))]["mean"] for row in rows])
    truths = (means.sum() - means) / (len(means) - 1)
    ends = [row["different"][seeds]["interval"][test] for row in rows]
    return [bool(low <= truth <= high) for (low, high), truth in zip(ends, truths, strict=True)]


def cell(hits: Sequence[bool]) -> str:
    """Give a share in per cent, with its 95 % interval (Clopper and Pearson, Biometrika 1934)."""
    low, high = stats.binomtest(sum(hits), len(hits)).proportion_ci(0.95)
    return f"{100 * sum(hits) / len(hits):.1f} ({100 * low:.1f} to {100 * high:.1f})"
