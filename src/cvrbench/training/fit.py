"""Train a network until validation stops improving, and leave its best weights in it.

A function, not a Trainer: it gets the training and validation rows, cannot see the test split,
and knows no strategy by name.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Batch, Rows
from cvrbench.errors import RunError, RunInterrupted
from cvrbench.objectives import Objective
from cvrbench.rng import derive
from cvrbench.strategies.base import Moving, SharingStrategy, Turn
from cvrbench.training.checkpoint import Pace, StageFiles
from cvrbench.training.compiled import forward_of
from cvrbench.training.optimizers import Optimizers, build_optimizers
from cvrbench.training.predict import Predictions, predict
from cvrbench.training.progress import Look, OnLook, OnProgress, Progress, StopRequested, ignore
from cvrbench.training.schedule import count_steps, evaluation_steps

Metrics = dict[str, float | None]


class Task(NamedTuple):
    """What is optimised: losses, their weights, and how validation is scored."""

    objective: Objective
    loss_weights: Tensor
    """`[tasks]`; 0 leaves a task out."""
    score: Callable[[Predictions], tuple[float, Metrics]]
    """Validation predictions -> the number that is maximised, and every metric."""


class Outside(NamedTuple):
    """A training's ties to the rest of the program."""

    stage: str
    files: StageFiles
    on_progress: OnProgress
    stop_requested: StopRequested
    observe: Callable[[SharingStrategy], dict[str, Any]] | None = None
    """What to note of the network at every look at validation; it may change nothing."""
    on_look: OnLook = ignore


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


def fit(
    network: SharingStrategy,
    train: Rows,
    valid: Rows,
    task: Task,
    config: TrainerConfig,
    *,
    epochs: float,
    seed: int,
    outside: Outside,
) -> FitResult:
    """Train `network` for at most `epochs`, stopping early on validation.

    Part of an epoch is that part of its rows, taken at random. Order of rows, dropout and
    everything else follow from `seed` alone. A finished stage is answered from its checkpoint, one
    under way goes on from it, bit for bit.

    Raises:
        RunError: The loss is no longer finite.
        RunInterrupted: A stop was requested; the checkpoint is written.
    """
    if (done := outside.files.finished()) is not None:
        network.load_state_dict(done["best"])
        state = State(**done["state"])
        return FitResult(state.best_score, state)
    optimizers = build_optimizers(network, config)
    state, best = State(), _copy(network)
    torch.manual_seed(derive(seed, "fit", outside.stage))
    if (saved := outside.files.under_way()) is not None:
        state = State(**saved["state"])
        _copy_into(best, saved["best"])
        network.load_state_dict(saved["network"])
        optimizers.load_state_dict(saved["optimizers"])
        _set_rng(saved["rng"])
        del saved
    loop = _Loop(
        network, optimizers, train, valid, task, config, epochs, seed, outside, state, best
    )
    epoch, step = state.epoch, state.step_in_epoch
    batches = train.batches(config.batch_size, seed, epoch=epoch, step=step)
    with forward_of(network, compiled=config.compile) as forward, closing(batches):
        loop.run(forward, batches)
    network.load_state_dict(loop.best)
    outside.files.save_finished({"best": loop.best, "state": asdict(state)})
    return FitResult(state.best_score, state)


