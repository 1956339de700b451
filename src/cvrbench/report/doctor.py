"""What looks wrong in a finished run, each with its evidence and what to try.

Findings are hints, not tests: each has a threshold that is written beside it, and a run without any
may still be a bad one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any, NamedTuple

from cvrbench.data.schema import Task
from cvrbench.report.studies import at_border
from cvrbench.runs.record import RunRecord
from cvrbench.runs.study import StudySummary
from cvrbench.stats.difference import auc_standard_error

FEWEST_POSITIVES = 4
"""Positives of a task in a mean batch."""
FEWEST_EVALUATIONS = 3
"""Of fewer the first or the last is always the best."""
DROWNED = 10
"""Times by which one task's loss may be larger than another's."""
CONFLICT, TOLD = -0.1, 0.2
"""Mean cosine of two tasks' gradients, and of each with itself on other rows, which is noise."""
DRIFT = 0.1
"""Change of a base rate from training to test rows, as a share, if it is also beyond chance."""
ROWS_PER_PARAMETER = 0.1
"""Training rows for each parameter of an embedding table."""
DEVIATIONS = 4
"""Standard errors beyond which chance explains nothing."""
LEAK = 0.99
LEAST_CORE = 0.7
"""CPU seconds in a second of the clock, below which not even one thread ran all the time."""
PCOC = 1.25
"""Predicted over observed positives, or its inverse."""


class Finding(NamedTuple):
    """Something that looks wrong."""

    what: str
    evidence: str
    advice: str
    """What to try: overrides of the run's own command, or another command."""


def examine(
    run: RunRecord,
    history: Sequence[Mapping[str, Any]],
    sweeps: Sequence[StudySummary] = (),
) -> list[Finding]:
    """Return what looks wrong in a run.

    Args:
        run: Its record.
        history: Its evaluations, in order.
        sweeps: Those of its results folder, of which one may have chosen it.
    """
    checks: tuple[Callable[[RunRecord, Sequence[Mapping[str, Any]]], Iterator[Finding]], ...] = (
        _positives,
        _epoch,
        _drowned,
        _conflict,
        _drift,
        _tables,
        _far_from_test,
        _leak,
        _calibration,
        _threads,
    )
    found = [finding for check in checks for finding in check(run, history)]
    return [*found, *_border(run, sweeps)]


