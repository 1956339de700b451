"""How long does a report over many runs take, and of what floor?

Writes a results folder of made-up runs, each with its record, its looks at validation and its
predictions on the same test rows, and times `cvrbench report` on it as a user would start it. The
floor is what nobody can leave out: to read every prediction and to sort it once per space.

    python -m benchmarks.report_speed [RUNS] [TEST_ROWS]
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from cvrbench.data.schema import Task
from cvrbench.metrics.evaluation import score
from cvrbench.runs.record import RECORD_VERSION, RunRecord
from cvrbench.runs.store import ResultStore

SEEDS = 5
TASKS = (
    Task(name="ctr", label="click"),
    Task(name="cvr", label="conversion", parent="ctr", joint="ctcvr"),
)


def main(n_runs: int, n_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        write(results, n_runs, n_rows)
        print(f"{n_runs:,} runs of {n_rows:,} test rows, {n_runs // SEEDS} rows of {SEEDS} seeds\n")
        floor = timed(lambda: read_and_sort(results))
        print("| what | seconds | of the floor |\n|---|---:|---:|")
        print(f"| floor: read and sort once per space | {floor:.1f} | 1.0 |")
        for words in (["--no-html"], ["--format", "json"], []):
            command = [sys.executable, "-m", "cvrbench", "report", str(results), *words]
            seconds = timed(lambda command=command: run(command))
            name = " ".join(["cvrbench report", *words])
            print(f"| `{name}` | {seconds:.1f} | {seconds / floor:.1f} |", flush=True)


def write(results: Path, n_runs: int, n_rows: int) -> None:
    """Write runs whose strategies differ by a planted noise."""
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(n_rows)
    click = (merit + rng.standard_normal(n_rows) > 0.5).astype(np.uint8)
    conversion = (click & (merit + rng.standard_normal(n_rows) > 1.2)).astype(np.uint8)
    labels, users = np.stack([click, conversion], 1), np.arange(n_rows) % max(1, n_rows // 20)
    for number in range(n_runs):
        row, seed = divmod(number, SEEDS)
        noise = (1.5 + row / n_runs) * rng.standard_normal((n_rows, 2))
        p = 1 / (1 + np.exp(-(merit[:, None] + noise)))
        joint = np.stack([p[:, 0], p.prod(1)], 1)
        found = score(FakeSchema, labels, p, joint, users)
        folder = results / "runs" / f"log-ncs-s{seed}-{row:06d}"
        folder.mkdir(parents=True)
        record = make(folder.name, row, seed, found.metrics, labels)
        (folder / "record.json").write_text(json.dumps(record.to_json()))
        (folder / "history.jsonl").write_text(
            "".join(
                json.dumps(
                    {"stage": "train", "step": s, "epoch": s / 4, "score": 0.5}
                    | {"metrics": {"ctr_auc": 0.7 - 0.1 / s, "cvr_auc": 0.6 - 0.1 / s}}
                )
                + "\n"
                for s in range(1, 13)
            )
        )
        columns = {"label_ctr": click, "label_cvr": conversion, "group": users}
        columns |= {"p_ctr": p[:, 0], "p_cvr": p[:, 1], "p_ctcvr": joint[:, 1]}
        pl.DataFrame(columns).write_parquet(folder / "predictions.parquet")


class FakeSchema:
    """All that `score` asks of a schema."""

    tasks = TASKS


def make(name: str, row: int, seed: int, metrics: dict, labels: np.ndarray) -> RunRecord:
    counts = {
        "ctr": {"rows": len(labels), "positives": int(labels[:, 0].sum())},
        "cvr": {"rows": int(labels[:, 0].sum()), "positives": int(labels[:, 1].sum())},
        "ctcvr": {"rows": len(labels), "positives": int(labels[:, 1].sum())},
    }
    model = "shared_bottom" if row == 0 else "single_task" if row == 1 else "ncs"
    return RunRecord(
        record_version=RECORD_VERSION,
        run_id=name,
        model=model,
        dataset="log",
        seed=seed,
        choices={"model": model, "dataset": "log"},
        config={"model": {"kind": model, "density": round(0.001 * row, 3)}, "seed": seed},
        fingerprint="0123456789abcdef",
        tasks=[asdict(task) for task in TASKS],
        metrics={"valid": metrics, "test": metrics},
        undefined={},
        counts={"test": counts},
        test_scored=1,
        parameters=1000,
        embedding_parameters=500,
        multiply_adds=400,
        seconds={"search": 1.0, "train": 2.0, "total": 3.0},
        examples={"search": 1000, "train": 2000},
        examples_per_second=1000.0,
        best_step=3,
        best_epoch=0.75,
        diagnostics={},
        environment={},
    )


def read_and_sort(results: Path) -> None:
    store = ResultStore(results)
    for record in store.records():
        frame = store.predictions(record.run_id)
        clicked = frame["label_ctr"].to_numpy() == 1
        for column in ("p_ctr", "p_ctcvr"):
            np.sort(frame[column].to_numpy())
        np.sort(frame["p_cvr"].to_numpy()[clicked])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def timed(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*(numbers + [1000, 50_000][len(numbers) :]))
