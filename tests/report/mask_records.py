"""Records that tell of masks, written by hand: no network is trained for them."""

from itertools import combinations
from typing import Any

import numpy as np

from cvrbench.runs.record import RECORD_VERSION, RunRecord

NAMES = ("ctr", "cvr", "like")


def facts(keep: dict[str, np.ndarray], tasks: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The facts of `[tasks, in, out]` masks, counted connection by connection."""
    flat = {name: mask.reshape(len(tasks), -1) for name, mask in keep.items()}
    flat["all"] = np.concatenate(list(flat.values()), axis=1)
    found = {}
    for name, masks in flat.items():
        n = masks.shape[1]
        columns = [tuple(column) for column in masks.T.tolist()]
        kept = [{i for i, column in enumerate(columns) if column[t]} for t in range(len(tasks))]
        jaccard = np.eye(len(tasks))
        for a, b in combinations(range(len(tasks)), 2):
            jaccard[a, b] = jaccard[b, a] = len(kept[a] & kept[b]) / len(kept[a] | kept[b])
        alone = [sum(c[t] and sum(c) == 1 for c in columns) / n for t in range(len(tasks))]
        found[name] = {
            "connections": n,
            "density": {task: len(kept[t]) / n for t, task in enumerate(tasks)},
            "private": dict(zip(tasks, alone, strict=True)),
            "shared": sum(sum(column) > 1 for column in columns) / n,
            "union": sum(any(column) for column in columns) / n,
            "unused": sum(not any(column) for column in columns) / n,
            "jaccard": jaccard.tolist(),
        }
    return found


def drawn(n_tasks: int, density: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks of a trunk of six inputs: four of two fields' embeddings, two numbers."""
    generator = np.random.default_rng(seed)
    shapes = {"trunk_0": (6, 5), "trunk_1": (5, 4)}
    found = {n: generator.random((n_tasks, *shape)) < density for n, shape in shapes.items()}
    for mask in found.values():
        mask[:, 0, 0] = True  # nobody keeps nothing, whose overlap would be a convention
    return found


def masked_record(
    n_tasks: int = 2,
    *,
    seed: int = 0,
    tasks: tuple[str, ...] | None = None,
    densities: tuple[float, ...] = (0.8, 0.5),
    chosen: int = -1,
    choice: str = "last",
    **changes: Any,
) -> RunRecord:
    """A finished run of NCS, whose search visited two densities."""
    tasks = NAMES[:n_tasks] if tasks is None else tasks
    n_tasks = len(tasks)
    dead = {task: [0, 1] for task in tasks}
    rounds = [
        {
            "density": density,
            "scores": dict.fromkeys(tasks, 0.7) if place == 0 else {},
            "layers": facts(drawn(n_tasks, density, seed), tasks),
            "dead_units": dead,
        }
        for place, density in enumerate(densities)
    ]
    layers = facts(drawn(n_tasks, densities[chosen], seed), tasks)
    values: dict[str, Any] = {
        "record_version": RECORD_VERSION,
        "run_id": f"log-ncs-s{seed}-abc",
        "model": "ncs",
        "dataset": "log",
        "seed": seed,
        "choices": {"dataset": "log", "model": "ncs"},
        "config": {
            "model": {"kind": "ncs", "search": {"kind": "imp", "choice": choice}},
            "seed": seed,
        },
        "fingerprint": "fingerprint",
        "tasks": [{"name": t, "label": t, "parent": None, "joint": None} for t in tasks],
        "metrics": {split: {f"{t}_auc": 0.7 for t in tasks} for split in ("valid", "test")},
        "undefined": {},
        "counts": {"test": {t: {"rows": 100, "positives": 10} for t in tasks}},
        "test_scored": 1,
        "parameters": 30,
        "embedding_parameters": 10,
        "multiply_adds": 20,
        "seconds": {"search": 1.0, "train": 2.0, "total": 4.0},
        "examples": {"search": 10, "train": 20},
        "examples_per_second": 1.0,
        "best_step": 1,
        "best_epoch": 1.0,
        "diagnostics": {
            "density": layers["all"]["density"],
            "layers": layers,
            "dead_units": dead,
            "own_weights": False,
            "rounds": rounds,
        },
        "environment": {"python": "3.11", "versions": {"torch": "2"}},
    }
    return RunRecord(**{**values, **changes})
