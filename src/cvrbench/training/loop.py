"""Train a network until validation stops improving, and leave its best weights in it.

A function, not a Trainer: it gets the training and validation rows, cannot see the test split,
and knows no strategy by name. `TrainingState` is what happens between two steps, whoever takes
them: `fit` for one training, `training.seed_group` for several at once.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, assert_never

import torch
from torch import Tensor

from cvrbench.balancing import Balancing
from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Rows
from cvrbench.errors import RunError, RunInterrupted
from cvrbench.nn import FeatureEncoder
from cvrbench.objectives import Objective
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system.rng import derive
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
from cvrbench.training.step import Forward, train_step, updates_of

Metrics = dict[str, float | None]
WARMUP = 0.05
"""Share of the steps over which the rates rise."""


class Task(NamedTuple):
    """What is optimised, and how validation is scored."""

    objective: Objective
    balancing: Balancing
    score: Callable[[Any], tuple[float, Metrics]]
    """What `predict` returns of validation -> the number that is maximised, and every metric."""
    predict: Callable[..., Predicted] = predict
    """As `evaluator.predict`; decides where the predictions then are."""


class Callbacks(NamedTuple):
    """Callbacks and checkpoint files of one training."""

    stage: str
    files: StageFiles
    on_progress: OnProgress
    stop_requested: StopRequested
    observe: Callable[[SharingStrategy], dict[str, Any]] | None = None
    """What to note of the network at every evaluation; it may change nothing."""
    on_evaluation: OnEvaluation = ignore


class TrainingJob(NamedTuple):
    """What `fit` trains, on what and how."""

    network: SharingStrategy
    train: Rows
    valid: Rows
    task: Task
    config: TrainerConfig
    epochs: float
    """At most. Part of an epoch is that part of its rows, taken at random."""
    seed: int
    """Decides the order of rows, dropout and everything else that is drawn."""
    callbacks: Callbacks


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


class FitResult(NamedTuple):
    """How a training ended."""

    score: float
    """The best validation score; the network holds the weights that reached it."""
    state: State

    @property
    def scores(self) -> dict[str, float]:
        """What these weights validate at, by the name of a task or space; the more the better.

        Its AUC, or of a ratio its RMSE with a minus.
        """
        best = [(name, v) for name, v in self.state.best_metrics.items() if v is not None]
        aucs = {name.removesuffix("_auc"): v for name, v in best if name.endswith("_auc")}
        return aucs | {name.removesuffix("_rmse"): -v for name, v in best if name.endswith("_rmse")}


def fit(job: TrainingJob) -> FitResult:
    """Train a network, stopping early on validation.

    A finished stage is answered from its checkpoint, one under way goes on from it, bit for bit.

    Raises:
        RunError: The loss is no longer finite.
        RunInterrupted: A stop was requested; the checkpoint is written.
    """
    files = job.callbacks.files
    if (done := files.finished()) is not None:
        return result_of(done, job.network)
    network, task, config = job.network, job.task, job.config
    training = TrainingState(job, files.under_way())
    torch.manual_seed(derive(job.seed, "fit", job.callbacks.stage))
    if training.rng is not None:
        torch.set_rng_state(training.rng["cpu"])
        torch.cuda.set_rng_state_all(training.rng["cuda"])
    state, optimizers = training.state, training.optimizers
    place = {"epoch": state.epoch, "step": state.step_in_epoch}
    batches = job.train.batches(config.batch_size, job.seed, **place)
    loss_sum = torch.zeros((), device=job.train.device)
    updates = updates_of(network, task.balancing)
    network.train()
    with forward_of(network, compiled=config.compile) as forward, closing(batches):
        clock = time.monotonic()
        for batch in batches:
            training.set_rate(optimizers)
            loss_sum += train_step(
                network,
                task.objective,
                task.balancing,
                batch,
                optimizers,
                updates=updates,
                forward=forward,
                bf16=config.precision == "bf16",
            )
            is_due = training.count(len(batch.labels))
            if is_due:  # before the clock: it waits for what a GPU has yet to do
                training.check_finite(loss_sum)
            now = time.monotonic()
            state.seconds, clock = state.seconds + now - clock, now
            if is_due:
                if training.evaluate():
                    break
                clock = time.monotonic()
            training.report()
            stop = job.callbacks.stop_requested()
            if stop or training.pace.is_due():
                training.save(get_rng(), at_once=stop)
                clock = time.monotonic()
            if stop:
                raise training.interrupted()
    return training.finish()


class TrainingState:
    """A training between two steps.

    Args:
        job: What is trained.
        saved: Where it was, as `save` wrote it; None: it begins.
    """

    def __init__(self, job: TrainingJob, saved: Mapping[str, Any] | None) -> None:
        network, config, balancing = job.network, job.config, job.task.balancing
        self.job = job
        self.optimizers = build_optimizers(network, config, balancing)
        self.state, self.rng = State(), None
        """Counters and history; the random state when it was saved, None if it begins."""
        weights = network.state_dict().items()
        self.best = {name: tensor.detach().clone() for name, tensor in weights}
        """The weights that validated best, by their names in the network."""
        if saved is not None:
            self.state, self.rng = State(**saved["state"]), saved["rng"]
            _copy_into(self.best, saved["best"])
            network.load_state_dict(saved["network"])
            balancing.load_state_dict(saved["balancing"])
            self.optimizers.load_state_dict(saved["optimizers"])
        self.pace = Pace(job.callbacks.files, config.checkpoint_seconds)
        self.begun_with = self.state.seconds
        self.n_steps = count_steps(len(job.train), config.batch_size, 1)
        self.total_steps = count_steps(len(job.train), config.batch_size, job.epochs)
        self.evaluate_at = evaluation_steps(self.n_steps, config.evaluations_per_epoch)
        self.is_last = False
        """Whether the step that was taken last ends the training, whatever validation says."""

    def set_rate(self, optimizers: Optimizers) -> None:
        """Set the learning rates of the next step."""
        schedule = self.job.config.schedule
        optimizers.set_rate(rate_factor(schedule, self.state.step + 1, self.total_steps))

    def count(self, examples: int) -> bool:
        """Count a step that was taken; return whether an evaluation is due."""
        state = self.state
        state.epoch, place = divmod(state.step, self.n_steps)
        state.step, state.step_in_epoch = state.step + 1, place + 1
        state.examples += examples
        settled = self.job.network.after_step(state.step)
        self.is_last = settled or state.step == self.total_steps
        return self.is_last or state.step_in_epoch in self.evaluate_at

    def check_finite(self, loss_sum: Tensor) -> None:
        """Stop a training whose loss is none.

        Raises:
            RunError: The sum of the losses is not a finite number.
        """
        if not bool(torch.isfinite(loss_sum)):
            raise RunError(
                f"the loss is not finite by step {self.state.step} of stage "
                f"'{self.job.callbacks.stage}'; lower trainer.learning_rate or "
                "trainer.embedding_learning_rate, or use precision=fp32"
            )

    def evaluate(self) -> bool:
        """Score validation, and keep the weights if they are the best so far.

        Returns:
            Whether the training is over.
        """
        job, state, stage = self.job, self.state, self.job.callbacks.stage
        size = job.config.eval_batch_size
        predicted = job.task.predict(job.network, job.valid, job.task.objective, batch_size=size)
        score, metrics = job.task.score(predicted)
        state.evaluations_since_best += 1
        if score > state.best_score:
            state.best_score, state.best_step, state.best_metrics = score, state.step, metrics
            state.evaluations_since_best = 0
            _copy_into(self.best, job.network.state_dict())
        epoch = round(state.examples / len(job.train), 4)
        found: dict[str, Any] = {"stage": stage, "step": state.step, "epoch": epoch}
        found |= {"score": score, "metrics": metrics}
        if job.callbacks.observe is not None:
            found["sharing"] = job.callbacks.observe(job.network)
        state.history.append(found)
        number = len(state.history)
        job.callbacks.on_evaluation(
            Evaluation(stage=stage, number=number, metrics=metrics, examples=state.examples)
        )
        return self.is_last or state.evaluations_since_best >= job.config.patience

    def report(self) -> None:
        """Report progress to the callbacks."""
        state = self.state
        self.job.callbacks.on_progress(
            Progress(
                stage=self.job.callbacks.stage,
                step=state.step,
                total_steps=self.total_steps,
                examples_per_second=state.examples / max(state.seconds, 1e-9),
                scores=state.history[-1]["metrics"] if state.history else None,
                examples=state.examples,
            )
        )

    def save(self, rng: Any, *, at_once: bool) -> None:
        """Write what it takes to go on from here, in the time that saving may take."""
        saved = {
            **self._ended(),
            "network": _by_themselves(self.job.network.state_dict()),
            "balancing": _by_themselves(self.job.task.balancing.state_dict()),
            "optimizers": self.optimizers.state_dict(),
            "rng": rng,
        }
        self.pace.save(saved, trained=self.state.seconds - self.begun_with, at_once=at_once)

    def interrupted(self) -> RunInterrupted:
        """Return the exception of a training that the user stopped."""
        return RunInterrupted(f"stopped by the user in stage '{self.job.callbacks.stage}'")

    def finish(self) -> FitResult:
        """Leave the best weights in the network, and keep them on disk."""
        ended = self._ended()
        self.job.callbacks.files.save_finished(ended)
        return result_of(ended, self.job.network)

    def _ended(self) -> dict[str, Any]:
        """Return what is left of it once it has ended."""
        return {"state": asdict(self.state), "best": self.best}


def result_of(ended: Mapping[str, Any], network: SharingStrategy) -> FitResult:
    """Load the best weights of a training that had ended; return its result."""
    network.load_state_dict(ended["best"])
    state = State(**ended["state"])
    return FitResult(state.best_score, state)


def count_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Steps that a training of `epochs` over `rows` takes; one at least."""
    return max(1, round(-(-rows // batch_size) * epochs))


def evaluation_steps(n_steps: int, per_epoch: int) -> frozenset[int]:
    """Steps of an epoch after which to evaluate: evenly spread, the last always among them."""
    return frozenset(max(1, round(k * n_steps / per_epoch)) for k in range(1, per_epoch + 1))


def rate_factor(schedule: Literal["constant", "warmup_cosine"], step: int, steps: int) -> float:
    """Return what the learning rates are multiplied by at step `step` (from 1) of at most `steps`.

    `warmup_cosine`: rises linearly over the first `WARMUP` of the steps, then falls towards 0 as
    (1 + cos(pi p)) / 2 (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts).
    """
    match schedule:
        case "constant":
            return 1.0
        case "warmup_cosine":
            rising = math.ceil(WARMUP * steps)
            if step <= rising:
                return step / rising
            progress = (step - rising) / (steps - rising + 1)  # at 0 a last step would do nothing
            return (1 + math.cos(math.pi * progress)) / 2
        case _:
            assert_never(schedule)


def get_rng() -> dict[str, Any]:
    """Return the random state of this process, as a checkpoint keeps it."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


@contextmanager
def forward_of(network: SharingStrategy, *, compiled: bool) -> Iterator[Forward]:
    """Return what computes a network's logits: itself, or what torch compiles of it.

    On a GPU as CUDA graphs, since launches cost most there. The compiler knows no sparse gradients,
    so that encoders stay as they are.
    """
    if not compiled:
        yield network
        return
    encoders = [module for module in network.modules() if isinstance(module, FeatureEncoder)]
    on_gpu = next(network.parameters()).device.type == "cuda"
    for encoder in encoders:
        encoder.look_up = torch.compiler.disable(encoder.look_up)  # type: ignore[method-assign]
    try:
        yield torch.compile(network, mode="reduce-overhead" if on_gpu else "default")
    finally:
        for encoder in encoders:  # a copy of the network would call this one's
            del encoder.look_up


def _by_themselves(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts of a stack as tensors of their own, for a file would hold all of the stack."""
    return {
        name: tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()
        for name, tensor in state.items()
    }


def _copy_into(held: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Keep other weights in the place of those held, for two copies of a table are many bytes."""
    for name, tensor in state.items():
        held[name].copy_(tensor)
