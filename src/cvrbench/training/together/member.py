"""One training of a stack: everything about it that is its own."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from cvrbench.config.schema import TrainerConfig
from cvrbench.data.batches import Rows, SplitTensors
from cvrbench.rng import derive
from cvrbench.strategies.base import SharingStrategy
from cvrbench.training.fit import get_rng
from cvrbench.training.together.request import FitRequest
from cvrbench.training.together.stack import can_stack
from cvrbench.training.under_way import FitResult, UnderWay

Ended = FitResult | BaseException
"""How a training ended: with a result, or why there is none."""


def is_stackable(network: SharingStrategy, rows: Rows, config: TrainerConfig) -> bool:
    """Whether a training of a network on rows can be part of a program of several."""
    in_memory = isinstance(rows, SplitTensors)
    plain = in_memory and config.precision == "fp32" and not config.compile
    return plain and can_stack(network)


def kind_of(request: FitRequest) -> Hashable:
    """What trainings of one program have in common before they begin."""
    weights = request.network.state_dict().items()
    shapes = tuple((name, tuple(t.shape), t.dtype) for name, t in weights)
    code = type(request.network), request.task.objective.kind
    return code, shapes, request.epochs, len(request.train)


class Member:
    """A training under way in a stack.

    Args:
        request: What to train.
        saved: Where it was, as `UnderWay.saved` gives it; None: it begins.
    """

    def __init__(self, request: FitRequest, saved: Mapping[str, Any] | None) -> None:
        network, train, valid, task, config, _, seed, outside = request
        self.request = request
        self.ended: Ended | None = None
        assert isinstance(train, SplitTensors)
        self.train, device = train, train.device
        self.training, rng = UnderWay.begin(network, train, valid, task, config, outside, saved)
        state = self.training.state
        self.generator = torch.Generator(device)
        self.generator.manual_seed(derive(seed, "fit", outside.stage))
        if rng is not None:
            self.generator.set_state(_drawn_from(rng, device))
        epoch, step = state.epoch, state.step_in_epoch
        self.indices = train.indices(config.batch_size, seed, epoch=epoch, step=step)
        self.settles = type(network).after_step is not SharingStrategy.after_step
        network.train()

    @property
    def kind(self) -> Hashable:
        """What members of one program have in common, beside their run's configuration."""
        return kind_of(self.request), self.training.state.step

    def count(self, step: int, place: tuple[int, int], *, n_rows: int, seconds: float) -> None:
        """Note a step that was taken, `place` being its epoch and its number in it."""
        state = self.training.state
        state.step, (state.epoch, state.step_in_epoch) = step, place
        state.examples += n_rows
        state.seconds += seconds

    def look(self, loss_sum: Tensor, *, is_due: bool, is_last: bool) -> bool:
        """Do what is due after a step; say whether the training is over."""
        training = self.training
        settled = self.settles and training.network.after_step(training.state.step)
        if not (is_due or is_last or settled):
            return False
        training.check_finite(loss_sum)
        training.evaluate()
        patience = training.config.patience
        return is_last or settled or training.state.evaluations_since_best >= patience

    def rng(self) -> dict[str, Any]:
        """Give the random state with which it goes on, alone or in another stack."""
        rng, device = get_rng(), self.generator.device
        if device.type == "cuda":
            rng["cuda"][device.index or 0] = self.generator.get_state()
        else:
            rng["cpu"] = self.generator.get_state()
        return rng

    def stop(self) -> None:
        """End it where it is, because the user wants to."""
        self.ended = self.training.interrupted()


def _drawn_from(rng: dict[str, Tensor | list[Tensor]], device: torch.device) -> Tensor:
    """The state of the generator that a training on a device draws from."""
    state = rng["cuda"][device.index or 0] if device.type == "cuda" else rng["cpu"]
    assert isinstance(state, Tensor)
    return state
