"""One training of a stack: everything about it that is its own."""

from collections.abc import Hashable
from dataclasses import asdict

import torch
from torch import Tensor

from cvrbench.data.batches import SplitTensors
from cvrbench.errors import RunInterrupted
from cvrbench.rng import derive
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.checkpoint import Pace
from cvrbench.training.fit import FitResult, State, _check_finite, _copy, _Loop
from cvrbench.training.optimizers import build_optimizers
from cvrbench.training.together.request import FitRequest
from cvrbench.training.together.stack import can_stack

Ended = FitResult | BaseException
"""How a training ended: with a result, or why there is none."""


def is_stackable(request: FitRequest) -> bool:
    """Whether a training is still to be done and can be part of a program of several."""
    config = request.config
    in_memory = isinstance(request.train, SplitTensors)
    plain = in_memory and config.precision == "fp32" and not config.compile
    is_done = request.outside.files.finished_file.is_file()
    return plain and not is_done and can_stack(request.network)


class Member:
    """A training under way in a stack, begun anew or from its checkpoint as `fit` would."""

    def __init__(self, request: FitRequest) -> None:
        network, train, valid, task, config, epochs, seed, outside = request
        self.request = request
        self.ended: Ended | None = None
        optimizers = build_optimizers(network, config)
        state, best = State(), _copy(network)
        assert isinstance(train, SplitTensors)
        self.train, device = train, train.device
        self.generator = torch.Generator(device)
        self.generator.manual_seed(derive(seed, "fit", outside.stage))
        if (saved := outside.files.under_way()) is not None:
            state = State(**saved["state"])
            best = saved["best"]
            network.load_state_dict(saved["network"])
            optimizers.load_state_dict(saved["optimizers"])
            self.generator.set_state(_drawn_from(saved["rng"], device))
        self.loop = _Loop(
            network, optimizers, train, valid, task, config, epochs, seed, outside, state, best
        )
        self.begun_with = state.seconds
        self.pace = Pace(outside.files, config.checkpoint_seconds)
        epoch, step = state.epoch, state.step_in_epoch
        self.indices = train.indices(config.batch_size, seed, epoch=epoch, step=step)
        self.settles = type(network).after_step is not SharingStrategy.after_step
        network.train()

    @property
    def kind(self) -> Hashable:
        """What members of one program have in common, beside their run's configuration."""
        weights = self.request.network.state_dict().items()
        shapes = tuple((name, tuple(t.shape), t.dtype) for name, t in weights)
        request, step = self.request, self.loop.state.step
        return type(request.network), shapes, request.epochs, len(request.train), step

    def count(self, step: int, place: tuple[int, int], *, n_rows: int, seconds: float) -> None:
        """Note a step that was taken, `place` being its epoch and its number in it."""
        state = self.loop.state
        state.step, (state.epoch, state.step_in_epoch) = step, place
        state.examples += n_rows
        state.seconds += seconds

    def look(self, loss_sum: Tensor, *, is_due: bool, is_last: bool) -> bool:
        """Do what is due after a step; say whether the training is over."""
        loop = self.loop
        settled = self.settles and loop.network.after_step(loop.state.step)
        if not (is_due or is_last or settled):
            return False
        _check_finite(loss_sum, loop.state.step, loop.outside.stage)
        loop._evaluate()
        patience = loop.config.patience
        return is_last or settled or loop.state.evaluations_since_best >= patience

    def save(self, *, at_once: bool) -> None:
        """Write a checkpoint that the training may go on from alone or in another stack."""
        loop = self.loop
        saved = loop._saved() | {"network": _copy(loop.network)}
        device, drawn_to = self.generator.device, self.generator.get_state()
        if device.type == "cuda":
            saved["rng"]["cuda"][device.index or 0] = drawn_to
        else:
            saved["rng"]["cpu"] = drawn_to
        trained = loop.state.seconds - self.begun_with
        self.pace.save(saved, trained=trained, at_once=at_once)

    def finish(self) -> None:
        """Leave the best weights in the network, and keep them on disk; not after a failure."""
        self.indices.close()
        if self.ended is not None:
            return
        loop = self.loop
        try:
            loop.network.load_state_dict(loop.best)
            loop.outside.files.save_finished({"best": loop.best, "state": asdict(loop.state)})
        except Exception as error:
            self.ended = error
        else:
            self.ended = FitResult(loop.state.best_score, loop.state)

    def stop(self) -> None:
        """End it where it is, because the user wants to."""
        stage = self.loop.outside.stage
        self.ended = RunInterrupted(f"stopped by the user in stage '{stage}'")


def _drawn_from(rng: dict[str, Tensor | list[Tensor]], device: torch.device) -> Tensor:
    """The state of the generator that a training on a device draws from."""
    state = rng["cuda"][device.index or 0] if device.type == "cuda" else rng["cpu"]
    assert isinstance(state, Tensor)
    return state
