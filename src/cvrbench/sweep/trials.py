"""One trial: runs of one configuration, one per tuning seed, and what they come to."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import Trial, TrialState

from cvrbench import experiment, planning
from cvrbench.config.compose import Composed
from cvrbench.errors import CellBusy, ConfigError, RunError
from cvrbench.record import RunRecord
from cvrbench.store import ResultStore
from cvrbench.sweep.leases import ATTEMPTS, FURTHER
from cvrbench.sweep.objectives import WATCHED, measure, of_record, trained
from cvrbench.sweep.plan import Plan
from cvrbench.sweep.suggest import suggest
from cvrbench.training.progress import Look, OnProgress, Progress

BUSY_PAUSE = 2.0
"""Seconds between two looks at a cell that another process runs."""


class Pruned(Exception):  # noqa: N818 -- no error: the trial has shown enough
    """A trial that is not worth finishing."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a trial ended."""

    state: TrialState
    values: tuple[float, ...] | None
    reason: str | None = None


@dataclass
class Cost:
    """What a trial's runs took, kept in the trial as they end."""

    trial: Trial
    before: float
    """Seconds of earlier tries."""
    begun: float = field(default_factory=time.monotonic)
    finished: int = 0
    """Examples of the runs that are done."""
    under_way: int = 0
    reused: int = 0

    def save(self) -> None:
        """Note it in the trial."""
        self.trial.set_user_attr("examples", self.finished + self.under_way)
        self.trial.set_user_attr("reused", self.reused)
        self.trial.set_user_attr("seconds", round(self.before + time.monotonic() - self.begun, 3))


def failed(reason: str) -> Ended:
    """End a trial without a value."""
    return Ended(state=TrialState.FAIL, values=None, reason=reason)


def run_trial(plan: Plan, trial: Trial, tasks: Sequence[str], on_progress: OnProgress) -> Ended:
    """Run one trial to its end, and note in it what it cost.

    Args:
        plan: The study.
        trial: A running one.
        tasks: Names of the dataset's tasks.
        on_progress: Told of every step.

    Raises:
        RunInterrupted: The user stopped it; a later try goes on where it was.
        DataError, StoreError: What it needs is missing; no fault of this configuration.
    """
    cost = Cost(trial, before=trial.user_attrs.get("seconds", 0.0))
    by_seed: list[tuple[float, ...]] = []
    runs: list[str] = []

    def watched(now: Progress) -> None:
        cost.under_way = now.examples
        on_progress(now)

    try:
        words = suggest(trial, plan.study.space)
        for number, seed in enumerate(plan.study.settings.seeds):
            cell = plan.study.cell(words, seed, test=False)
            watch = _Watch(plan, trial, tasks, number, cell, cost)
            record = _run(plan, cell, watched, watch.look)
            runs.append(record.run_id)
            by_seed.append(of_record(plan.study, record))
            cost.finished += record.examples["search"] + record.examples["train"]
            cost.finished -= record.examples.get("reused", 0)
            cost.reused += record.examples.get("reused", 0)
            cost.under_way = 0
            trial.set_user_attr("runs", runs)
            trial.set_user_attr("by_seed", [list(values) for values in by_seed])
            watch.seed_is_done(by_seed[-1][0])
    except Pruned as reason:
        return Ended(state=TrialState.PRUNED, values=None, reason=str(reason))
    except (RunError, ConfigError) as error:
        return failed(str(error))
    finally:
        cost.save()
    means = tuple(sum(column) / len(column) for column in zip(*by_seed, strict=True))
    return Ended(state=TrialState.COMPLETE, values=means)


def _run(
    plan: Plan, cell: Composed, on_progress: OnProgress, on_look: Callable[[Look], None]
) -> RunRecord:
    """Run a cell, or wait for the process that runs it; what is pruned leaves nothing behind."""
    searches = plan.folder.searches if plan.study.settings.share_searches else None
    while True:
        try:
            return experiment.run(cell, on_progress=on_progress, on_look=on_look, searches=searches)
        except CellBusy:
            time.sleep(BUSY_PAUSE)
        except Pruned:
            folder = planning.folder_of(cell)
            ResultStore(Path(cell.config.results_dir)).discard(folder.name)
            raise


@dataclass
class _Watch:
    """What a pruner sees of one seed's run."""

    plan: Plan
    trial: Trial
    tasks: Sequence[str]
    number: int
    """Of the seed within the trial."""
    cell: Composed
    cost: Cost

    @property
    def pruner(self) -> str:
        """Its name."""
        return self.plan.study.settings.pruner

    def look(self, look: Look) -> None:
        """Show a look at validation to pruners that watch looks."""
        self.cost.under_way = look.examples
        attrs = self.trial.user_attrs
        if self.cost.finished + look.examples > attrs.get("examples", 0):
            self.trial.set_user_attr(FURTHER, attrs.get(ATTEMPTS, 1))
        self.cost.save()  # a worker that is killed leaves no other word
        step = self.number * looks_per_run(self.cell) + look.number
        first, *others = self.plan.study.settings.objectives
        kind = first.rsplit("_", 1)[-1]
        if self.pruner != "wilcoxon" and not others and kind in WATCHED:
            self._show(self._value(look), step)
        if self.pruner in ("hyperband", "median") and self._may_be_pruned():
            raise Pruned(f"{self.pruner} at look {look.number} of seed {self.cell.config.seed}")

    def seed_is_done(self, value: float) -> None:
        """Show a seed's result to the pruner that compares seeds."""
        if self.pruner != "wilcoxon":
            return
        self._show(value, self.number)
        last = self.number + 1 == len(self.plan.study.settings.seeds)
        if not last and self._may_be_pruned():
            raise Pruned(f"wilcoxon after {self.number + 1} seeds")

    def _may_be_pruned(self) -> bool:
        """Whether the pruner has seen enough; the preset is finished whatever it says."""
        return not self.trial.user_attrs.get("preset") and self.trial.should_prune()

    def _show(self, value: float, step: int) -> None:
        # A run that goes on from its checkpoint repeats the looks after it.
        shown = self.trial.storage.get_trial(self.trial._trial_id).intermediate_values
        if step not in shown:
            self.trial.report(value, step)

    def _value(self, look: Look) -> float:
        name = self.plan.study.settings.objectives[0]
        return measure(name, look.metrics, trained(self.cell.config, self.tasks), {})


def looks_per_run(cell: Composed) -> int:
    """Looks at validation that a whole run takes, if nothing ends it sooner."""
    trainer = cell.config.trainer
    return trainer.epochs * trainer.evaluations_per_epoch
