"""A worker: takes trials of one study until none is left or the budget is spent."""

import time
from collections.abc import Callable, Sequence

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from cvrbench.errors import CvrbenchError, RunError
from cvrbench.files import explain_write
from cvrbench.sweep.leases import REASON, Leases
from cvrbench.sweep.plan import Plan, plan_studies
from cvrbench.sweep.samplers import build_pruner, build_sampler
from cvrbench.sweep.study import Opened, open_study
from cvrbench.sweep.suggest import fixed_trials
from cvrbench.sweep.trials import Ended, failed, looks_per_run, run_trial
from cvrbench.training.progress import Progress

HOPELESS = 12
"""Failures in a row, none of which computed anything, after which there is no hope."""
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
        _Worker(plan, open_study(plan), on_trial).run()


def work_on(words: Sequence[str]) -> None:
    """Work on the one study that some words name, in a process of its own."""
    (plan,) = plan_studies(words, multirun=False)
    work(plan)


class _Worker:
    """What one worker knows of its study."""

    def __init__(self, plan: Plan, opened: Opened, on_trial: OnTrial | None) -> None:
        settings = plan.study.settings
        self.plan, self.on_trial = plan, on_trial
        self.study, self.storage, self.budget = opened.study, opened.storage, opened.budget
        self.tasks = [task.name for task in opened.schema.tasks]
        self.fixed = fixed_trials(plan.study)
        steps = looks_per_run(plan.study.base) * len(settings.seeds)
        self.study.pruner = build_pruner(settings, steps)
        self.leases = Leases(
            self.storage, self.study._study_id, self.budget.trials, settings.heartbeat_seconds
        )

    def run(self) -> None:
        """Take trials until there are none."""
        while True:
            trials = self.leases.trials()
            self._refuse_hopeless(trials)
            spent = self.budget.is_spent(trials)
            if (claimed := self.leases.next(spent=spent)) is not None:
                self._do(claimed)
            elif self.leases.is_over(spent=spent):
                return
            else:
                time.sleep(IDLE)

    def _refuse_hopeless(self, trials: Sequence[FrozenTrial]) -> None:
        """End a study that would go on for ever, since failures at no cost spend no budget."""
        ended = [t for t in trials if t.state.is_finished()][-HOPELESS:]
        lost = [t for t in ended if t.state == TrialState.FAIL and not t.user_attrs.get("examples")]
        if self.budget.trials is None and len(lost) == HOPELESS:
            raise RunError(
                f"the last {HOPELESS} trials of {self.plan.name} failed before their first step: "
                f"{lost[-1].user_attrs.get(REASON)}"
            )

    def _do(self, claimed: FrozenTrial) -> None:
        """Run a claimed trial and say how it ended; a stopped one is given back."""

        def on_progress(now: Progress) -> None:
            if self.on_trial is not None:
                self.on_trial(claimed.number, now)

        try:
            with self.leases.alive(claimed):  # sampling included, which may be slow
                trial = self._open(claimed)
                ended = run_trial(self.plan, trial, self.tasks, on_progress)
            self._tell(trial, ended)
        except UpdateFinishedTrialError:
            return  # taken for dead: another has ended it, with the same result
        except (CvrbenchError, OSError, KeyboardInterrupt, SystemExit):
            # Stopped, or something that is no fault of this configuration: it can go on.
            self.leases.release(claimed)
            raise
        except Exception as error:
            # Not given back: with the same configuration it would happen again, and for ever.
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            self._tell(Trial(self.study, claimed._trial_id), failed(reason))

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
