"""Summaries of sweeps, written by hand: no trial was ever trained for them."""

from collections.abc import Sequence
from typing import Any

from cvrbench.runs.study import STUDY_VERSION, Axis, StudySummary, TrialSummary

AXES = {
    "model.density": Axis(kind="float", low=0.1, high=0.9),
    "trainer.learning_rate": Axis(kind="float", low=1e-4, high=1e-2, log=True),
    "model.search": Axis(kind="choice", choices=("imp", "snip", None)),
    "model.rounds": Axis(kind="int", low=1, high=8),
}
SEARCHES = ("imp", "snip", None)


def trial(number: int, values: Sequence[float] | None = None, **changes: Any) -> TrialSummary:
    """A trial that is complete if it has values, else failed."""
    facts: dict[str, Any] = {
        "number": number,
        "state": "failed" if values is None else "complete",
        "params": {},
        "values": None if values is None else tuple(values),
        "by_seed": () if values is None else (tuple(values),),
        "looks": (),
        "preset": number == 0,
        "runs": (f"run-{number}",),
        "examples": 1000,
        "reused": 0,
        "seconds": 12.4,
        "attempts": 1,
        "reason": "the loss is not finite" if values is None else None,
    }
    return TrialSummary(**{**facts, **changes})


def params(number: int, *, rounds: bool = True) -> dict[str, Any]:
    """Values that differ from trial to trial and lie on no line; half may lack the rounds."""
    found: dict[str, Any] = {
        "model.density": 0.1 + 0.8 * (number * 7 % 40) / 40,
        "trainer.learning_rate": 10 ** (-4 + 2 * (number * 11 % 37) / 37),
        "model.search": SEARCHES[number % 3],
    }
    return {**found, "model.rounds": 1 + number % 8} if rounds else found


def study(trials: Sequence[TrialSummary], **changes: Any) -> StudySummary:
    """A study of these trials; the best is the highest first value, unless told."""
    there = [t for t in trials if t.values is not None]
    best = max(there, key=lambda t: t.values or (), default=None)
    facts: dict[str, Any] = {
        "version": STUDY_VERSION,
        "name": "ncs-log",
        "sweep": "density",
        "storage": "journal.log",
        "model": "ncs",
        "dataset": "log",
        "fingerprint": "abcdef",
        "overrides": (),
        "objectives": ("cvr_auc",),
        "directions": ("maximize",),
        "sampler": "tpe",
        "pruner": "median",
        "seeds": (0,),
        "axes": AXES,
        "limits": {"trials": 40, "epochs": None, "examples": None, "seconds": None},
        "spent": {"trials": len(trials), "epochs": 12.5, "examples": 3000, "reused": 1000},
        "trials": tuple(trials),
        "best": () if best is None else (best.number,),
    }
    return StudySummary(**{**facts, **changes})


def searched(count: int = 24, **changes: Any) -> StudySummary:
    """A study of complete trials over all axes; every second one has no rounds."""
    trials = [
        trial(n, [0.7 + 0.001 * (n * 13 % count)], params=params(n, rounds=n % 2 == 0))
        for n in range(count)
    ]
    return study(trials, **changes)
