"""All trainings of one run, in order: those that a strategy's preparation asks for, and the last.

Every one is checkpointed by its number, so that a resumed run answers the finished ones from their
files, and every one counts in what the run cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvrbench.balancing import loss_weights
from cvrbench.config.schema import Config
from cvrbench.data.batches import Batch
from cvrbench.data.dataset import Dataset
from cvrbench.data.scarcity import label_weights, scarce_task
from cvrbench.data.verification import Trust, Verification
from cvrbench.environment import versions
from cvrbench.evaluation import Scores, counts, score, selection_score
from cvrbench.objectives import Objective, alone
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.checkpoint import StageFiles
from cvrbench.training.observe import Probe, probe_rows
from cvrbench.training.predict import Predictions
from cvrbench.training.progress import Look, OnLook, OnProgress, Progress, StopRequested, ignore
from cvrbench.training.rows import open_rows
from cvrbench.training.schedule import count_steps
from cvrbench.training.shared import SharedStages, training_key
from cvrbench.training.together.company import Company
from cvrbench.training.together.request import FitRequest
from cvrbench.training.under_way import FitResult, Outside, Task

WATCHED_KINDS = ("auc", "logloss")
"""Metrics computed at every look at validation; all of them once, at the end."""


@dataclass
class Stages:
    """The trainings of one run; to a strategy, its `Lab`."""

    config: Config
    dataset: Dataset
    objective: Objective
    device: torch.device
    checkpoints: Path
    on_progress: OnProgress
    stop_requested: StopRequested
    on_look: OnLook = ignore
    shared: SharedStages | None = None
    """Where trainings of searches are that other runs have done, or will want."""
    company: Company | None = None
    """The runs that train at the same time, if some do."""
    on_any_look: OnLook = ignore
    """Told of the looks of every stage; `on_look` of the last one's alone."""
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
            self.config.trainer, self.dataset, self.device, self.label_weights, self.company
        )
        self.weights = loss_weights(self.config.balancing, self.tasks).to(self.device)
        weighed = zip(self.tasks, self.weights.tolist(), strict=True)
        self.trained = tuple(name for name, weight in weighed if weight > 0)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    def train(
        self,
        network: SharingStrategy,
        *,
        label: str,
        epochs: float,
        tasks: Sequence[str] | None = None,
        apart: bool = False,
        depends: Mapping[str, object] | None = None,
    ) -> FitResult:
        """Train on some tasks, their mean AUC choosing (`strategies.base.Lab`)."""
        alone_task = tasks is not None and len(tasks) == 1
        trained = self.trained if tasks is None else tuple(tasks)
        # A task trained alone is trained, whatever its loss weighs beside others.
        chosen = trained if alone_task else tuple(n for n in trained if n in self.trained)
        wanted = torch.tensor([float(name in chosen) for name in self.tasks], device=self.device)
        weights = wanted if alone_task else wanted * self.weights
        objective = alone(self.objective) if apart else self.objective

        def mean_auc(predictions: Predictions) -> tuple[float, dict[str, float | None]]:
            found = self._watch(predictions, ("auc",))
            value = selection_score(found.metrics, chosen, "mean_auc", found.undefined)
            return value, found.metrics

        task = Task(objective, weights, mean_auc)
        if depends is None or self.shared is None:
            return self._fit(network, task, Outside(label, *self._ties()), epochs)
        how = [label, epochs, list(chosen), weights.tolist(), apart, dict(depends)]
        key = training_key(network.state_dict(), {**self._same(), "training": how})
        outside = Outside(label, *self._ties())
        with self.shared.turn(key, self.stop_requested):
            self.shared.lend(key, outside.files)
            result = self._fit(network, task, outside, epochs)
            if outside.files.lent_file.is_file():
                self.reused += result.state.examples
            else:
                self.shared.keep(key, outside.files)
        return result

    def finish(self, network: SharingStrategy) -> FitResult:
        """Train on all tasks, validation choosing by `protocol.selection`: the run's last stage."""
        selection = self.config.protocol.selection
        kinds = tuple(sorted({*WATCHED_KINDS, selection.rsplit("_", 1)[-1]}))

        def chosen(predictions: Predictions) -> tuple[float, dict[str, float | None]]:
            found = self._watch(predictions, kinds)
            value = selection_score(found.metrics, self.trained, selection, found.undefined)
            return value, found.metrics

        task = Task(self.objective, self.weights, chosen)
        n_rows = probe_rows(len(self.train_rows) / self.config.trainer.evaluations_per_epoch)
        probe = Probe.draw(
            self.train_rows, self.objective, self.tasks, seed=self.seed, n_rows=n_rows
        )
        before = self._examples()

        def on_look(look: Look) -> None:
            self.on_look(replace(look, examples=before + look.examples))

        outside = Outside("train", *self._ties(), probe, on_look)
        return self._fit(network, task, outside, self.config.trainer.epochs)

    def steps(self, epochs: float) -> int:
        """Count the steps of a training (`strategies.base.Lab`)."""
        return count_steps(len(self.train_rows), self.config.trainer.batch_size, epochs)

    def batches(self, n: int) -> Iterator[Batch]:
        """Give the first `n` batches of the epochs' orders (`strategies.base.Lab`)."""
        size = self.config.trainer.batch_size
        with closing(self.train_rows.batches(size, self.seed)) as batches:
            for batch in islice(batches, n):
                self.probed += len(batch.labels)
                yield batch

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Loss of each task in its own space, `[tasks]` (`strategies.base.Lab`)."""
        return alone(self.objective).losses(logits.float(), batch.labels, batch.weights)

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
        """Say what the run cost, searches included: seconds, examples, examples per second.

        Of time that several runs shared, each has an equal part.
        """
        *searches, final = (result.state for result in self.results)
        search = sum(state.seconds for state in searches)
        examples = sum(result.state.examples for result in self.results)
        return {
            "seconds": {
                "search": round(search, 3),
                "train": round(final.seconds, 3),
                "total": round(total_seconds / (self.company.size if self.company else 1), 3),
            },
            "examples": {
                "search": examples - final.examples + self.probed,
                "train": final.examples,
                "reused": self.reused,
            },
            "examples_per_second": round(examples / max(search + final.seconds, 1e-9), 1),
        }

    def epochs_of(self, step: int) -> float:
        """Turn a number of steps into passes over the training rows."""
        return step * self.config.trainer.batch_size / len(self.train_rows)

    def _fit(
        self,
        network: SharingStrategy,
        task: Task,
        outside: Outside,
        epochs: float,
    ) -> FitResult:
        before = self._examples()

        def on_look(look: Look) -> None:
            self.verification.finish()
            self.on_any_look(replace(look, examples=before + look.examples))
            outside.on_look(look)

        request = FitRequest(
            network,
            self.train_rows,
            self.valid,
            task,
            self.config.trainer,
            epochs,
            self.config.seed,
            outside._replace(on_look=on_look),
        )
        if self.company is None:
            result = request.alone()
        else:
            result, n_together = self.company.fit(request)
            self.together = max(self.together, n_together)
        self.results.append(result)
        return result

    def _ties(self) -> tuple[StageFiles, OnProgress, StopRequested]:
        """The next training's files, and who is told and asked."""
        before = self._examples()

        def on_progress(now: Progress) -> None:
            self.verification.check(self.config.trainer.checkpoint_seconds)
            self.on_progress(replace(now, examples=before + now.examples))

        def stop_requested() -> bool:
            if asked := self.stop_requested():
                self.verification.finish()
            return asked

        return StageFiles(self.checkpoints, len(self.results)), on_progress, stop_requested

    def _examples(self) -> int:
        """Rows that the run has computed gradients on so far."""
        trained = sum(result.state.examples for result in self.results)
        return trained + self.probed - self.reused

    def _same(self) -> dict[str, object]:
        """What the trainings of two runs must have in common to be one."""
        trainer = asdict(self.config.trainer)
        for key in ("data", "threads", "checkpoint_seconds", "check_memory"):
            del trainer[key]
        return {
            "trainer": trainer,
            "objective": self.config.objective.kind,
            "labels": [self.config.protocol.label_share, self.scarce],
            "seed": self.config.seed,
            "fingerprint": self.dataset.schema.fingerprint,
            "device": self.device.type,
            "versions": versions(),
        }

    def _watch(self, predictions: Predictions, kinds: tuple[str, ...]) -> Scores:
        valid = self.answers
        return score(self.dataset.schema, valid.labels, *predictions, valid.groups, kinds=kinds)
