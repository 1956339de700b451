"""Train a network until validation stops improving, and leave its best weights in it.

A function, not a Trainer: it gets the training and validation rows, cannot see the test split,
and knows no strategy by name.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Batch, Rows
from cvrbench.nn import FeatureEncoder
from cvrbench.strategies.base import SharingStrategy
from cvrbench.system.rng import derive
from cvrbench.training.schedule import count_steps, evaluation_steps, rate_factor
from cvrbench.training.state import Callbacks, FitResult, Task, TrainingState, result_of
from cvrbench.training.step import Forward, train_step, updates_of


def fit(
    network: SharingStrategy,
    train: Rows,
    valid: Rows,
    task: Task,
    config: TrainerConfig,
    *,
    epochs: float,
    seed: int,
    callbacks: Callbacks,
) -> FitResult:
    """Train `network` for at most `epochs`, stopping early on validation.

    Part of an epoch is that part of its rows, taken at random. Order of rows, dropout and
    everything else follow from `seed` alone. A finished stage is answered from its checkpoint, one
    under way goes on from it, bit for bit.

    Raises:
        RunError: The loss is no longer finite.
        RunInterrupted: A stop was requested; the checkpoint is written.
    """
    if (done := callbacks.files.finished()) is not None:
        return result_of(done, network)
    saved = callbacks.files.under_way()
    training, rng = TrainingState.begin(network, train, valid, task, config, callbacks, saved)
    torch.manual_seed(derive(seed, "fit", callbacks.stage))
    if rng is not None:
        _set_rng(rng)
    state = training.state
    batches = train.batches(config.batch_size, seed, epoch=state.epoch, step=state.step_in_epoch)
    with forward_of(network, compiled=config.compile) as forward, closing(batches):
        _Steps(training, forward).take(batches, epochs)
    return training.finish()


@dataclass(frozen=True)
class _Steps:
    """The steps of one training."""

    training: TrainingState
    forward: Forward

    def take(self, batches: Iterator[Batch], epochs: float) -> None:
        training = self.training
        network, config, state = training.network, training.config, training.state
        n_steps = count_steps(len(training.train), config.batch_size, 1)
        total_steps = count_steps(len(training.train), config.batch_size, epochs)
        evaluate_at = evaluation_steps(n_steps, config.evaluations_per_epoch)
        loss_sum = torch.zeros((), device=training.train.device)
        updates = updates_of(network, training.task.balancing)
        clock = time.monotonic()
        network.train()
        while state.step < total_steps:
            while state.step_in_epoch < n_steps and state.step < total_steps:
                batch = next(batches)
                factor = rate_factor(config.schedule, state.step + 1, total_steps)
                training.optimizers.set_rate(factor)
                loss_sum += train_step(
                    network,
                    training.task.objective,
                    training.task.balancing,
                    batch,
                    training.optimizers,
                    updates=updates,
                    forward=self.forward,
                    bf16=config.precision == "bf16",
                )
                state.advance(len(batch.labels))
                settled = network.after_step(state.step)
                last = settled or state.step == total_steps
                is_due = last or state.step_in_epoch in evaluate_at
                if is_due:  # before the clock: it waits for what a GPU has yet to do
                    training.check_finite(loss_sum)
                now = time.monotonic()
                state.seconds, clock = state.seconds + now - clock, now
                if is_due:
                    training.evaluate()
                    if last or state.evaluations_since_best >= config.patience:
                        return
                    clock = time.monotonic()
                training.report(total_steps)
                stop = training.callbacks.stop_requested()
                if stop or training.pace.is_due():
                    training.save(get_rng(), at_once=stop)
                    clock = time.monotonic()
                if stop:
                    raise training.interrupted()
            state.epoch, state.step_in_epoch = state.epoch + 1, 0


def get_rng() -> dict[str, Any]:
    """Return the random state of this process, as a checkpoint keeps it."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


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


class TrainingJob(NamedTuple):
    """The arguments of `fit`."""

    network: SharingStrategy
    train: Rows
    valid: Rows
    task: Task
    config: TrainerConfig
    epochs: float
    seed: int
    callbacks: Callbacks

    def alone(self) -> FitResult:
        """Train it without others."""
        network, train, valid, task, config, epochs, seed, callbacks = self
        return fit(
            network, train, valid, task, config, epochs=epochs, seed=seed, callbacks=callbacks
        )