@dataclass
class _Loop:
    """One training under way."""

    network: SharingStrategy
    optimizers: Optimizers
    train: Rows
    valid: Rows
    task: Task
    config: TrainerConfig
    epochs: float
    seed: int
    outside: Outside
    state: State
    best: dict[str, Tensor]
    turns: tuple[Turn, ...] = ()

    def run(self, forward: Callable[..., Tensor], batches: Iterator[Batch]) -> None:
        config, state = self.config, self.state
        n_steps = count_steps(len(self.train), config.batch_size, 1)
        total_steps = count_steps(len(self.train), config.batch_size, self.epochs)
        evaluate_at = evaluation_steps(n_steps, config.evaluations_per_epoch)
        loss_sum = torch.zeros((), device=self.train.device)
        self.turns = self.network.turns()
        pace, begun = Pace(self.outside.files, config.checkpoint_seconds), state.seconds
        clock = time.monotonic()
        self.network.train()
        while state.step < total_steps:
            while state.step_in_epoch < n_steps and state.step < total_steps:
                batch = next(batches)
                loss_sum += self._step(forward, batch)
                state.advance(len(batch.labels))
                settled = self.network.after_step(state.step)
                last = settled or state.step == total_steps
                is_due = last or state.step_in_epoch in evaluate_at
                if is_due:  # before the clock: it waits for what a GPU has yet to do
                    _check_finite(loss_sum, state.step, self.outside.stage)
                now = time.monotonic()
                state.seconds, clock = state.seconds + now - clock, now
                if is_due:
                    self._evaluate()
                    if last or state.evaluations_since_best >= config.patience:
                        return
                    clock = time.monotonic()
                self._report(total_steps)
                stop = self.outside.stop_requested()
                if stop or pace.is_due():
                    pace.save(self._saved(), trained=state.seconds - begun, at_once=stop)
                    clock = time.monotonic()
                if stop:
                    raise RunInterrupted(f"stopped by the user in stage '{self.outside.stage}'")
            state.epoch, state.step_in_epoch = state.epoch + 1, 0

    def _step(self, forward: Callable[..., Tensor], batch: Batch) -> Tensor:
        """One optimiser step on all tasks, or one per turn of the network's."""
        weights = self.task.loss_weights
        if not self.turns:
            return self._descend(forward, batch, weights, None)
        total = torch.zeros((), device=weights.device)
        for turn in self.turns:
            if turn.task is None:
                total += self._descend(forward, batch, weights, turn.moving)
            elif weights[turn.task] > 0:
                alone = torch.zeros_like(weights)
                alone[turn.task] = weights[turn.task]
                total += self._descend(forward, batch, alone, turn.moving)
        return total

    def _descend(
        self, forward: Callable[..., Tensor], batch: Batch, weights: Tensor, moving: Moving | None
    ) -> Tensor:
        device = batch.labels.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = forward(batch.features)
        losses = self.task.objective.losses(logits.float(), batch.labels, batch.weights)
        loss = (losses * weights).sum()
        if (penalty := self.network.penalty()) is not None:
            loss = loss + penalty
        self.optimizers.zero_grad()
        loss.backward()
        self.optimizers.step(moving)
        return loss.detach()

    def _evaluate(self) -> None:
        state = self.state
        predictions = predict(
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
        look: dict[str, Any] = {"stage": self.outside.stage, "step": state.step, "epoch": epoch}
        look |= {"score": score, "metrics": metrics}
        if self.outside.observe is not None:
            look["sharing"] = self.outside.observe(self.network)
        state.history.append(look)
        stage, number = self.outside.stage, len(state.history)
        told = Look(stage=stage, number=number, metrics=metrics, examples=state.examples)
        self.outside.on_look(told)

    def _report(self, total_steps: int) -> None:
        state = self.state
        self.outside.on_progress(
            Progress(
                stage=self.outside.stage,
                step=state.step,
                total_steps=total_steps,
                examples_per_second=state.examples / max(state.seconds, 1e-9),
                scores=state.history[-1]["metrics"] if state.history else None,
                examples=state.examples,
            )
        )

    def _saved(self) -> dict[str, Any]:
        """What it takes to go on from here."""
        return {
            "state": asdict(self.state),
            "best": self.best,
            "network": self.network.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "rng": _get_rng(),
        }


def _check_finite(loss_sum: Tensor, step: int, stage: str) -> None:
    if not bool(torch.isfinite(loss_sum)):
        raise RunError(
            f"the loss is not finite by step {step} of stage '{stage}'; lower "
            "trainer.learning_rate or trainer.embedding_learning_rate, or use precision=fp32"
        )


def _copy(network: SharingStrategy) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _copy_into(held: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Keep other weights in the place of those held, for two copies of a table are many bytes."""
    for name, tensor in state.items():
        held[name].copy_(tensor)


def _get_rng() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
