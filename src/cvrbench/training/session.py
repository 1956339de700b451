"""All trainings of one run, in order: those that a strategy's preparation asks for, and the last.

Every one is checkpointed by its number, so that a resumed run answers the finished ones from their
files, and every one counts in what the run cost.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvrbench.balancing import Balancing, build_balancing, trained_tasks, untied
from cvrbench.config.schema import BalancingConfig, Config, EqualConfig
from cvrbench.data.batches import Batch, Permuted, SplitTensors
from cvrbench.data.dataset import Dataset, Trust, Verification, load_labels
from cvrbench.data.label_subsampling import label_weights, scarce_task
from cvrbench.data.streaming import Placement
from cvrbench.errors import RunError
from cvrbench.metrics.evaluation import counts, kinds_to_watch, selection_score
from cvrbench.nn import Output
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy, Training
from cvrbench.system.rng import derive
from cvrbench.training.callbacks import (
    Evaluation,
    OnEvaluation,
    OnProgress,
    Progress,
    StopRequested,
    ignore,
)
from cvrbench.training.checkpoint import StageFiles, TrainingCache, training_key
from cvrbench.training.diagnostics import Probe, probe_rows
from cvrbench.training.evaluator import Evaluator, Predicted
from cvrbench.training.loop import Callbacks, FitResult, Task, TrainingJob, count_steps, fit
from cvrbench.training.seed_group import SeedGroup


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
    """Called at the evaluations of every stage; `on_evaluation` at those of the last alone."""
    results: list[FitResult] = field(default_factory=list)
    probed: int = 0
    """Examples whose gradients were taken outside a training."""
    reused: int = 0
    """Examples of the trainings that another run had done."""
    verification: Verification | Trust = field(default_factory=Trust)
    """Asked, before anything of a training is kept, whether the data are what they should be."""
    noise: Permuted | None = None
    """What is permuted in the rows that a search reads at the moment."""
    together: int = 1
    """Trainings that were one program with one of these at most."""

    def __post_init__(self) -> None:
        """Open the rows that a run may train on and choose by.

        Raises:
            DataError: A file is gone or was cut short.
        """
        schema, train, valid = self.dataset.schema, self.dataset.train, self.dataset.valid
        self.tasks = tuple(task.name for task in schema.tasks)
        self.trained = trained_tasks(self.config.balancing, self.tasks)
        protocol, group = self.config.protocol, self.seed_group
        self.scarce = scarce_task(schema.tasks, protocol.label_share_task)
        self.label_weights = label_weights(
            schema,
            train.labels,
            self.scarce,
            share=protocol.label_share,
            seed=self.seed,
            given=train.weights,
        )
        # In memory they are once for all runs that go the same way, so the first one has chosen.
        asked = "memory" if group is not None and group.loaded else self.config.trainer.data
        self.keeping = Placement.choose(asked, (train, valid), self.device)
        in_common = group is not None and self.keeping.where == "memory"
        load = group.load if group is not None and in_common else self.keeping.open
        self.train_rows = load(train, schema, self.device, self.label_weights)
        self.valid = load(valid, schema, self.device)
        self.answers = load_labels(valid, schema.name)
        """The validation split, what its predictions are scored by in memory."""
        self.evaluator = Evaluator(schema, self.answers, self.device)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    def train(self, training: Training) -> FitResult:
        """Train, the trained tasks' mean AUC choosing (`strategies.base.PretrainContext`).

        A ratio that is trained alone is chosen by its RMSE.
        """
        chosen = self._chosen(training)
        config: BalancingConfig = self.config.balancing
        if training.is_of_one:  # counts as it is
            config = EqualConfig(kind="equal")
        elif training.per_task:
            config = untied(config)
        balancing = build_balancing(config, self.tasks, chosen).to(self.device)
        objective = self.objective.per_task() if training.per_task else self.objective
        (*_, last), of = chosen, {task.name: task for task in self.dataset.schema.tasks}
        judged_alone = len(chosen) == 1 and of[last].is_ratio
        selection = f"{last}_rmse" if judged_alone else "mean_auc"
        kinds = [kind for kind in kinds_to_watch([*of.values()]) if kind != "logloss"]
        task = self._task(objective, balancing, chosen, selection, kinds)
        job = self._job(training.network, task, training.label, training.epochs)
        if self.shared is None or training.depends is None:
            return self._fit(job)
        key = self._key(training)
        return self._fit(job, self.shared.answer(key, job.callbacks.files, self.stop_requested))

    def finish(self, network: SharingStrategy) -> FitResult:
        """Train on all tasks, validation choosing by `protocol.selection`: the run's last stage."""
        selection = self.config.protocol.selection
        watched = kinds_to_watch(self.dataset.schema.tasks)
        kinds = tuple(sorted({*watched, selection.rsplit("_", 1)[-1]}))
        balancing = build_balancing(self.config.balancing, self.tasks, self.trained)
        task = self._task(self.objective, balancing.to(self.device), self.trained, selection, kinds)
        n_rows = probe_rows(len(self.train_rows) / self.config.trainer.evaluations_per_epoch)
        probe = Probe.draw(
            self.train_rows, self.objective, self.tasks, seed=self.seed, n_rows=n_rows
        )

        def observe(network: SharingStrategy) -> dict[str, Any]:
            weights = task.balancing.facts(self.tasks)
            return {**probe(network), **({"balancing": weights} if weights else {})}

        epochs = self.config.trainer.epochs
        return self._fit(self._job(network, task, "train", epochs, observe, self.on_evaluation))

    @contextmanager
    def permuted(self, what: Permuted) -> Iterator[None]:
        """Read noise until it is left (`strategies.base.PretrainContext`).

        Raises:
            RunError: The rows are left on disk.
        """
        true = self.train_rows, self.valid, self.evaluator
        train, valid = true[:2]
        if not isinstance(train, SplitTensors) or not isinstance(valid, SplitTensors):
            raise RunError(
                "model.search=permuted puts rows in another order, for which they must be in "
                "memory; set trainer.data=memory"
            )
        self.noise = what
        self.train_rows = train.permuted(what, derive(self.seed, "permuted", "train"))
        self.valid = valid.permuted(what, derive(self.seed, "permuted", "valid"))
        answers = replace(self.answers, labels=self.valid.labels.cpu().numpy())
        self.evaluator = Evaluator(self.dataset.schema, answers, self.device)
        try:
            yield
        finally:
            self.noise = None
            self.train_rows, self.valid, self.evaluator = true

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
        return counts(schema, labels, self.label_weights)

    @property
    def sharing(self) -> dict[str, Any]:
        """What was observed of the run's final weights: at the last training's best evaluation."""
        state = self.results[-1].state
        found: dict[int, dict[str, Any]] = {e["step"]: e["sharing"] for e in state.history}
        return found.get(state.best_step, {})

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every evaluation, stage after stage."""
        return [evaluation for result in self.results for evaluation in result.state.history]

    def epochs_of(self, step: int) -> float:
        """Convert a number of steps into passes over the training rows."""
        return step * self.config.trainer.batch_size / len(self.train_rows)

    def cost(self, total_seconds: float, cpu_seconds: float) -> dict[str, Any]:
        """Return seconds, examples and examples per second for the run's record.

        Args:
            total_seconds: Of wall clock; of time that several runs shared, each has an equal part.
            cpu_seconds: Of this process, all threads together; likewise.
        """
        n_runs = self.seed_group.size if self.seed_group else 1
        *searches, final = (result.state for result in self.results)
        search = sum(state.seconds for state in searches)
        of_searches = sum(state.examples for state in searches)
        rate = (of_searches + final.examples) / max(search + final.seconds, 1e-9)
        shared = {"total": total_seconds / n_runs, "cpu": cpu_seconds / n_runs}
        seconds = {"search": search, "train": final.seconds, **shared}
        return {
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "examples": {
                "search": of_searches + self.probed,
                "train": final.examples,
                "reused": self.reused,
            },
            "examples_per_second": round(rate, 1),
        }

    def _chosen(self, training: Training) -> tuple[str, ...]:
        """Return which tasks a training trains: one asked for alone whatever its loss weighs."""
        asked = self.trained if training.tasks is None else tuple(training.tasks)
        return asked if training.is_of_one else tuple(n for n in asked if n in self.trained)

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

    def _job(
        self,
        network: SharingStrategy,
        task: Task,
        stage: str,
        epochs: float,
        observe: Callable[[SharingStrategy], dict[str, Any]] | None = None,
        on_evaluation: OnEvaluation = ignore,
    ) -> TrainingJob:
        """Bind a training to this run, as its next stage."""
        before, trainer = self._examples(), self.config.trainer

        def on_progress(now: Progress) -> None:
            self.on_progress(replace(now, examples=before + now.examples))

        def stop_requested() -> bool:  # what asks saves next
            asked = self.stop_requested()
            self.verification.check(trainer.checkpoint_seconds)
            if asked:
                self.verification.finish()
            return asked

        def on_each(evaluation: Evaluation) -> None:
            self.verification.finish()
            evaluation = replace(evaluation, examples=before + evaluation.examples)
            self.on_any_evaluation(evaluation)
            on_evaluation(evaluation)

        files = StageFiles(self.checkpoints, len(self.results))
        callbacks = Callbacks(stage, files, on_progress, stop_requested, observe, on_each)
        rows = self.train_rows, self.valid
        return TrainingJob(network, *rows, task, trainer, epochs, self.seed, callbacks)

    def _fit(
        self, job: TrainingJob, shared: AbstractContextManager[None] | None = None
    ) -> FitResult:
        """Train, or take what another run has trained alike."""
        n_together = 1
        with shared or nullcontext():
            if self.seed_group is not None:
                result, n_together = self.seed_group.fit(job)
            else:
                result = fit(job)
        self.together = max(self.together, n_together)
        if job.callbacks.files.reused_file.is_file():
            self.reused += result.state.examples
        self.results.append(result)
        return result

    def _key(self, training: Training) -> str:
        how = [training.label, training.epochs, list(self._chosen(training)), training.per_task]
        how += [self.noise] if self.noise else []
        return training_key(
            training.network.state_dict(),
            [*how, dict(training.depends or {})],
            self.config,
            fingerprint=self.dataset.schema.fingerprint,
            scarce=self.scarce,
            device=self.device.type,
        )

    def _examples(self) -> int:
        """Rows that the run has computed gradients on so far."""
        trained = sum(result.state.examples for result in self.results)
        return trained + self.probed - self.reused
