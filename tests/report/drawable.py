"""Finished runs on disk with all that figures are drawn from, for any number of tasks."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from cvrbench.report.dataset_report import DatasetReport, build, with_curves
from cvrbench.runs.record import RunRecord
from cvrbench.runs.store import ResultStore
from tests.report.test_comparison import run

ROWS = 500
TASKS = (
    {"name": "ctr", "label": "click", "parent": None, "joint": None},
    {"name": "cvr", "label": "conversion", "parent": "ctr", "joint": "ctcvr"},
    {"name": "like", "label": "like", "parent": None, "joint": None},
)


def keep(
    folder: Path,
    models: Sequence[str],
    *,
    seeds: int = 3,
    n_tasks: int = 2,
    rate: float = 0.5,
    dataset: str = "log",
    **changes,
) -> list[RunRecord]:
    """Write runs of every model: a later one predicts better."""
    rng = np.random.default_rng(0)
    merit = rng.standard_normal(ROWS)
    edges = np.quantile(merit, (1 - rate, 1 - rate / 3, 0.5))
    click, bought, like = (merit + rng.standard_normal(ROWS) > edge for edge in edges)
    labels = {"ctr": click, "cvr": click & bought, "like": like}
    records = []
    for place, model in enumerate(models):
        for seed in range(seeds):
            noise = 2 * rng.standard_normal(ROWS) / (1 + place)
            p = 1 / (1 + np.exp(-(merit + noise) - np.log(rate)))
            record = _record(f"r{place}-{seed}", model, seed, labels, p, TASKS[:n_tasks])
            record = RunRecord(**{**vars(record), "dataset": dataset, **changes})
            _write(folder / "runs" / record.run_id, record, labels, p)
            records.append(record)
    return records


def part_of(folder: Path) -> DatasetReport:
    """Gather what was kept, which is one dataset."""
    store = ResultStore(folder)
    (part,) = build(store.records(), store)
    part = with_curves(part, store)
    assert part.problems == ()
    return part


def _record(run_id, model, seed, labels, p, tasks) -> RunRecord:
    rows = {"ctr": ~np.zeros(ROWS, bool), "cvr": labels["ctr"], "like": ~np.zeros(ROWS, bool)}
    spaces = {}
    for task in tasks:
        name = task["name"]
        spaces[name] = (labels[name][rows[name]], p[rows[name]])
        if task["joint"]:
            spaces[task["joint"]] = (labels[name], p * p)
    aucs = {f"{name}_auc": float(roc_auc_score(*both)) for name, both in spaces.items()}
    counts = {n: {"rows": len(y), "positives": int(y.sum())} for n, (y, _) in spaces.items()}
    return run(
        model,
        seed,
        None,
        run_id=run_id,
        config={"model": {"kind": model}, "seed": seed},
        tasks=list(tasks),
        counts={"test": counts},
        metrics={"valid": aucs, "test": aucs},
        best_step=20,
    )


def _write(path, record, labels, p) -> None:
    columns = {"group": np.arange(ROWS) % 50}
    for task in record.tasks:
        name = task["name"]
        columns |= {f"label_{name}": labels[name].astype(np.uint8), f"p_{name}": p}
        if task["joint"]:
            columns[f"p_{task['joint']}"] = p * p
    looks = [
        {
            "stage": stage,
            "step": step,
            "epoch": step / 10,
            "metrics": {m: v - 1 / step for m, v in record.metrics["valid"].items()},
        }
        for stage in ("search", "train")
        for step in (10, 20, 30)
    ]
    path.mkdir(parents=True)
    pl.DataFrame(columns).write_parquet(path / "predictions.parquet")
    (path / "history.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    (path / "record.json").write_text(json.dumps(record.to_json()))
