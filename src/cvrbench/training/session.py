"""All trainings of one run, in order: those that a strategy's preparation asks for, and the last.

Every one is checkpointed by its number, so that a resumed run answers the finished ones from their
files, and every one counts in what the run cost.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvrbench.balancing import Balancing, build_balancing, trained_tasks, untied
from cvrbench.config.schema import BalancingConfig, Config, EqualConfig, TrainerConfig
from cvrbench.data.batches import Batch, Rows
from cvrbench.data.dataset import Dataset, Split, Trust, Verification, load_labels
from cvrbench.data.label_subsampling import label_weights, scarce_task
from cvrbench.data.streaming import Placement
from cvrbench.metrics.evaluation import counts, selection_score
from cvrbench.nn import Output
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy, Training
from cvrbench.training.cache import TrainingCache, conditions, training_key
from cvrbench.training.callbacks import (
    Evaluation,
    OnEvaluation,
    OnProgress,
    Progress,
    StopRequested,
    ignore,
)
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.diagnostics import Probe, probe_rows
from cvrbench.training.evaluator import Evaluator, Predicted
from cvrbench.training.loop import TrainingJob
from cvrbench.training.schedule import count_steps
from cvrbench.training.stacked.seed_group import SeedGroup
from cvrbench.training.state import Callbacks, FitResult, Task

WATCHED_KINDS = ("auc", "logloss")
"""Metrics computed at every look at validation; all of them once, at the end."""


@dataclass
class TrainingSession:
    """The trainings of one run; to a strategy, its `PretrainContext`."""

    config: Config
    dataset: Dataset
    objective: Objective
    device: torch.device
    checkpoints: Path
    on_progress: OnProgress
    stop_requested: StopRequested
    on_evaluation: OnEvaluation = ignore
    shared: TrainingCache | None = None
    """Where trainings of searches are that other runs have done, or will want."""
    seed_group: SeedGroup | None = None
    """The runs that train at the same time, if some do."""
    on_any_evaluation: OnEvaluation = ignore
    """Told of the looks of every stage; `on_evaluation` of the last one's alone."""
    results: list[FitResult] = field(default_factory=list)
    probed: int = 0
    """Examples whose gradients were taken outside a training."""
    reused: int = 0
    """Examples of the trainings that another run had done."""
    verification: Verification | Trust = field(default_factory=Trust)
    """Asked, before anything of a training is kept, whether the data are what they should be."""
    together: int = 1
    """Trainings that were one program with one of these at most."""

    def __post_init__(self) -> None:
        """Load the rows that a run may train on and choose by."""
        schema = self.dataset.schema
        self.tasks = tuple(task.name for task in schema.tasks)
        protocol, train = self.config.protocol, self.dataset.train
        self.scarce = scarce_task(schema.tasks, protocol.label_share_task)
        self.label_weights = label_weights(
            schema, train.labels, self.scarce, share=protocol.label_share, seed=self.seed
        )
        self.keeping, self.train_rows, self.valid, self.answers = open_rows(
            self.config.trainer, self.dataset, self.device, self.label_weights, self.seed_group
        )
        self.evaluator = Evaluator(schema, self.answers, self.device)
        self.trained = trained_tasks(self.config.balancing, self.tasks)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    def train(self, training: Training) -> FitResult:
        """Train, the trained tasks' mean AUC choosing (`strategies.base.PretrainContext`)."""
        return self._fit(self._request(training), training)

    def _request(self, training: Training) -> TrainingJob:
        """Bind a training to this run, as its next stage."""
        chosen = self._chosen(training)
        objective = self.objective.per_task() if training.per_task else self.objective
        task = self._task(objective, self._balancing(training), chosen, "mean_auc", ("auc",))
        callbacks = Callbacks(training.label, *self._callbacks())
        return self._bound(training.network, task, callbacks, training.epochs)

    def _task(
        self,
        objective: Objective,
        balancing: Balancing,
        trained: Sequence[str],
        selection: str,
        kinds: Sequence[str],
    ) -> Task:
        """Return what a training optimises, and its score: `selection` over the tasks `trained`."""

        def score(predictions: Predicted) -> tuple[float, dict[str, float | None]]:
            found = self.evaluator.score(predictions, kinds)
            value = selection_score(found.metrics, trained, selection, found.undefined)
            return value, found.metrics

        return Task(objective, balancing, score, self.evaluator.predict_for(kinds))

    def _chosen(self, training: Training) -> tuple[str, ...]:
        """Return which tasks a training trains: one asked for alone whatever its loss weighs."""
        asked = self.trained if training.tasks is None else tuple(training.tasks)
        return asked if training.is_of_one else tuple(n for n in asked if n in self.trained)

    def _balancing(self, training: Training) -> Balancing:
        """Build the balancing of a search's training, in which one task alone counts as it is."""
        config: BalancingConfig = self.config.balancing
        if training.is_of_one:
            config = EqualConfig(kind="equal")
        elif training.per_task:
            config = untied(config)
        return build_balancing(config, self.tasks, self._chosen(training)).to(self.device)

    def finish(self, network: SharingStrategy) -> FitResult:
        """Train on all tasks, validation choosing by `protocol.selection`: the run's last stage."""
        selection = self.config.protocol.selection
        kinds = tuple(sorted({*WATCHED_KINDS, selection.rsplit("_", 1)[-1]}))
        balancing = build_balancing(self.config.balancing, self.tasks, self.trained)
        balancing = balancing.to(self.device)
        task = self._task(self.objective, balancing, self.trained, selection, kinds)
        n_rows = probe_rows(len(self.train_rows) / self.config.trainer.evaluations_per_epoch)
        probe = Probe.draw(
            self.train_rows, self.objective, self.tasks, seed=self.seed, n_rows=n_rows
        )
        callbacks = Callbacks("train", *self._callbacks(), probe, self.on_evaluation)
        return self._fit(self._bound(network, task, callbacks, self.config.trainer.epochs))

    def steps(self, epochs: float) -> int:
        """Count the steps of a training (`strategies.base.PretrainContext`)."""
        return count_steps(len(self.train_rows), self.config.trainer.batch_size, epochs)

    def batches(self, n: int) -> Iterator[Batch]:
        """Yield the first `n` batches of the epochs' orders (`strategies.base.PretrainContext`)."""
        size = self.config.trainer.batch_size
        with closing(self.train_rows.batches(size, self.seed)) as batches:
            for batch in islice(batches, n):
                self.probed += len(batch.labels)
                yield batch

    def losses(self, output: Output, batch: Batch) -> Tensor:
        """Loss of each task in its own space, `[tasks]` (`strategies.base.PretrainContext`)."""
        return self.objective.per_task().losses(output.float(), batch)

    def learnt(self) -> dict[str, dict[str, int]]:
        """Count the training rows and positives of every space, without hidden labels."""
        schema, labels = self.dataset.schema, self.dataset.train.labels
        if self.label_weights is None:
            return counts(schema, labels)
        found: dict[str, dict[str, int]] = {}
        for index, task in enumerate(schema.tasks):
            seen = counts(schema, labels[self.label_weights[:, index] > 0])
            found |= {n: count for n, count in seen.items() if n in (task.name, task.joint)}
        return found

    @property
    def sharing(self) -> dict[str, Any]:
        """What was observed of the run's final weights: of the last training's best look."""
        state = self.results[-1].state
        looks: dict[int, dict[str, Any]] = {look["step"]: look["sharing"] for look in state.history}
        return looks.get(state.best_step, {})

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every look at validation, stage after stage."""
        return [look for result in self.results for look in result.state.history]

    def effort(self, total_seconds: float) -> dict[str, Any]:
        """Return what the run cost; of time that several runs shared, each has an equal part."""
        n_runs = self.seed_group.size if self.seed_group else 1
        return cost_of(self.results, self.probed, self.reused, total_seconds=total_seconds / n_runs)

    def epochs_of(self, step: int) -> float:
        """Convert a number of steps into passes over the training rows."""
        return step * self.config.trainer.batch_size / len(self.train_rows)

    def _bound(
        self, network: SharingStrategy, task: Task, callbacks: Callbacks, epochs: float
    ) -> TrainingJob:
        before = self._examples()

        def on_evaluation(look: Evaluation) -> None:
            self.verification.finish()
            look = replace(look, examples=before + look.examples)
            self.on_any_evaluation(look)
            callbacks.on_evaluation(look)

        trainer, seed = self.config.trainer, self.config.seed
        told = callbacks._replace(on_evaluation=on_evaluation)
        return TrainingJob(network, self.train_rows, self.valid, task, trainer, epochs, seed, told)

    def _fit(self, request: TrainingJob, training: Training | None = None) -> FitResult:
        """Train, or take what another run has trained alike."""
        files, n_together = request.callbacks.files, 1
        shared: AbstractContextManager[None] = nullcontext()
        if self.shared is not None and training is not None and training.depends is not None:
            shared = self.shared.answer(self._key(training), files, self.stop_requested)
        with shared:
            if self.seed_group is not None:
                result, n_together = self.seed_group.fit(request)
            else:
                result = request.alone()
        self.together = max(self.together, n_together)
        if files.reused_file.is_file():
            self.reused += result.state.examples
        self.results.append(result)
        return result

    def _key(self, training: Training) -> str:
        chosen = self._chosen(training)
        how = [training.label, training.epochs, list(chosen), training.per_task]
        same = conditions(self.config, self.dataset.schema.fingerprint, self.scarce, self.device)
        settings = {**same, "training": [*how, dict(training.depends or {})]}
        return training_key(training.network.state_dict(), settings)

    def _callbacks(self) -> tuple[StageFiles, OnProgress, StopRequested]:
        """The next training's files, and who is told and asked."""
        before = self._examples()

        def on_progress(now: Progress) -> None:
            self.on_progress(replace(now, examples=before + now.examples))

        def stop_requested() -> bool:  # what asks saves next
            asked = self.stop_requested()
            self.verification.check(self.config.trainer.checkpoint_seconds)
            if asked:
                self.verification.finish()
            return asked

        return StageFiles(self.checkpoints, len(self.results)), on_progress, stop_requested

    def _examples(self) -> int:
        """Rows that the run has computed gradients on so far."""
        trained = sum(result.state.examples for result in self.results)
        return trained + self.probed - self.reused