def _positives(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    counts, batch = run.counts.get("train", {}), int(run.config["trainer"]["batch_size"])
    rows = max((count["rows"] for count in counts.values()), default=0)
    for task in (task["name"] for task in run.tasks):
        positives = counts.get(task, {}).get("positives", 0)
        mean = batch * positives / max(rows, 1)
        if rows and mean < FEWEST_POSITIVES:
            larger = 2 ** (int(batch * FEWEST_POSITIVES / max(mean, 1e-3)) - 1).bit_length()
            yield Finding(
                f"few positives of {task} in a batch",
                f"{positives:,} of {rows:,} training rows: {mean:.2g} in a batch of {batch:,}",
                f"trainer.batch_size={min(larger // FEWEST_POSITIVES, rows)}",
            )


def _epoch(run: RunRecord, history: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    steps = [one["step"] for one in history if one.get("stage") == "train"]
    if len(steps) < FEWEST_EVALUATIONS:
        return
    epochs = run.config["trainer"]["epochs"]
    if run.best_step == steps[-1] and run.best_epoch >= epochs - 0.01:
        yield Finding(
            "the last evaluation was the best: it might have gone on",
            f"best at epoch {run.best_epoch:.2f} of {epochs}",
            f"trainer.epochs={2 * int(epochs)}",
        )
    if run.best_step == steps[0]:
        rate = run.config["trainer"]["learning_rate"]
        yield Finding(
            "the first evaluation was the best: it learns too fast or overfits at once",
            f"best at epoch {run.best_epoch:.2f}, evaluated {len(steps)} times",
            f"trainer.learning_rate={rate / 10:g} trainer.evaluations_per_epoch=8",
        )


def _drowned(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    objective = run.choices.get("objective", "click_space")
    entire = objective != "click_space"
    losses = {}
    for task in map(_task, run.tasks):
        name = task.joint if entire and task.joint else task.name
        loss = run.metrics.get("valid", {}).get(f"{name}_logloss")
        if loss:
            losses[task.name] = loss
    if len(losses) < 2 or run.choices.get("balancing", "equal") != "equal":
        return
    large, small = max(losses, key=losses.__getitem__), min(losses, key=losses.__getitem__)
    if losses[large] > DROWNED * losses[small]:
        yield Finding(
            f"the loss of {large} drowns that of {small}",
            f"log loss on validation rows {losses[large]:.4f} against {losses[small]:.4f}",
            "balancing=uncertainty",
        )


def _task(plain: Mapping[str, Any]) -> Task:
    return Task(**plain)


def _conflict(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    cosines, own = (run.diagnostics.get(key) for key in ("gradient_cosine", "self_cosine"))
    if not isinstance(cosines, Mapping) or not isinstance(own, Mapping):
        return
    pairs = {pair for of in cosines.values() for pair in of}
    for pair in sorted(pairs):
        found = fmean(of[pair] for of in cosines.values() if of.get(pair) is not None)
        first, _, second = pair.partition("-")
        selves = [
            fmean([of[task] for of in own.values() if of.get(task) is not None] or [0.0])
            for task in (first, second)
        ]
        if found < CONFLICT and min(selves) > TOLD:
            yield Finding(
                f"gradients of {first} and {second} in conflict",
                f"mean cosine {found:.2f}; of each with itself {selves[0]:.2f}, {selves[1]:.2f}",
                "balancing=pcgrad, or a model that shares less (model=shared_embedding)",
            )


def _drift(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for name, test in run.counts.get("test", {}).items():
        train = run.counts.get("train", {}).get(name)
        if not train or not all(of["rows"] and of["positives"] for of in (train, test)):
            continue
        before, after = (of["positives"] / of["rows"] for of in (train, test))
        error = sqrt(sum(r * (1 - r) / of["rows"] for r, of in ((before, train), (after, test))))
        if abs(after - before) > max(DRIFT * before, DEVIATIONS * error):
            yield Finding(
                f"the base rate of {name} drifts",
                f"{100 * before:.2f} % of training rows, {100 * after:.2f} % of test rows",
                f"cvrbench data describe {run.dataset}",
            )


def _tables(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    rows = max((count["rows"] for count in run.counts.get("train", {}).values()), default=0)
    if rows and rows < ROWS_PER_PARAMETER * run.embedding_parameters:
        size = run.config["model"].get("embedding_dim")
        smaller = f"model.embedding_dim={max(1, int(size) // 2)}" if size else "a rarer vocabulary"
        yield Finding(
            "embedding tables are larger than the rows can teach",
            f"{run.embedding_parameters:,} parameters, {rows:,} training rows",
            f"{smaller}, or trainer.embedding_weight_decay=1e-4",
        )


def _far_from_test(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for name in run.counts.get("test", {}):
        values = [run.metrics.get(split, {}).get(f"{name}_auc") for split in ("valid", "test")]
        counts = [run.counts.get(split, {}).get(name) for split in ("valid", "test")]
        valid, test = values
        if valid is None or test is None or not all(counts):
            continue
        error = sqrt(
            sum(
                auc_standard_error(auc, of["positives"], of["rows"] - of["positives"]) ** 2
                for auc, of in zip((valid, test), counts, strict=True)
                if of
            )
        )
        if abs(valid - test) > DEVIATIONS * error:
            yield Finding(
                f"validation is far from test in {name}",
                f"AUC {valid:.4f} and {test:.4f}, {abs(valid - test) / error:.0f} standard errors",
                f"cvrbench data describe {run.dataset}",
            )


def _leak(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    split = "test" if "test" in run.metrics else "valid"
    for name in run.counts.get(split, {}):
        auc = run.metrics[split].get(f"{name}_auc")
        if auc is not None and auc > LEAK and f"{name}_best_auc" not in run.metrics[split]:
            yield Finding(
                f"{name} is predicted too well: a column may hold its label",
                f"AUC {auc:.4f} on {split} rows",
                f"cvrbench data describe {run.dataset}",
            )


def _calibration(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    split = "test" if "test" in run.metrics else "valid"
    for name in (task["name"] for task in run.tasks):
        pcoc = run.metrics[split].get(f"{name}_pcoc")
        if pcoc and not 1 / PCOC <= pcoc <= PCOC:
            yield Finding(
                f"{name} is not calibrated",
                f"predicted over observed positives {pcoc:.2f} on {split} rows",
                f"cvrbench report dataset={run.dataset} --full",
            )


def _threads(run: RunRecord, _: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield whether the run waited for cores; records before that was measured tell nothing."""
    known, cpu, total = run.environment, run.seconds.get("cpu"), run.seconds.get("total", 0.0)
    if cpu is None or known.get("device") != "cpu" or cpu >= LEAST_CORE * total:
        return
    cores, threads = known.get("cpu_count"), known.get("threads")
    yield Finding(
        "its threads fought for cores with other work, or waited for a disk",
        f"{cpu:.0f} CPU seconds in {total:.0f} on the clock; threads={threads}, cores: {cores}",
        f"trainer.threads=1, and workers={cores} at most",
    )


def _border(run: RunRecord, sweeps: Sequence[StudySummary]) -> Iterator[Finding]:
    for sweep in sweeps:
        if run.run_id in (sweep.chosen or {}).get("runs", ()) and (border := at_border(sweep)):
            yield Finding(
                "the sweep that chose it ended at the border of its space",
                f"{sweep.name}: {'; '.join(border)}",
                "a wider range in a file conf/sweep/NAME.yaml, and cvrbench sweep sweep=NAME",
            )
