"""One training under way: where it is, and what happens between its steps.

Whoever takes the steps, `loop.fit` alone or `training.stacked` for several at once, looks at
validation, saves and ends by this.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from cvrbench.balancing import Balancing
from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Rows
from cvrbench.errors import RunError, RunInterrupted
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.callbacks import (
    Evaluation,
    OnEvaluation,
    OnProgress,
    Progress,
    StopRequested,
    ignore,
)
from cvrbench.training.checkpoint import Pace, StageFiles
from cvrbench.training.evaluator import Predicted, predict
from cvrbench.training.optimizers import Optimizers, build_optimizers

Metrics = dict[str, float | None]


class Task(NamedTuple):
    """What is optimised, and how validation is scored."""

    objective: Objective
    balancing: Balancing
    score: Callable[[Any], tuple[float, Metrics]]
    """What `predict` gives of validation -> the number that is maximised, and every metric."""
    predict: Callable[..., Predicted] = predict
    """How (`training.predict`), which says where the predictions then are."""


class Callbacks(NamedTuple):
    """A training's ties to the rest of the program."""

    stage: str
    files: StageFiles
    on_progress: OnProgress
    stop_requested: StopRequested
    observe: Callable[[SharingStrategy], dict[str, Any]] | None = None
    """What to note of the network at every look at validation; it may change nothing."""
    on_evaluation: OnEvaluation = ignore


@dataclass
class State:
    """Where a training is, apart from weights and optimisers; plain values only."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    examples: int = 0
    seconds: float = 0.0
    """Time in optimiser steps; evaluations and checkpoints excluded."""
    evaluations_since_best: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    best_metrics: Metrics = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def advance(self, examples: int) -> None:
        """Count one step."""
        self.step_in_epoch += 1
        self.step += 1
        self.examples += examples


class FitResult(NamedTuple):
    """How a training ended."""

    score: float
    """The best validation score; the network holds the weights that reached it."""
    state: State

    @property
    def scores(self) -> dict[str, float]:
        """Every AUC that these weights validate at, by the name of its task or space."""
        best = self.state.best_metrics.items()
        return {n.removesuffix("_auc"): v for n, v in best if n.endswith("_auc") and v is not None}


@dataclass
class TrainingState:
    """A training between two steps."""

    network: SharingStrategy
    optimizers: Optimizers
    train: Rows
    valid: Rows
    task: Task
    config: TrainerConfig
    callbacks: Callbacks
    state: State
    best: dict[str, Tensor]
    """The weights that validated best, by their names in the network."""

    def __post_init__(self) -> None:
        """Count time and saves from here."""
        self.pace = Pace(self.callbacks.files, self.config.checkpoint_seconds)
        self.begun_with = self.state.seconds

    @classmethod
    def begin(
        cls,
        network: SharingStrategy,
        train: Rows,
        valid: Rows,
        task: Task,
        config: TrainerConfig,
        callbacks: Callbacks,
        saved: Mapping[str, Any] | None,
    ) -> tuple[Self, Any]:
        """Begin anew, or where it was when it was `saved`.

        Returns:
            The training, and where the random state was when it was saved, None if it begins.
        """
        optimizers = build_optimizers(network, config, task.balancing)
        state, best = State(), copy_weights(network)
        if saved is None:
            return cls(
                network, optimizers, train, valid, task, config, callbacks, state, best
            ), None
        state = State(**saved["state"])
        _copy_into(best, saved["best"])
        network.load_state_dict(saved["network"])
        task.balancing.load_state_dict(saved["balancing"])
        optimizers.load_state_dict(saved["optimizers"])
        begun = cls(network, optimizers, train, valid, task, config, callbacks, state, best)
        return begun, saved["rng"]

    def check_finite(self, loss_sum: Tensor) -> None:
        """Stop a training whose loss is none.

        Raises:
            RunError: The sum of the losses is not a finite number.
        """
        if not bool(torch.isfinite(loss_sum)):
            raise RunError(
                f"the loss is not finite by step {self.state.step} of stage "
                f"'{self.callbacks.stage}'; lower trainer.learning_rate or "
                "trainer.embedding_learning_rate, or use precision=fp32"
            )

    def evaluate(self) -> None:
        """Look at validation, and keep the weights if they are the best so far."""
        state = self.state
        predictions = self.task.predict(
            self.network,
            self.valid,
            self.task.objective,
            batch_size=self.config.eval_batch_size,
        )
        score, metrics = self.task.score(predictions)
        state.evaluations_since_best += 1
        if score > state.best_score:
            state.best_score, state.best_step, state.best_metrics = score, state.step, metrics
            state.evaluations_since_best = 0
            _copy_into(self.best, self.network.state_dict())
        epoch = round(state.examples / len(self.train), 4)
        look: dict[str, Any] = {"stage": self.callbacks.stage, "step": state.step, "epoch": epoch}
        look |= {"score": score, "metrics": metrics}
        if self.callbacks.observe is not None:
            look["sharing"] = self.callbacks.observe(self.network)
        state.history.append(look)
        stage, number = self.callbacks.stage, len(state.history)
        told = Evaluation(stage=stage, number=number, metrics=metrics, examples=state.examples)
        self.callbacks.on_evaluation(told)

    def report(self, total_steps: int) -> None:
        """Report progress to the callbacks."""
        state = self.state
        self.callbacks.on_progress(
            Progress(
                stage=self.callbacks.stage,
                step=state.step,
                total_steps=total_steps,
                examples_per_second=state.examples / max(state.seconds, 1e-9),
                scores=state.history[-1]["metrics"] if state.history else None,
                examples=state.examples,
            )
        )

    @property
    def trained(self) -> float:
        """Seconds of training since it began or went on."""
        return self.state.seconds - self.begun_with

    def saved(self, rng: Any) -> dict[str, Any]:
        """Return what it takes to go on from here."""
        return {
            **self.ended(),
            "network": {n: _by_itself(t) for n, t in self.network.state_dict().items()},
            "balancing": {n: _by_itself(t) for n, t in self.task.balancing.state_dict().items()},
            "optimizers": self.optimizers.state_dict(),
            "rng": rng,
        }

    def save(self, rng: Any, *, at_once: bool) -> None:
        """Write what it takes to go on from here, in the time that saving may take."""
        self.pace.save(self.saved(rng), trained=self.trained, at_once=at_once)

    def interrupted(self) -> RunInterrupted:
        """Return the exception of a training that the user stopped."""
        return RunInterrupted(f"stopped by the user in stage '{self.callbacks.stage}'")

    def ended(self) -> dict[str, Any]:
        """Return what is left of it once it has ended."""
        return {"state": asdict(self.state), "best": self.best}

    def finish(self) -> FitResult:
        """Leave the best weights in the network, and keep them on disk."""
        ended = self.ended()
        self.callbacks.files.save_finished(ended)
        return result_of(ended, self.network)


def result_of(ended: Mapping[str, Any], network: SharingStrategy) -> FitResult:
    """Load the best weights of a training that had ended; return its result."""
    network.load_state_dict(ended["best"])
    state = State(**ended["state"])
    return FitResult(state.best_score, state)


def copy_weights(network: SharingStrategy) -> dict[str, Tensor]:
    """Copy all weights and buffers, by name."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _by_itself(tensor: Tensor) -> Tensor:
    """A part of a stack as a tensor of its own, for a file would hold all of the stack."""
    return tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()


def _copy_into(held: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Keep other weights in the place of those held, for two copies of a table are many bytes."""
    for name, tensor in state.items():
        held[name].copy_(tensor)