class RunRows(NamedTuple):
    """Where rows are kept, and those of the two splits that a run needs all the time."""

    keeping: Placement
    train: Rows
    valid: Rows
    answers: Split
    """The validation split, what its predictions are scored by in memory."""


def open_rows(
    config: TrainerConfig,
    dataset: Dataset,
    device: torch.device,
    weights: npt.NDArray[np.float32] | None,
    seed_group: SeedGroup | None,
) -> RunRows:
    """Open the training rows, whose labels count as `weights` say, and the validation rows.

    Raises:
        DataError: A file is gone or was cut short.
    """
    train, valid, schema = dataset.train, dataset.valid, dataset.schema
    # In memory they are once for all runs that go the same way, so the first one has chosen.
    asked = "memory" if seed_group is not None and seed_group.loaded else config.data
    keeping = Placement.choose(asked, (train, valid), device)
    load = keeping.open
    if seed_group is not None and keeping.where == "memory":
        load = seed_group.load
    return RunRows(
        keeping,
        load(train, schema, device, weights),
        load(valid, schema, device),
        load_labels(valid, schema.name),
    )


def cost_of(
    trainings: Sequence[FitResult], probed: int, reused: int, *, total_seconds: float
) -> dict[str, Any]:
    """Return seconds, examples and examples per second for a run's record.

    Args:
        trainings: All of the run; the last is the one that its weights are of.
        probed: Examples whose gradients were taken outside a training.
        reused: Examples of trainings that another run had done.
        total_seconds: Of the run's wall clock.
    """
    *searches, final = (training.state for training in trainings)
    search = sum(state.seconds for state in searches)
    of_searches = sum(state.examples for state in searches)
    examples = of_searches + final.examples
    return {
        "seconds": {
            "search": round(search, 3),
            "train": round(final.seconds, 3),
            "total": round(total_seconds, 3),
        },
        "examples": {
            "search": of_searches + probed,
            "train": final.examples,
            "reused": reused,
        },
        "examples_per_second": round(examples / max(search + final.seconds, 1e-9), 1),
    }
