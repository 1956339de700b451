"""A worker: takes trials of one study until none is left or the budget is spent."""

import time
from collections.abc import Callable, Sequence

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from cvrbench.config.space import Value
from cvrbench.files import explain_write
from cvrbench.sweep.budget import Budget
from cvrbench.sweep.claims import REASON, Claims
from cvrbench.sweep.opening import dataset_of, open_study
from cvrbench.sweep.plan import Plan, plan_studies
from cvrbench.sweep.samplers import build_pruner, build_sampler
from cvrbench.sweep.suggest import grid
from cvrbench.sweep.trials import Ended, looks_per_run, run_trial
from cvrbench.training.progress import Progress

IDLE = 1.0
"""Seconds between two looks for work while other workers are at the last trials."""
FIXED = "fixed_params"
"""Optuna's name for what a trial is not to sample."""

OnTrial = Callable[[int, Progress], None]
"""Told of every step of a trial, by the trial's number."""


def work(plan: Plan, on_trial: OnTrial | None = None) -> None:
    """Run trials until the study is over.

    Raises:
        RunInterrupted: The user stopped it; the trial under way goes on later where it was.
        ConfigError, DataError, StoreError: As `open_study` and `run_trial`.
    """
    with explain_write(plan.folder.journal):
        study, storage = open_study(plan)
        _Worker(plan, study, storage, on_trial).run()


def work_on(words: Sequence[str]) -> None:
    """Work on the one study that some words name, in a process of its own."""
    (plan,) = plan_studies(words, multirun=False)
    work(plan)


def fixed_trials(plan: Plan) -> list[dict[str, Value]]:
    """Give the configurations that a study begins with: the preset, then those of a grid."""
    settings = plan.study.settings
    preset = [plan.study.preset()] if settings.preset else []
    cells = grid(plan.study.space) if settings.sampler == "grid" else []
    return preset + [cell for cell in cells if cell not in preset]


def budget_of(plan: Plan) -> Budget:
    """Give what the study may cost."""
    settings = plan.study.settings
    rows = dataset_of(plan.study).schema.rows["train"]
    walked = len(fixed_trials(plan)) if settings.sampler == "grid" else None
    return Budget.of(settings, rows, walked)


class _Worker:
    """What one worker knows of its study."""

    def __init__(
        self, plan: Plan, study: Study, storage: BaseStorage, on_trial: OnTrial | None
    ) -> None:
        settings = plan.study.settings
        self.plan, self.study, self.storage, self.on_trial = plan, study, storage, on_trial
        self.tasks = [task.name for task in dataset_of(plan.study).schema.tasks]
        self.fixed = fixed_trials(plan)
        self.budget = budget_of(plan)
        steps = looks_per_run(plan.study.base) * len(settings.seeds)
        self.study.pruner = build_pruner(settings, steps)
        self.claims = Claims(
            storage, study._study_id, self.budget.trials, settings.heartbeat_seconds
        )

    def run(self) -> None:
        """Take trials until there are none."""
        while True:
            spent = self.budget.is_spent(self.claims.trials())
            if (claimed := self.claims.next(spent=spent)) is not None:
                self._do(claimed)
            elif self.claims.is_over(spent=spent):
                return
            else:
                time.sleep(IDLE)

    def _do(self, claimed: FrozenTrial) -> None:
        """Run a claimed trial and say how it ended; a stopped one is given back."""

        def on_progress(now: Progress) -> None:
            if self.on_trial is not None:
                self.on_trial(claimed.number, now)

        try:
            with self.claims.alive(claimed):  # sampling included, which may be slow
                trial = self._open(claimed)
                ended = run_trial(self.plan, trial, self.tasks, on_progress)
            self._tell(trial, ended)
        except UpdateFinishedTrialError:
            return  # taken for dead: another has ended it, with the same result
        except BaseException:
            # Stopped, or something that is not this configuration's fault: it can go on.
            self.claims.release(claimed)
            raise

    def _open(self, claimed: FrozenTrial) -> Trial:
        """Make what Optuna needs to suggest for a trial, as it would be made by any worker."""
        number, settings = claimed.number, self.plan.study.settings
        if number < len(self.fixed) and FIXED not in claimed.system_attrs:
            self.storage.set_trial_system_attr(claimed._trial_id, FIXED, self.fixed[number])
        self.study.sampler = build_sampler(settings, self.plan.study.base.config.seed, number)
        trial = Trial(self.study, claimed._trial_id)
        trial.set_user_attr("preset", settings.preset and number == 0)
        return trial

    def _tell(self, trial: Trial, ended: Ended) -> None:
        if ended.reason is not None:
            trial.set_user_attr(REASON, ended.reason)
        self.study.tell(trial, ended.values, state=ended.state, skip_if_finished=True)
